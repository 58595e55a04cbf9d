"""Register with timm and smp in a program that has not imported this package, and never make it fail.

The file of `rsq autoload` calls this when timm or smp is about to be imported. Files that earlier versions wrote do so
too: this module and `find_spec` keep their names.
"""
import warnings
from functools import partial
from typing import Callable

from rsq_backbone._import_hooks import finder
from rsq_backbone.errors import one_line

__all__ = ['find_spec']

find_spec = finder.find_spec


def _warn_instead_of_failing(name: str, register: Callable[[], object]) -> None:
    # Whoever wrote `import rsq_backbone` wants its networks and gets the error; here somebody only imports timm.
    try:
        register()
    except Exception as e:
        warnings.warn(
            f'rsq_backbone could not register its networks with {name}: {type(e).__name__}: {one_line(e)} '
            '("rsq autoload off" keeps it from trying)', RuntimeWarning, stacklevel=3)


for _name, _register in finder.callbacks.items():
    finder.callbacks[_name] = partial(_warn_instead_of_failing, _name, _register)

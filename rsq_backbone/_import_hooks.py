"""Run something once a module has been imported, without importing it now.

timm and smp find no plugins by themselves, so importing this package must register with them; but importing them takes
seconds, which neither `rsq --help` nor a process that serves an exported model without torch should pay. So the
registration waits for whoever imports timm or smp, unless that has happened already.
"""
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Callable, Dict, Optional, Sequence

__all__ = ['when_imported']


class _CallingLoader(Loader):
    """Hand a module to its own loader, then call back; leaves no trace on the module."""

    def __init__(self, loader: Loader, callback: Callable[[], None]) -> None:
        self.loader = loader
        self.callback = callback

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.callback()


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self.callbacks: Dict[str, Callable[[], None]] = {}

    def find_spec(
            self, name: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        callback = self.callbacks.pop(name, None)  # removed first: the search below comes through here again
        if callback is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            self.callbacks[name] = callback
            return None
        spec.loader = _CallingLoader(spec.loader, callback)
        return spec


_finder = _Finder()


def when_imported(name: str, callback: Callable[[], None]) -> None:
    """Call `callback` after the top-level module `name` has been imported, at once if it already is."""
    if name in sys.modules:
        callback()
        return
    _finder.callbacks[name] = callback
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)

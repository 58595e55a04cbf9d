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
from typing import Callable, Dict, Optional, Sequence, Set

__all__ = ['when_imported']


class _CallingLoader(Loader):
    """Hand a module to its own loader, then call back; leaves no trace on the module."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> Optional[ModuleType]:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        callback = _finder.callbacks.pop(module.__name__, None)
        if callback is not None:  # a spec may be executed more than once
            callback()


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self.callbacks: Dict[str, Callable[[], object]] = {}
        self.searching: Set[str] = set()

    def find_spec(
            self, name: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if name not in self.callbacks or name in self.searching:
            return None
        self.searching.add(name)  # the search for the real finder comes through here again
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching.discard(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _CallingLoader(spec.loader)
        return spec


_finder = _Finder()


def when_imported(name: str, callback: Callable[[], object]) -> None:
    """Call `callback` after the top-level module `name` has been imported, at once if it already is."""
    if name in sys.modules:
        callback()
        return
    _finder.callbacks[name] = callback
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)

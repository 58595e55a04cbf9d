"""Run something once a module has been imported, without importing it now.

timm and smp find no plugins by themselves, so importing this package must register with them; but importing them takes
seconds, which neither `rsq --help` nor a process that serves an exported model without torch should pay. So the
registration waits for whoever imports timm or smp, unless that has happened already.
"""
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Sequence, Set

__all__ = ['finder', 'when_imported']


class _CallingLoader:
    """Does all that a module's own loader does, then calls back; leaves no trace on the module."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        # For those who ask the loader for data, sources or code instead of importing (pkgutil, runpy, inspect).
        if name == 'loader':  # not there yet, in a copy that is being made
            raise AttributeError(name)
        return getattr(self.loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        callback = finder.callbacks.pop(module.__name__, None)
        if callback is not None:  # a spec may be executed more than once
            callback()


class _Finder:
    """An entry of `sys.meta_path` that lets the others find a module and has its loader call back."""

    def __init__(self) -> None:
        self.callbacks: Dict[str, Callable[[], object]] = {}
        self._searching: Set[str] = set()

    def find_spec(
            self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None,
    ) -> Optional[ModuleSpec]:
        if name not in self.callbacks:
            return None
        if name in self._searching:  # asked by one of those it asks, such as a second hook of this kind
            return None
        self._searching.add(name)  # of one thread at a time: importlib holds its lock meanwhile
        try:
            spec = self._ask_others(name, path, target)
        finally:
            self._searching.discard(name)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            spec.loader = _CallingLoader(spec.loader)  # type: ignore[assignment]
        return spec

    def _ask_others(
            self, name: str, path: Optional[Sequence[str]], target: Optional[ModuleType]) -> Optional[ModuleSpec]:
        for other in list(sys.meta_path):
            if other is not self and hasattr(other, 'find_spec'):
                spec = other.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None


finder = _Finder()


def when_imported(name: str, callback: Callable[[], object]) -> None:
    """Call `callback` after the module `name` has been imported, at once if it already is."""
    if name in sys.modules:
        callback()
        return
    finder.callbacks[name] = callback
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)

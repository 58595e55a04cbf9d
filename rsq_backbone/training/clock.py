"""How long each part of a run took."""
import time
from typing import Dict

__all__ = ['Clock']


class Clock:
    """Runs from its making on."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: Dict[str, float] = {}

    def lap(self, what: str) -> None:
        """What was done since the lap before."""
        now = time.perf_counter()
        self._laps[what] = now - self._last
        self._last = now

    def seconds(self) -> Dict[str, float]:
        """Of each lap, and `total`."""
        return {**self._laps, 'total': self._last - self._start}

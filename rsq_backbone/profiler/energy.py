"""Energy that processors say they used (Intel's and AMD's RAPL, as Linux's powercap shows it)."""
from typing import Dict, Optional

from rsq_backbone.machine import system_file

__all__ = ['EnergyMeter']

_ZONES = '/sys/class/powercap/intel-rapl:{}'  # AMD's processors are listed under this name too


class EnergyMeter:
    """Joules of all processor packages, whatever ran on them and what they use when idle included.

    Linux lets only the administrator read the counters unless it is told otherwise, and most virtual machines have
    none: then there is no answer.
    """

    def __init__(self) -> None:
        self._before = _counters()

    def lap(self) -> Optional[float]:
        """Since the last lap, or since the meter was made; None where nothing tells."""
        before, self._before = self._before, _counters()
        if not before or before.keys() != self._before.keys():
            return None
        microjoules = 0
        for zone, count in self._before.items():
            used = count - before[zone]
            if used < 0:  # the counter has begun anew
                limit = _number(f'{_ZONES.format(zone)}/max_energy_range_uj')
                if limit is None:
                    return None
                used += limit
            microjoules += used
        return microjoules / 1e6


def _counters() -> Dict[int, int]:
    """Microjoules by package; empty unless all packages tell."""
    found: Dict[int, int] = {}
    while (name := system_file(f'{_ZONES.format(len(found))}/name')) is not None:
        count = _number(f'{_ZONES.format(len(found))}/energy_uj')
        if count is None or not name.startswith('package'):
            return {}
        found[len(found)] = count
    return found


def _number(path: str) -> Optional[int]:
    text = system_file(path)
    return int(text) if text is not None and text.isdigit() else None

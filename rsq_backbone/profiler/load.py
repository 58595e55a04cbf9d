"""What else a machine did while something was measured on it."""
import os
import re
import time
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Set, Tuple

import psutil

from rsq_backbone.machine import system_file
from rsq_backbone.profiler.cores import core_list
from rsq_backbone.profiler.gpu import gpu_processes
from rsq_backbone.profiler.profile import Load

__all__ = ['FOREIGN_CORES_NOTICED', 'LoadWatch', 'disturbances']

FOREIGN_CORES_NOTICED = 0.1
_LOAD_AVERAGE_NOTICED = 0.5
_STEAL_NOTICED = 0.02
_SLOWER_CLOCK_NOTICED = 0.1


class LoadWatch:
    """Tells, lap by lap, what the machine did besides the work of this process and of all processes it has started.

    A lap ends where the work does: a core that has gone idle lowers its frequency, which looks as if it had been slow.
    """

    def __init__(self, gpu: bool = False) -> None:
        """
        Args:
            gpu: Also look for other processes on the GPUs.
        """
        self._gpu = gpu
        self._load_average = _load_average()
        self._start = _take_reading()

    def lap(self) -> Load:
        """The time since the last lap, or since the watch was made."""
        before, now = self._start, _take_reading()
        self._start = now
        seconds = now.clock - before.clock
        wanted = now.busy + now.stolen - before.busy - before.stolen
        foreign = None
        if before.own is not None and now.own is not None:
            foreign = max(now.busy - before.busy - (now.own - before.own), 0.0) / seconds
        pressure = None
        if before.waited is not None and now.waited is not None:
            pressure = (now.waited - before.waited) / seconds
        throttled = None
        if before.throttled is not None and now.throttled is not None:
            throttled = now.throttled - before.throttled
        return Load(
            foreign_cores=foreign,
            steal=(now.stolen - before.stolen) / wanted if wanted > 0 and psutil.LINUX else None,
            pressure=pressure,
            frequency_before=before.frequency,
            frequency_after=now.frequency,
            temperature_before=before.temperature,
            temperature_after=now.temperature,
            throttled=throttled,
            load_average_before=self._load_average,
            load_average_after=_load_average(),
            foreign_gpu_processes=_foreign_gpu_processes() if self._gpu else None,
        )


def disturbances(loads: Sequence[Load]) -> List[str]:
    """What speaks against measurements taken under these loads, a line each; empty where nothing was noticed."""
    watches: List[Tuple[Callable[[Load], Optional[float]], float, str]] = [
        (lambda load: load.foreign_cores, FOREIGN_CORES_NOTICED, 'other processes kept {:.2f} cores busy'),
        (lambda load: load.steal, _STEAL_NOTICED, 'the hypervisor took {:.0%} of the time'),
        (_slower_clock, _SLOWER_CLOCK_NOTICED, 'the frequency fell by {:.0%}'),
        (lambda load: load.throttled, 0, 'a core slowed itself down {:.0f} times because it was hot'),
        (lambda load: load.foreign_gpu_processes, 0, '{:.0f} other processes were on the GPU'),
    ]
    if all(load.foreign_cores is None for load in loads):  # then the load average is all there is to go by
        watches.append((
            lambda load: load.load_average_before and load.load_average_before[0], _LOAD_AVERAGE_NOTICED,
            'the load average was {:.1f} before the run'))
    said = []
    for value, threshold, text in watches:
        found = [v for v in map(value, loads) if v is not None and v > threshold]
        if found:
            several = f', at the worst; in {len(found)} of {len(loads)} cases' if len(loads) > 1 else ''
            said.append(text.format(max(found)) + several)
    return said


def _slower_clock(load: Load) -> Optional[float]:
    if not load.frequency_before or load.frequency_after is None:
        return None
    return 1 - load.frequency_after / load.frequency_before


@dataclass(frozen=True)
class _Reading:
    clock: float  # seconds, as all of these down to waited
    busy: float  # of all cores, since the machine started
    stolen: float
    own: Optional[float]
    waited: Optional[float]
    frequency: Optional[float]
    temperature: Optional[float]
    throttled: Optional[int]


def _take_reading() -> _Reading:
    # The slow ones first: those that are subtracted from each other have to be of the same moment.
    frequency, temperature, throttled = _frequency(), _temperature(), _throttled()
    own, times, waited = _own_seconds(), psutil.cpu_times(), _waited()
    fields = ('user', 'nice', 'system', 'irq', 'softirq')  # user holds what guests used
    return _Reading(
        clock=time.perf_counter(),
        busy=sum(getattr(times, field, 0.0) for field in fields),
        stolen=getattr(times, 'steal', 0.0),
        own=own, waited=waited, frequency=frequency, temperature=temperature, throttled=throttled,
    )


def _own_seconds() -> Optional[float]:
    """CPU time of this process and of all that descend from it, whether they live on, ended or wait to be collected.

    A process's own count takes in a child only when that one has ended, so the living ones are asked as well. Windows
    never adds a child's time to its parent's, so there the time of those that ended is lost, and the answer is None.
    """
    if psutil.WINDOWS:
        return None
    used = os.times()
    total = used.user + used.system + used.children_user + used.children_system
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:  # ended since it was listed
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _waited() -> Optional[float]:
    found = re.search(r'^some .*total=(\d+)', system_file('/proc/pressure/cpu') or '', re.MULTILINE)
    return int(found[1]) / 1e6 if found else None


def _frequency() -> Optional[float]:
    try:
        return max((core.current for core in psutil.cpu_freq(percpu=True)), default=None)
    except (AttributeError, NotImplementedError, OSError, RuntimeError, TypeError):  # each on some system
        return None


def _temperature() -> Optional[float]:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, 'sensors_temperatures') else {}
    return max((sensor.current for kind in sensors.values() for sensor in kind), default=None)


def _throttled() -> Optional[int]:
    folder = '/sys/devices/system/cpu'
    counts = [system_file(f'{folder}/cpu{core}/thermal_throttle/core_throttle_count')
              for core in core_list(system_file(f'{folder}/online') or '')]
    found = [int(count) for count in counts if count is not None]
    return sum(found) if found else None


def _load_average() -> Optional[Tuple[float, float, float]]:
    return os.getloadavg() if hasattr(os, 'getloadavg') else None


def _foreign_gpu_processes() -> Optional[int]:
    users = gpu_processes()
    if users is None:
        return None
    own: Set[int] = {os.getpid(), *(process.pid for process in psutil.Process().children(recursive=True))}
    return len(users.keys() - own)

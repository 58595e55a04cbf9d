"""The cores that a process may use, and keeping it on some of them."""
from typing import FrozenSet, Iterable, Iterator, List, Optional, Sequence, Set

import psutil

from rsq_backbone.errors import UserError
from rsq_backbone.machine import system_file

__all__ = ['affinity', 'cgroup_limits', 'core_list', 'cpu_quota', 'pin', 'usable_cores']


def affinity() -> Optional[List[int]]:
    """Logical cores that this process may run on; None where the system has no such thing (macOS)."""
    return sorted(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, 'cpu_affinity') else None


def pin(cores: Sequence[int]) -> None:
    """Keep this process on the logical `cores`.

    Threads that run already stay where they are, so it has to come before the runtimes are imported.

    Raises:
        UserError: for cores that this process may not use, and where the system cannot pin.
    """
    allowed = affinity()
    if allowed is None:
        raise UserError('this system cannot pin a process to cores: leave the cores out')
    if not cores or not set(cores) <= set(allowed):
        raise UserError(f'cannot pin to the cores {", ".join(map(str, cores)) or "of an empty list"}: '
                        f'this process may use {", ".join(map(str, allowed))}')
    psutil.Process().cpu_affinity(list(cores))


def usable_cores() -> int:
    """Physical cores that this process may keep busy, after its affinity and its control group's quota; at least 1.

    Two threads on one physical core share its arithmetic units, so more threads than this seldom help.
    """
    count = _physical(affinity()) or psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    quota = cpu_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def _physical(logical: Optional[List[int]]) -> Optional[int]:
    """Physical cores among logical ones; None where the system does not tell."""
    siblings = [system_file(f'/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list')
                for core in logical or ()]
    return len(set(siblings)) if siblings and None not in siblings else None


def core_list(text: str) -> FrozenSet[int]:
    """Of Linux's notation: '0-2,5' are the cores 0, 1, 2 and 5."""
    cores: Set[int] = set()
    for part in filter(None, text.replace(' ', ',').split(',')):
        first, _, last = part.partition('-')
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def cpu_quota() -> Optional[float]:
    """Cores that the control group of this process may keep busy, None without a quota (cgroup v1 and v2)."""
    quotas = []
    for text in cgroup_limits('', 'cpu.max'):
        quota, period = text.split()
        if quota != 'max':
            quotas.append(int(quota) / int(period))
    periods = cgroup_limits('cpu', 'cpu.cfs_period_us')
    for quota, period in zip(cgroup_limits('cpu', 'cpu.cfs_quota_us'), periods, strict=True):
        if int(quota) > 0:  # -1 is none
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cgroup_limits(controller: str, file: str) -> Iterable[str]:
    """What `file` says in this process's control group and in those around it, whose limits hold as well.

    Args:
        controller: Of cgroup v1; empty for v2.
        file: Its name in the folder of a group.
    """
    for line in (system_file('/proc/self/cgroup') or '').splitlines():
        _, controllers, path = line.split(':', 2)
        if controller not in controllers.split(','):
            continue
        # A hybrid system keeps v2 in a folder of its own. From inside a container, the path may name a group that
        # only the host sees; the container's own group is then at the top.
        for mount in [controllers] if controllers else ['', 'unified']:
            for group in _upwards(path):
                text = system_file(f'/sys/fs/cgroup/{mount}/{group}/{file}')
                if text:
                    yield text


def _upwards(path: str) -> Iterator[str]:
    parts = [part for part in path.split('/') if part not in ('', '..')]
    for length in range(len(parts), -1, -1):
        yield '/'.join(parts[:length])

"""What the machine is, as far as a timing or a peak of memory depends on it."""
import os
import platform
import re
from contextlib import suppress
from typing import Dict, List, Optional, Set, Tuple

import psutil

from rsq_backbone.machine import cpu_flags, cpu_name, system_file
from rsq_backbone.profiler.cores import affinity, cgroup_limits, core_list, cpu_quota, usable_cores
from rsq_backbone.profiler.gpu import gpus
from rsq_backbone.profiler.profile import Cache, CoreGroup, Environment

__all__ = ['caches', 'environment']

_INSTRUCTION_SETS = (
    'sse4_1', 'sse4_2', 'avx', 'f16c', 'fma', 'avx2', 'avx_vnni', 'avx512f', 'avx512dq', 'avx512bw', 'avx512vl',
    'avx512_vnni', 'avx512_bf16', 'avx512_fp16', 'amx_tile', 'amx_int8', 'amx_bf16', 'avx10',
    'neon', 'asimd', 'fphp', 'asimdhp', 'asimddp', 'i8mm', 'bf16', 'sve', 'sve2', 'sme',
)
_VARIABLES = (
    'OMP_', 'GOMP_', 'KMP_', 'MKL_', 'OPENBLAS_', 'ONEDNN_', 'DNNL_', 'ATEN_', 'TORCHINDUCTOR_', 'PYTORCH_', 'MALLOC_',
    'LD_PRELOAD', 'CUDA_VISIBLE_DEVICES')
_CPU = '/sys/devices/system/cpu'
_NO_LIMIT = 1 << 60  # cgroup v1 says "no limit" with a number near 2 ** 63


def environment() -> Environment:
    """The machine that this process runs on, as it is now."""
    import torch

    flags = cpu_flags()
    memory = psutil.virtual_memory()
    return {
        'cpu': cpu_name(),
        'architecture': platform.machine(),
        'instruction_sets': [name for name in _INSTRUCTION_SETS if name in flags] if flags else None,
        'physical_cores': psutil.cpu_count(logical=False),
        'logical_cores': psutil.cpu_count(),
        'affinity': affinity(),
        'cpu_quota': cpu_quota(),
        'usable_cores': usable_cores(),
        'core_groups': _core_groups(),
        'caches': caches(),
        'hypervisor': _hypervisor(),
        'memory': memory.total,
        'memory_available': memory.available,
        'memory_limit': _memory_limit(),
        'swap': _swap(),
        'power': _power(),
        'system': platform.platform(),
        'python': platform.python_version(),
        'gpus': gpus(),
        'cuda': torch.version.cuda,
        'variables': {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)},
    }


def _core_groups() -> List[CoreGroup]:
    groups: Dict[Tuple[Optional[float], Optional[float], Optional[str], Optional[str]], Set[int]] = {}
    for core in _all_cores():
        policy = f'{_CPU}/cpu{core}/cpufreq'
        low, high = (_megahertz(system_file(f'{policy}/cpuinfo_{end}_freq')) for end in ('min', 'max'))
        governor, driver = (system_file(f'{policy}/scaling_{name}') for name in ('governor', 'driver'))
        if high is not None or governor is not None:
            groups.setdefault((low, high, governor, driver), set()).add(core)
    found: List[CoreGroup] = [
        {'cores': sorted(cores), 'min_frequency': low, 'max_frequency': high, 'governor': governor, 'driver': driver}
        for (low, high, governor, driver), cores in groups.items()]
    return sorted(found, key=lambda group: -(group['max_frequency'] or 0))


def caches() -> List[Cache]:
    """Of all cores, from the smallest level up; none where the system does not tell."""
    kinds: Dict[Tuple[int, str, int], Set[str]] = {}  # the cores that share one tell it from the others of its kind
    for core in _all_cores():
        index = 0
        while (level := system_file(f'{_CPU}/cpu{core}/cache/index{index}/level')) is not None:
            folder = f'{_CPU}/cpu{core}/cache/index{index}'
            kind, size, shared = (system_file(f'{folder}/{name}') for name in ('type', 'size', 'shared_cpu_list'))
            if kind and size:
                kinds.setdefault((int(level), kind.lower(), _size(size)), set()).add(shared or str(core))
            index += 1
    return [{'level': level, 'type': kind, 'size': size, 'count': len(shared)}
            for (level, kind, size), shared in sorted(kinds.items())]


def _all_cores() -> List[int]:
    return sorted(core_list(system_file(f'{_CPU}/online') or ''))


def _megahertz(kilohertz: Optional[str]) -> Optional[float]:
    return int(kilohertz) / 1000 if kilohertz and kilohertz.isdigit() else None


def _size(text: str) -> int:
    number, unit = re.fullmatch(r'(\d+)([KMG]?)', text).groups()  # type: ignore[union-attr]
    return int(number) << {'': 0, 'K': 10, 'M': 20, 'G': 30}[unit]


def _hypervisor() -> Optional[str]:
    vendor, product = (system_file(f'/sys/class/dmi/id/{name}') for name in ('sys_vendor', 'product_name'))
    name = system_file('/sys/hypervisor/type') or ' '.join(filter(None, (vendor, product)))
    flags = cpu_flags()
    if 'hypervisor' in flags:
        return name or 'unknown'
    if flags and not flags.isdisjoint({'sse2', 'lm'}):  # only x86 processors tell
        return 'none'
    return None


def _memory_limit() -> Optional[int]:
    texts = [*cgroup_limits('', 'memory.max'), *cgroup_limits('memory', 'memory.limit_in_bytes')]
    return min((int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT), default=None)


def _swap() -> Optional[int]:
    with suppress(OSError, RuntimeError):
        return psutil.swap_memory().total
    return None


def _power() -> Optional[str]:
    battery = None
    with suppress(OSError, AttributeError):  # psutil has no such function on some systems
        battery = psutil.sensors_battery()
    if battery is None or battery.power_plugged is None:
        return None
    return 'mains' if battery.power_plugged else 'battery'

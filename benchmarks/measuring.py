"""How the benchmarks measure: interleaved rounds, medians with intervals, peak memory, and what the machine is."""
import gc
import multiprocessing
import os
import platform
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Tuple, TypeVar

import torch

from rsq_backbone.machine import cpu_name
from rsq_backbone.profiler.process_memory import peak_resident

T = TypeVar('T')

WARM_UP_LIMIT_S = 3.0
BLOCK_S = 0.1

NO_PEAK_MEMORY = '' if peak_resident() is not None else f'{platform.system()} does not tell the peak of a process'


def set_threads(count: int) -> None:
    torch.set_num_threads(count)
    if torch.get_num_threads() != count:
        raise RuntimeError(f'asked PyTorch for {count} threads, it uses {torch.get_num_threads()}')


@dataclass(frozen=True)
class WarmUp:
    calls: int
    steady: bool
    seconds_per_call: float


def warm_up(call: Callable[[], Any]) -> WarmUp:
    """Call until the last five calls take as long as the five before them (within 5 %), or the limit has passed."""
    times: List[float] = []
    while True:
        times.append(_seconds(call))
        last = statistics.median(times[-5:])
        steady = len(times) >= 10 and abs(last / statistics.median(times[-10:-5]) - 1) <= 0.05
        if steady or sum(times) > WARM_UP_LIMIT_S:
            return WarmUp(len(times), steady, last)


def interleaved_rounds(
        calls: Mapping[str, Callable[[], Any]],
        seconds_per_call: Mapping[str, float],
        rounds: int,
        seed: int,
        advance: Callable[[], None],
) -> Dict[str, List[float]]:
    """Seconds per call of each case, one value a round; values at the same place belong to the same round.

    A round takes the cases in a random order and then back again (A B C C B A), so that neither a steady drift of the
    machine nor the neighbour in the order favours a case. Each visit starts with a call that is not counted, for
    the caches, and gives the median of its calls.
    """
    rng = random.Random(seed)
    samples: Dict[str, List[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            order = rng.sample(list(calls), len(calls))
            visits: Dict[str, List[float]] = {name: [] for name in calls}
            for name in order + order[::-1]:
                count = min(max(round(BLOCK_S / seconds_per_call[name]), 3), 100)
                calls[name]()
                visits[name].append(statistics.median(_seconds(calls[name]) for _ in range(count)))
                advance()
            for name, values in visits.items():
                samples[name].append(statistics.mean(values))
    finally:
        gc.enable()
    return samples


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory(job: Callable[..., Any], *args: Any) -> int:
    """Peak resident bytes of a fresh process that runs `job`, while this one waits without spinning."""
    return result_and_peak_memory(job, *args)[1]


def result_and_peak_memory(job: Callable[..., T], *args: Any) -> Tuple[T, int]:
    """What `job` returns in a fresh process, and that process's peak resident bytes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        return pool.submit(_run_and_read_peak, job, *args).result()


def _run_and_read_peak(job: Callable[..., T], *args: Any) -> Tuple[T, int]:
    result = job(*args)
    peak = peak_resident()
    if peak is None:
        raise RuntimeError(NO_PEAK_MEMORY)
    return result, peak


def environment() -> Dict[str, Any]:
    """The machine and the versions that a timing depends on."""
    import timm
    import torchvision

    watched = ('OMP_', 'KMP_', 'GOMP_', 'MKL_', 'ONEDNN_', 'DNNL_', 'ATEN_', 'MALLOC_', 'LD_PRELOAD')
    return {
        'cpu': cpu_name(),
        'cores': os.cpu_count(),
        'cpu_capability': torch.backends.cpu.get_cpu_capability(),
        'system': platform.platform(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
        'timm': timm.__version__,
        'variables': {key: value for key, value in os.environ.items() if key.startswith(watched)},
    }

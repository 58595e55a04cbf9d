"""The most that this machine does, and the time that a network would take if it did it all along."""
import time
from contextlib import contextmanager
from functools import partial
from typing import Callable, Iterator, Tuple

import torch

from rsq_backbone.profiler.environment import caches
from rsq_backbone.profiler.profile import Peaks, Work
from rsq_backbone.runtimes.eager import pytorch_threads

__all__ = ['measure_peaks', 'roofline']

_SIZES = (256, 512, 1024, 2048, 4096, 8192)  # of the square matrices; the larger, the closer to the peak
_CALL_LIMIT_S = 0.25  # no size whose product would take longer
_CALLS = 3
_COPY_BYTES = 64 * 2 ** 20
_COPY_LIMIT_BYTES = 512 * 2 ** 20
_FLOAT32 = 4


def measure_peaks(threads: int, device: str = 'cpu') -> Peaks:
    """The best of several float32 matrix products and of several copies; takes a second or two.

    A copy counts what it reads and what it writes. Each of its two buffers is as large as the last-level cache, and 64
    to 512 MB, so that the cache does not hold both.

    Args:
        threads: Of PyTorch, on the CPU; set back afterwards.
        device: 'cpu' or 'cuda'. TensorFloat-32 stays off, as it is not float32.
    """
    with torch.inference_mode(), pytorch_threads(threads), _without_tf32():
        return Peaks(threads, device, _macs_per_second(device), _bytes_per_second(device))


def roofline(work: Work, batch: int, peaks: Peaks) -> Tuple[float, str]:
    """Seconds that a batch takes on a machine that reaches these peaks, and what most of them go to.

    Each stage takes the larger of two times, that of its multiply-accumulates and that of its bytes. Stages run one
    after the other, so their times add up. The larger of the two totals would be too low: it takes for granted that
    memory fetches what a later stage needs while an earlier one is still at its arithmetic.

    The bytes are those of main memory. A processor whose caches hold the activations may be faster than this.

    Returns:
        Seconds, and 'compute' or 'memory'.
    """
    seconds = {'compute': 0.0, 'memory': 0.0}
    for stage in work.stages:
        weights = _FLOAT32 * stage.parameters
        compute = batch * stage.macs / peaks.macs_per_second
        memory = (weights + batch * (stage.bytes_moved - weights)) / peaks.bytes_per_second
        seconds['compute' if compute >= memory else 'memory'] += max(compute, memory)
    return sum(seconds.values()), max(seconds, key=lambda bound: seconds[bound])


def _macs_per_second(device: str) -> float:
    best = 0.0
    for size in _SIZES:
        a = torch.rand(size, size, device=device)
        b = torch.rand(size, size, device=device)
        out = torch.empty(size, size, device=device)
        seconds = _fastest(partial(torch.mm, a, b, out=out), device)
        best = max(best, size ** 3 / seconds)
        if 8 * seconds > _CALL_LIMIT_S:
            break
    return best


def _bytes_per_second(device: str) -> float:
    size = min(max([_COPY_BYTES, *(cache['size'] for cache in caches())]), _COPY_LIMIT_BYTES)
    source = torch.ones(size // _FLOAT32, device=device)
    target = torch.zeros_like(source)
    return 2 * target.nbytes / _fastest(lambda: target.copy_(source), device)


def _fastest(call: Callable[[], object], device: str) -> float:
    """Of a few calls, after one that wakes the threads and loads the code."""
    call()
    best = float('inf')
    for _ in range(_CALLS):
        _finish(device)
        start = time.perf_counter()
        call()
        _finish(device)
        best = min(best, time.perf_counter() - start)
    return best


def _finish(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

"""Peaks by a clock that the test moves, and the roofline by hand."""
from typing import Any, Dict, Tuple

import pytest
import torch

from rsq_backbone.profiler import peaks as peaks_module
from rsq_backbone.profiler.peaks import measure_peaks, roofline
from rsq_backbone.profiler.profile import Peaks, StageWork, Work

MACS, BANDWIDTH = 2e9, 5e9  # of the machine that is played
MIB = 2 ** 20


class Machine:
    """Takes the time that its arithmetic and its memory need. Every third call is undisturbed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.calls: Dict[Any, int] = {}
        self.threads = set()
        self.precisions = set()
        monkeypatch.setattr(peaks_module, 'time', self)
        monkeypatch.setattr(peaks_module, 'caches', list)
        monkeypatch.setattr(torch, 'mm', self.mm)
        monkeypatch.setattr(torch.Tensor, 'copy_', lambda target, source: self.copy(target, source))

    def perf_counter(self) -> float:
        return self.now

    def _take(self, what: Any, seconds: float) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1
        self.now += seconds if self.calls[what] % 3 == 0 else 1.7 * seconds
        self.threads.add(torch.get_num_threads())
        self.precisions.add(torch.get_float32_matmul_precision())

    def mm(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        assert a.dtype == b.dtype == torch.float32
        rows, inner = a.shape
        self._take(('mm', rows), rows * inner * b.shape[1] / MACS)
        return out

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        self._take(('copy', target.nbytes), (target.nbytes + source.nbytes) / BANDWIDTH)
        return target


def test_the_best_call_counts(monkeypatch):
    machine = Machine(monkeypatch)
    peaks = measure_peaks(threads=2)
    assert (peaks.threads, peaks.device) == (2, 'cpu')
    assert peaks.macs_per_second == pytest.approx(MACS)
    assert peaks.bytes_per_second == pytest.approx(BANDWIDTH)
    assert ('copy', 64 * MIB) in machine.calls


def test_a_weak_processor_is_asked_for_less(monkeypatch):
    """At 2 GMAC/s a product of 512 takes 0.07 s and one of 1024 half a second: too long to repeat."""
    machine = Machine(monkeypatch)
    measure_peaks(threads=1)
    assert [size for kind, size in machine.calls if kind == 'mm'] == [256, 512]
    assert machine.now < 2


def test_threads_and_precision_are_set_for_the_measurement_alone(monkeypatch):
    machine = Machine(monkeypatch)
    before = torch.get_num_threads()
    torch.set_float32_matmul_precision('high')
    try:
        measure_peaks(threads=before + 1)
        assert torch.get_float32_matmul_precision() == 'high'
    finally:
        torch.set_float32_matmul_precision('highest')
    assert machine.threads == {before + 1}
    assert machine.precisions == {'highest'}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(('cache', 'expected'), [(8 * MIB, 64 * MIB), (96 * MIB, 96 * MIB), (2 ** 40, 128 * MIB)])
def test_copies_are_as_large_as_the_cache_within_limits(cache, expected, monkeypatch):
    machine = Machine(monkeypatch)
    monkeypatch.setattr(peaks_module, 'caches', lambda: [{'size': 48 << 10}, {'size': cache}])
    monkeypatch.setattr(peaks_module, '_COPY_LIMIT_BYTES', 128 * MIB)
    measure_peaks(threads=1)
    assert [size for kind, size in machine.calls if kind == 'copy'] == [expected]


def work_of(*stages: Tuple[int, int, int]) -> Work:
    """Of stages with so many parameters, MACs and bytes of activations."""
    works = tuple(
        StageWork(f's{i}', parameters, macs, 0, 4 * parameters + moved) for i, (parameters, macs, moved) in
        enumerate(stages))

    def total(field: str) -> int:
        return sum(getattr(stage, field) for stage in works)

    return Work('net', (3, 8, 8), total('parameters'), total('macs'), 0, total('bytes_moved'), 1000, works, ())


PEAKS = Peaks(1, 'cpu', macs_per_second=100.0, bytes_per_second=10.0)


def test_stages_add_up_each_by_what_binds_it():
    """300 MACs at 100/s are 3 s; 4 bytes of weights and 16 of activations at 10/s are 2 s."""
    assert roofline(work_of((0, 300, 10), (1, 10, 16)), 1, PEAKS) == (pytest.approx(3 + 2), 'compute')
    assert roofline(work_of((0, 300, 10), (1, 10, 46)), 1, PEAKS) == (pytest.approx(3 + 5), 'memory')


def test_a_batch_fetches_the_weights_once():
    """20 parameters are 80 bytes, 8 s; of activations each picture has 10 bytes, 1 s; of arithmetic 2 s."""
    work = work_of((20, 200, 10))
    assert roofline(work, 1, PEAKS) == (pytest.approx(8 + 1), 'memory')
    assert roofline(work, 4, PEAKS) == (pytest.approx(8 + 4), 'memory')
    assert roofline(work, 10, PEAKS) == (pytest.approx(20), 'compute')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_peaks_of_a_gpu():
    peaks = measure_peaks(threads=1, device='cuda')
    assert peaks.device == 'cuda'
    assert peaks.bytes_per_second > 0
    assert peaks.macs_per_second > 0

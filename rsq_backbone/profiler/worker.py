"""What runs in a case's own process: one network in one runtime, timed when it is asked to.

`python -m rsq_backbone.profiler.worker` reads requests from standard input, a line of JSON each, and writes an answer
for each to standard output, from which everything else that would print there is kept away. The first request is
`open`, which limits the process and imports the runtime; what follows are the other methods of `_Worker`.
"""
import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, TextIO, Tuple

import numpy as np

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.profiler.process_memory import is_memory_failure, limit_memory, peak_resident, resident
from rsq_backbone.profiler.subjects import Subject

_WARM_UP_LIMIT = 3.0  # seconds
_WINDOW = 5  # calls


class _Worker:
    limited = False

    def open(
            self, subject: Dict[str, Any], runtime: str, threads: int, device: str, cores: Sequence[int] = (),
            memory_cap: Optional[int] = None, gpu_memory_cap: Optional[int] = None, whole_path: bool = False,
    ) -> Dict[str, Any]:
        """Import what is not the network's: the runtime, and the library that builds it. Then limit the process.

        Args:
            subject: As JSON.
            runtime: A name of RUNTIMES.
            threads: Within an operation.
            device: 'cpu' or 'cuda'.
            cores: To stay on.
            memory_cap: Bytes.
            gpu_memory_cap: Bytes.
            whole_path: Whether calls begin with the bytes of a picture's file.
        """
        from rsq_backbone.profiler.cores import pin
        from rsq_backbone.runtimes import RUNTIMES

        if cores:
            pin(cores)
        self.limited = memory_cap is not None
        entry = RUNTIMES[runtime]
        start = time.perf_counter()
        kind = entry.load()
        self._runtime = kind(threads, device)
        self._subject = Subject.from_json(subject)
        if not entry.needs_file:
            self._subject.import_libraries()
        imports = time.perf_counter() - start
        self._context = None
        if device == 'cuda':
            from rsq_backbone.profiler.gpu import open_device

            self._context = open_device()
        self._whole_path = None
        if whole_path:
            from rsq_backbone.profiler.end_to_end import end_to_end

            self._whole_path = end_to_end
        if memory_cap is not None:
            limit_memory(memory_cap)
        if gpu_memory_cap is not None:
            from rsq_backbone.profiler.gpu import limit_gpu_memory

            limit_gpu_memory(gpu_memory_cap, self._context or 0)
        return {'imports': imports, 'resident': resident()}

    def load(
            self, shape: Sequence[int], seed: int, file: Optional[str] = None, outputs: Optional[str] = None,
    ) -> Dict[str, Any]:
        """Everything up to the first result, each part timed.

        Args:
            shape: Of the input, the batch first.
            seed: Of its values.
            file: ONNX, for runtimes that need it; others build the network.
            outputs: Where to write what came out, for comparison.
        """
        inputs = self._inputs(shape, seed)
        clock = _Clock()
        weights = None
        if file is None:
            network = self._subject.build()
            clock.lap('build')
            weights = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
            self._runtime.load(network)
        else:
            self._runtime.load(Path(file))
        clock.lap('load')
        self._runtime.bind(inputs)
        clock.skip()
        if self._runtime.prepares:
            self._runtime.prepare()
            clock.lap('prepare')
        self._runtime.run()
        clock.lap('first_call')
        if outputs is not None:
            np.savez(outputs, *self._runtime.outputs())
        self._call = self._runtime.run_on_clock
        if self._whole_path is not None:
            self._call = self._whole_path(self._runtime, shape, seed)
        return {
            'seconds': clock.seconds, 'threads': self._runtime.verified_threads(), 'weights': weights,
            'flushes_denormals': self._runtime.flushes_denormals()}

    def warm_up(self) -> Dict[str, Any]:
        """Call until the last calls take as long as those before them (within 5 %), or the limit has passed."""
        times: List[float] = []
        while True:
            times.append(_seconds(self._call))
            last = statistics.median(times[-_WINDOW:])
            before = times[-2 * _WINDOW:-_WINDOW]
            steady = len(before) == _WINDOW and abs(last / statistics.median(before) - 1) <= 0.05
            if steady or sum(times) > _WARM_UP_LIMIT:
                return {'calls': len(times), 'steady': steady, 'seconds_per_call': last}

    def time(self, seconds: float, least: int) -> Dict[str, Any]:
        """Calls for so long, and at least so many, after one for the caches that others have filled meanwhile.

        Returns:
            Seconds of each by the clock on the wall, and by the device's own where it has one; and how many calls there
            were, the first one included.
        """
        self._call()
        wall: List[float] = []
        device: List[float] = []
        end = time.perf_counter() + seconds
        while len(wall) < least or time.perf_counter() < end:
            start = time.perf_counter()
            on_device = self._call()
            wall.append(time.perf_counter() - start)
            if on_device is not None:
                device.append(on_device)
        return {'wall': wall, 'device': device, 'calls': 1 + len(wall)}

    def memory(self, calls: int) -> Dict[str, Any]:
        for _ in range(calls):
            self._call()
        cuda = None
        if self._runtime.device == 'cuda':
            from rsq_backbone.profiler.gpu import cuda_memory

            cuda = dataclasses.asdict(cuda_memory(self._context))
        return {'peak': peak_resident(), 'cuda': cuda}

    def transfers(self, shape: Sequence[int], seed: int, calls: int) -> Dict[str, float]:
        """Median seconds for the inputs' way to the device, and for the outputs' way back."""
        inputs = self._inputs(shape, seed)
        there, back = (
            statistics.median(_seconds(move) for _ in range(calls))
            for move in (lambda: self._runtime.bind(inputs), self._runtime.outputs))
        return {'to_device': there, 'to_host': back}

    def export(self, shape: Sequence[int], seed: int, file: str) -> Dict[str, Any]:
        """Write the network to an ONNX file for these inputs."""
        from rsq_backbone.runtimes.export import export

        inputs, network = self._inputs(shape, seed), self._subject.build()
        clock = _Clock()
        export(network, inputs, Path(file))
        clock.lap('prepare')
        return {'seconds': clock.seconds}

    def check(self, shape: Sequence[int]) -> None:
        """See whether the network takes such an input."""
        self._subject.check(shape[0], _size(shape))

    def work(self, shape: Sequence[int]) -> Dict[str, Any]:
        import torch

        from rsq_backbone.profiler.work import work

        others = [torch.from_numpy(array) for array in self._subject.inputs(1, _size(shape))[1:]]
        return dataclasses.asdict(work(self._subject.build(), _size(shape), self._subject.name, others))

    def layers(self, shape: Sequence[int], seed: int, calls: int) -> List[Dict[str, Any]]:
        import torch

        from rsq_backbone.profiler.work import layer_times

        inputs = [torch.from_numpy(array) for array in self._inputs(shape, seed)]
        return [dataclasses.asdict(layer) for layer in layer_times(self._subject.build(), inputs, calls)]

    def peaks(self, threads: int) -> Dict[str, Any]:
        from rsq_backbone.profiler.peaks import measure_peaks

        return dataclasses.asdict(measure_peaks(threads))

    def _inputs(self, shape: Sequence[int], seed: int) -> List[np.ndarray]:
        return self._subject.inputs(shape[0], _size(shape), seed)


def _size(shape: Sequence[int]) -> Tuple[int, int, int]:
    _, channels, height, width = shape
    return channels, height, width


class _Clock:
    """Seconds by part of the work."""

    def __init__(self) -> None:
        self.seconds: Dict[str, float] = {}
        self.skip()

    def lap(self, part: str) -> None:
        self.seconds[part] = time.perf_counter() - self._start
        self.skip()

    def skip(self) -> None:
        """Count what came since the last lap for nothing."""
        self._start = time.perf_counter()


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _answer(worker: _Worker, request: Dict[str, Any]) -> Dict[str, Any]:
    try:
        return {'result': getattr(worker, request.pop('do'))(**request)}
    except Exception as e:
        if is_memory_failure(e, worker.limited):
            return {'error': 'does not fit', 'message': one_line(e.__cause__ or e)}
        return {'error': 'refused' if isinstance(e, UserError) else 'crashed', 'message': (
            str(e) if isinstance(e, UserError) else f'{type(e).__name__}: {one_line(e)}')}


def _main() -> None:
    answers: TextIO = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)  # libraries print what they like
    worker = _Worker()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(worker, json.loads(line))) + '\n')
        answers.flush()


if __name__ == '__main__':
    _main()

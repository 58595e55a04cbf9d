"""PyTorch as it is."""
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Sequence

import numpy as np
import torch

from rsq_backbone.errors import UserError
from rsq_backbone.runtimes.runtime import Runtime

__all__ = ['Eager', 'EagerChannelsLast', 'pytorch_threads']


class Eager(Runtime):
    """Operation by operation, with pictures channel after channel (NCHW)."""

    memory_format = torch.contiguous_format

    def __init__(self, threads: int, device: str = 'cpu') -> None:
        super().__init__(threads, device)
        if device == 'cuda' and not torch.cuda.is_available():
            raise UserError('PyTorch finds no CUDA device; use --device cpu, or install a PyTorch build for your GPU.')
        self._flushes = torch.set_flush_denormal(True)  # first: threads inherit it from the one that starts them
        torch.set_num_threads(threads)
        self._network: Any = None
        self._inputs: List[torch.Tensor] = []
        self._output: Any = None

    def load(self, source: Any) -> None:
        self._network = source.eval().to(device=_device(self.device), memory_format=self.memory_format)
        self._synchronize()

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        self._inputs = [self._placed(torch.from_numpy(array)) for array in inputs]
        self._synchronize()

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(_device(self.device))
        return tensor.contiguous(memory_format=self.memory_format) if tensor.dim() == 4 else tensor

    @torch.inference_mode()
    def run(self) -> None:
        self.launch()
        self._synchronize()

    @torch.inference_mode()
    def launch(self) -> None:
        """`run` without waiting for the GPU; on the CPU the same as `run`."""
        self._output = self._network(*self._inputs)

    def run_on_clock(self) -> Optional[float]:
        if self.device != 'cuda':
            return super().run_on_clock()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self.launch()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3  # it gives milliseconds

    def _synchronize(self) -> None:
        if self.device == 'cuda':
            torch.cuda.synchronize()

    def outputs(self) -> List[np.ndarray]:
        return [tensor.cpu().numpy() for tensor in _tensors(self._output)]

    def verified_threads(self) -> Optional[int]:
        return torch.get_num_threads()

    def flushes_denormals(self) -> bool:
        return self._flushes


class EagerChannelsLast(Eager):
    """Operation by operation, with all channels of a position side by side (NHWC)."""

    memory_format = torch.channels_last


def _device(name: str) -> torch.device:
    return torch.device(name)


def _tensors(output: Any) -> List[torch.Tensor]:
    """In the order in which an exporter lists them."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for value in output.values() for tensor in _tensors(value)]
    if isinstance(output, (list, tuple)):
        return [tensor for value in output for tensor in _tensors(value)]
    return []


@contextmanager
def pytorch_threads(count: int) -> Iterator[None]:
    """That many threads within operations in the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

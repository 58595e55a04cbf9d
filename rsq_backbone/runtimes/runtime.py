"""The one way in which networks are run, whatever runs them."""
from abc import ABC, abstractmethod
from typing import Any, ClassVar, List, Optional, Sequence, Union

import numpy as np

from rsq_backbone.errors import UserError

__all__ = ['Runtime', 'refuse_other_shapes']


class Runtime(ABC):
    """Loads one network and runs it on what is bound to it: `load`, `bind`, `prepare`, then `run` and `outputs`.

    Nothing is copied or converted in `run`, so that its time is the network's. Numbers too small for float32's normal
    range are taken for zero: else a network's time would depend on its weights.

    Args:
        threads: For the work inside one operation. Set for the whole process, and before anything has run in it.
        device: One of the runtime's devices.

    Raises:
        UserError: if the device is not there.
    """

    prepares: ClassVar[bool] = False  # whether `prepare` does anything

    def __init__(self, threads: int, device: str = 'cpu') -> None:
        self.requested_threads = threads
        self.device = device

    @abstractmethod
    def load(self, source: Any) -> None:
        """Make ready what computes.

        Args:
            source: A network in evaluation mode, which the runtime may change, or where `RuntimeEntry.needs_file` the
                path of an ONNX file.

        Raises:
            UserError: if the file is damaged or the runtime cannot run what is in it.
        """

    @abstractmethod
    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        """Put `inputs`, one array for each of the network's, to where the runtime reads them, and onto the device."""

    def prepare(self) -> None:  # noqa: B027  most runtimes have nothing to do here
        """Compile, by a first run on what is bound.

        Raises:
            UserError: if that fails.
        """

    @abstractmethod
    def run(self) -> None:
        """Compute the outputs, and return when they are there."""

    def run_on_clock(self) -> Optional[float]:
        """`run`, and the seconds that it took by the device's own clock; None where the device has none."""
        self.run()
        return None

    @abstractmethod
    def outputs(self) -> List[np.ndarray]:
        """Of the last `run`, on the CPU, in the network's own order."""

    @abstractmethod
    def verified_threads(self) -> Optional[int]:
        """As the runtime or the system tells once it is loaded, None where neither does."""

    @abstractmethod
    def flushes_denormals(self) -> bool:
        """Whether numbers below float32's normal range count as zero."""


def refuse_other_shapes(inputs: Sequence[np.ndarray], wanted: Sequence[Sequence[Union[int, str, None]]]) -> None:
    """Raise a UserError unless `inputs` fit what an ONNX file wants; names and None stand for any size."""
    given = [array.shape for array in inputs]
    fit = len(given) == len(wanted) and all(
        len(shape) == len(other) and all(not isinstance(b, int) or a == b for a, b in zip(shape, other, strict=True))
        for shape, other in zip(given, wanted, strict=True))
    if not fit:
        raise UserError(f'the ONNX file wants {_shapes(wanted)} and not {_shapes(given)}; choose that batch and size.')


def _shapes(shapes: Sequence[Sequence[Union[int, str, None]]]) -> str:
    return ' and '.join(' x '.join('any' if size is None else str(size) for size in shape) for shape in shapes)

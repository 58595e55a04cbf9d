"""OpenVINO on the CPU, in a process that need not have PyTorch."""
import functools
import sys
from pathlib import Path
from typing import Any, ClassVar, List, Optional, Sequence

import numpy as np

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.runtimes.runtime import Runtime, refuse_other_shapes

# Else its import reports to its makers, from a thread of its own; it does without where that package is missing.
_telemetry = sys.modules.get('openvino_telemetry')
sys.modules['openvino_telemetry'] = None  # type: ignore[assignment]
try:
    import openvino
finally:
    if _telemetry is None:
        del sys.modules['openvino_telemetry']
    else:
        sys.modules['openvino_telemetry'] = _telemetry

__all__ = ['OpenVino', 'OpenVinoBf16', 'OpenVinoFp16', 'computes', 'core']

# OpenVINO's names of what a processor can have.
_CAPABILITIES = {'bf16': ('BF16', 'bfloat16'), 'f16': ('FP16', 'float16')}


@functools.cache
def core() -> Any:
    """The one Core of this process, which lasts as long.

    On processors with AMX a Core gives the thread that loads its CPU plugin a stack for signals. When it goes it puts
    back the one from before, although that may be gone by then: of two Cores that are dropped in the order in which
    they were made, the second leaves a stack that is no longer mapped, and the next signal that Python handles (Ctrl-C,
    or the end of a DataLoader's worker) ends the process by a segmentation fault. Seen with OpenVINO 2026.4.
    """
    return openvino.Core()


def computes(precision: str) -> bool:
    """Whether this processor has instructions for 'bf16' or 'f16'; without them OpenVINO takes float32 instead."""
    return _CAPABILITIES[precision][0] in core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


class OpenVino(Runtime):
    """One picture or batch at a time, in float32 as all runtimes here but one.

    Left to itself OpenVINO computes in bfloat16 on processors that have it, and pins its threads. Of a file in int8 the
    quantised layers are computed in int8 whatever the precision of the others.
    """

    precision: ClassVar[str] = 'f32'

    def __init__(self, threads: int, device: str = 'cpu') -> None:
        super().__init__(threads, device)
        self._model: Any = None
        self._request: Any = None
        self._bound: List[Any] = []

    def load(self, source: Path) -> None:
        try:
            self._model = core().compile_model(str(source), 'CPU', {
                'PERFORMANCE_HINT': 'LATENCY',
                'NUM_STREAMS': 1,
                'INFERENCE_NUM_THREADS': self.requested_threads,
                'INFERENCE_PRECISION_HINT': self.precision,
                'ENABLE_CPU_PINNING': False,  # who wants cores chosen chooses them for the whole process
                'CPU_DENORMALS_OPTIMIZATION': True,
            })
        except Exception as e:  # it passes on what any of its plugins and front ends raise
            raise UserError(f'OpenVINO cannot load {source} ({one_line(e)}); export it again.') from e
        self._request = self._model.create_infer_request()

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        refuse_other_shapes(inputs, [
            [size.get_length() if size.is_static else None for size in one.partial_shape]
            for one in self._model.inputs])
        self._bound = [openvino.Tensor(array, shared_memory=True) for array in inputs]
        for index, tensor in enumerate(self._bound):
            self._request.set_input_tensor(index, tensor)

    def run(self) -> None:
        self._request.infer(share_outputs=True)  # else it would copy them

    def outputs(self) -> List[np.ndarray]:
        return [self._request.get_output_tensor(index).data.copy() for index in range(len(self._model.outputs))]

    def verified_threads(self) -> Optional[int]:
        return int(self._model.get_property('INFERENCE_NUM_THREADS'))

    def flushes_denormals(self) -> bool:
        return bool(self._model.get_property('CPU_DENORMALS_OPTIMIZATION'))


class OpenVinoBf16(OpenVino):
    """The same in bfloat16, where the processor computes in it.

    Raises:
        UserError: where it does not, and float32 would be measured under another name.
    """

    precision: ClassVar[str] = 'bf16'

    def __init__(self, threads: int, device: str = 'cpu') -> None:
        super().__init__(threads, device)
        if not computes(self.precision):
            raise UserError(
                f'this processor does not compute in {_CAPABILITIES[self.precision][1]}; choose --runtime openvino.')


class OpenVinoFp16(OpenVinoBf16):
    """In float16, where the processor computes in it."""

    precision: ClassVar[str] = 'f16'

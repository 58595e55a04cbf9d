"""ONNX Runtime on the CPU, in a process that need not have PyTorch."""
import os
from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.runtimes.runtime import Runtime, refuse_other_shapes

# Else it reports to its makers, from a thread of its own. Read once, on import.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
import onnxruntime

__all__ = ['OnnxRuntime']

_TASKS = Path('/proc/self/task')


class OnnxRuntime(Runtime):
    """A session of ONNX Runtime as it is by default, but for what its threads do between two calls.

    They would go on spinning for some 20 ms, on cores that others may be measured on; here they sleep. Within a call
    they spin as ever. Small numbers are flushed in its threads, and in the one that loads a process's first session.
    """

    def __init__(self, threads: int, device: str = 'cpu') -> None:
        super().__init__(threads, device)
        self._options = onnxruntime.SessionOptions()
        self._options.log_severity_level = 3  # errors
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.add_session_config_entry('session.force_spinning_stop', '1')
        self._options.add_session_config_entry('session.set_denormal_as_zero', '1')
        self._threads: Optional[int] = None
        self._session: Any = None
        self._binding: Any = None
        self._bound: List[Any] = []

    def load(self, source: Path) -> None:
        before = _thread_count()
        try:
            self._session = onnxruntime.InferenceSession(
                str(source), self._options, providers=['CPUExecutionProvider'])
        except Exception as e:  # its own kinds of error derive from nothing else
            raise UserError(f'ONNX Runtime cannot load {source} ({one_line(e)}); export it again.') from e
        # The caller's thread works too.
        after = _thread_count()
        self._threads = None if before is None or after is None else after - before + 1

    def bind(self, inputs: Sequence[np.ndarray]) -> None:
        wanted = self._session.get_inputs()
        refuse_other_shapes(inputs, [one.shape for one in wanted])
        self._binding = self._session.io_binding()
        self._bound = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in inputs]
        for one, value in zip(wanted, self._bound, strict=True):
            self._binding.bind_ortvalue_input(one.name, value)
        for one in self._session.get_outputs():
            self._binding.bind_output(one.name, 'cpu')

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> List[np.ndarray]:
        return self._binding.copy_outputs_to_cpu()

    def verified_threads(self) -> Optional[int]:
        """Those that the process got with the session, and the caller's; the runtime itself tells nothing."""
        return self._threads

    def flushes_denormals(self) -> bool:
        return self._options.get_session_config_entry('session.set_denormal_as_zero') == '1'


def _thread_count() -> Optional[int]:
    return len(os.listdir(_TASKS)) if _TASKS.exists() else None

"""What a network can be run by, and what each of them needs.

Importing this package loads none of them: a runtime's libraries are imported with its class, by `RuntimeEntry.load`.
"""
import importlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Dict, Optional, Tuple, Type

if TYPE_CHECKING:
    from rsq_backbone.runtimes.runtime import Runtime

__all__ = ['ISAS', 'RUNTIMES', 'RuntimeEntry', 'isa_environment', 'obeys']


@dataclass(frozen=True)
class RuntimeEntry:
    module: str
    class_name: str
    libraries: Tuple[str, ...]  # that the module imports
    install: str  # the line that installs them
    needs_file: bool = False  # loads an ONNX file, and never imports torch; the others load a network
    devices: Tuple[str, ...] = ('cpu',)
    isa_variables: Tuple[str, ...] = ()  # of _ISA_VALUES, that keep it from using the processor's newer instructions
    isa_exceptions: str = ''  # what uses them all the same
    by_default: bool = True  # whether who names no runtime means this one too
    cache_variable: Optional[str] = None  # names the folder of compiled code; preparing is only cold if it is empty

    def missing(self) -> Optional[str]:
        """The line that installs the runtime, None where it is installed."""
        return self.install if any(find_spec(library) is None for library in self.libraries) else None

    def load(self) -> Type['Runtime']:
        """The class. The first call imports the libraries, and the time that it takes is theirs."""
        runtime: Type[Runtime] = getattr(importlib.import_module(self.module), self.class_name)
        return runtime


_EAGER = RuntimeEntry(
    'rsq_backbone.runtimes.eager', 'Eager', ('torch',), 'pip install rsq-backbone', devices=('cpu', 'cuda'),
    isa_variables=('ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'MKL_ENABLE_INSTRUCTIONS'))

_OPENVINO = RuntimeEntry(
    'rsq_backbone.runtimes.openvino', 'OpenVino', ('openvino',), 'pip install "rsq-backbone[openvino]"',
    needs_file=True, isa_variables=('ONEDNN_MAX_CPU_ISA',),
    isa_exceptions='reductions and other layers outside its oneDNN still use what this processor has')

RUNTIMES: Dict[str, RuntimeEntry] = {
    'eager': _EAGER,
    'eager-channels-last': replace(_EAGER, class_name='EagerChannelsLast'),
    'compile': replace(
        _EAGER, module='rsq_backbone.runtimes.compiled', class_name='Compiled',
        by_default=False,  # half a minute of compiling
        cache_variable='TORCHINDUCTOR_CACHE_DIR',
        isa_exceptions='the C++ compiler still turns plain loops into what this processor has'),
    'onnxruntime': RuntimeEntry(
        'rsq_backbone.runtimes.onnx_runtime', 'OnnxRuntime', ('onnxruntime',), 'pip install "rsq-backbone[onnx]"',
        needs_file=True),
    'openvino': _OPENVINO,
    # Other numbers than the others'.
    'openvino-bf16': replace(_OPENVINO, class_name='OpenVinoBf16', by_default=False),
    'openvino-fp16': replace(_OPENVINO, class_name='OpenVinoFp16', by_default=False),
}

# As each library reads them, once, when it is loaded: oneDNN's and MKL's names for what ATen calls its capability. MKL
# multiplies PyTorch's float32 matrices and knows nothing of oneDNN's limit. ATen's least is plain x86-64.
_ISA_VALUES = {
    'sse41': {'ATEN_CPU_CAPABILITY': 'default', 'ONEDNN_MAX_CPU_ISA': 'SSE41', 'MKL_ENABLE_INSTRUCTIONS': 'SSE4_2'},
    'avx2': {'ATEN_CPU_CAPABILITY': 'avx2', 'ONEDNN_MAX_CPU_ISA': 'AVX2', 'MKL_ENABLE_INSTRUCTIONS': 'AVX2'},
    'avx512': {
        'ATEN_CPU_CAPABILITY': 'avx512', 'ONEDNN_MAX_CPU_ISA': 'AVX512_CORE', 'MKL_ENABLE_INSTRUCTIONS': 'AVX512'},
}
ISAS = tuple(_ISA_VALUES)


def isa_environment(runtime: str, isa: str) -> Dict[str, str]:
    """Variables for the process in which `runtime` is to use nothing newer than `isa`; none if it does not obey.

    Args:
        runtime: A name of RUNTIMES.
        isa: 'sse41', 'avx2' or 'avx512'. A limit that the processor does not reach changes nothing.
    """
    return {variable: _ISA_VALUES[isa][variable] for variable in RUNTIMES[runtime].isa_variables}


def obeys(runtime: str) -> bool:
    """Whether `isa_environment` limits the runtime's convolutions; `isa_exceptions` says what else it leaves free.

    ONNX Runtime asks the processor, and nothing else, what there is to use.
    """
    return bool(RUNTIMES[runtime].isa_variables)

"""From a PyTorch network to the files that other runtimes load, in float32 or smaller."""
import copy
import hashlib
import logging
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
from torch.export import Dim

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.runtimes.export import write_onnx

__all__ = ['PRECISIONS', 'TARGETS', 'Conversion', 'Target']

PRECISIONS = ('fp32', 'bf16', 'int8')


@dataclass(frozen=True)
class Target:
    """A kind of file, and what it takes to make it."""

    runtime: str  # the package that loads it
    libraries: Dict[str, Tuple[str, ...]]  # by precision: modules that the conversion imports
    extra: str  # of this package, that installs them

    def missing(self, precision: str) -> Optional[str]:
        """The line that installs what is missing; None if nothing is."""
        if all(find_spec(library) is not None for library in self.libraries[precision]):
            return None
        return f'pip install "rsq-backbone[{self.extra}]"'


_EXPORT = ('onnx', 'onnxscript')
TARGETS: Dict[str, Target] = {
    'openvino': Target('openvino', {
        'fp32': (*_EXPORT, 'openvino'),
        'bf16': (*_EXPORT, 'openvino'),
        'int8': (*_EXPORT, 'openvino', 'nncf'),
    }, 'deploy'),
    'onnx': Target('onnxruntime', {
        'fp32': (*_EXPORT, 'onnxruntime'),
        'int8': (*_EXPORT, 'onnxruntime'),
    }, 'deploy'),
    'ncnn': Target('ncnn', {'fp32': ('pnnx', 'ncnn')}, 'ncnn'),
    'torch-export': Target('torch', {'fp32': ('torch',)}, 'deploy'),
}


class Conversion:
    """Converts one network, which is exported to ONNX once for all targets that start there.

    Args:
        network: On the CPU, in evaluation mode: pictures (N, 3, H, W) -> logits. It is not changed.
        input_size: Height and width to export with.
        folder: For the files; each `convert` makes a folder in it.
        size_multiple: What height and width have to be multiples of.
    """

    def __init__(
            self, network: nn.Module, input_size: Tuple[int, int], folder: Path, size_multiple: int = 1) -> None:
        self._network = network
        self._input_size = input_size
        self._folder = folder
        self._multiple = size_multiple
        self._onnx: Optional[Path] = None

    def convert(
            self, target: str, precision: str, calibration: Optional[np.ndarray] = None, careful: bool = False,
    ) -> List[Path]:
        """The files of a target in a precision.

        Args:
            target: A name of TARGETS.
            precision: Of its precisions. bf16 stores weights in half the bytes and leaves it to the runtime to compute
                in bfloat16; int8 quantises weights and activations of convolutions after training.
            calibration: (N, 3, H, W) float32, preprocessed pictures by which int8 finds the ranges of activations.
            careful: Of int8, keep in float32 what costs most: OpenVINO's layers by which most of the calibration's
                top-1 classes change, ONNX's first and last convolution.

        Raises:
            UserError: if there is no such target or precision, a package is missing, or the conversion fails.
        """
        if target not in TARGETS:
            raise UserError(f'unknown target {target!r}; choose of {", ".join(TARGETS)}.')
        libraries = TARGETS[target].libraries
        if precision not in libraries:
            raise UserError(f'{target} has no {precision}; choose of {", ".join(libraries)}.')
        missing = TARGETS[target].missing(precision)
        if missing is not None:
            raise UserError(f'{target} {precision} needs more packages: {missing}')
        if precision == 'int8' and calibration is None:
            raise UserError('int8 needs pictures to calibrate with; name a folder of them with --calibration.')
        folder = self._folder / f'{target}-{precision}{"-careful" if careful else ""}'
        folder.mkdir(exist_ok=True)
        try:
            with _quiet():
                if target == 'onnx':
                    return self._to_onnx(folder, precision, calibration, careful)
                if target == 'openvino':
                    return self._to_openvino(folder, precision, calibration, careful)
                return self._to_ncnn(folder) if target == 'ncnn' else self._to_torch_export(folder)
        except UserError:
            raise
        except Exception as e:  # five libraries, each with its own kinds of error
            raise UserError(f'the network cannot be converted to {target} {precision} ({one_line(e)}).') from e

    def _exported(self) -> Path:
        """The ONNX file in float32, of as few fixed sizes as the network allows."""
        if self._onnx is None:
            file = self._folder / 'model.onnx'
            for dynamic in _dynamic_shapes(self._multiple):
                try:
                    # A batch of 1 would be taken for a constant.
                    example = torch.rand(2 if dynamic else 1, 3, *self._input_size)
                    write_onnx(
                        self._network, [example], file, input_names=['image'], output_names=['output'],
                        dynamic_shapes=dynamic and (dynamic,))
                    break
                except UserError:
                    if dynamic is None:
                        raise
            self._onnx = file
        return self._onnx

    def _to_onnx(
            self, folder: Path, precision: str, calibration: Optional[np.ndarray], careful: bool) -> List[Path]:
        file = folder / 'model.onnx'
        if precision == 'fp32':
            file.write_bytes(self._exported().read_bytes())
            return [file]
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        assert calibration is not None

        class Reader(CalibrationDataReader):
            def __init__(self, pictures: np.ndarray) -> None:
                self._pictures = iter(pictures)

            def get_next(self) -> Optional[Dict[str, np.ndarray]]:
                picture = next(self._pictures, None)
                return None if picture is None else {'image': picture[None]}

        prepared = folder / 'prepared.onnx'
        # Its symbolic shapes fail on networks whose sizes are computed; onnx's own inference goes on without.
        quant_pre_process(str(self._exported()), str(prepared), skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type == 'Conv']
        quantize_static(
            str(prepared), str(file), Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=[convolutions[0], convolutions[-1]] if careful and convolutions else [])
        prepared.unlink()
        return [file]

    def _to_openvino(
            self, folder: Path, precision: str, calibration: Optional[np.ndarray], careful: bool) -> List[Path]:
        import rsq_backbone.runtimes.openvino  # noqa: F401  keeps it from reporting to its makers

        import openvino  # isort: skip

        network = openvino.convert_model(str(self._exported()))
        if precision == 'int8':
            assert calibration is not None
            network = _quantised(network, calibration, careful)
        files = [folder / 'model.xml', folder / 'model.bin']
        openvino.save_model(network, str(files[0]), compress_to_fp16=precision != 'fp32')
        return files

    def _to_ncnn(self, folder: Path) -> List[Path]:
        import pnnx

        network = copy.deepcopy(self._network).requires_grad_(True)  # with gradients our pools are plain ones
        example = torch.rand(1, 3, *self._input_size)
        # Ends with what its own program says; its files are what counts.
        pnnx.export(network, str(folder / 'model.pt'), (example,), fp16=False, check_trace=False)
        files = [folder / 'model.ncnn.param', folder / 'model.ncnn.bin']
        if not all(file.is_file() for file in files):
            raise UserError('pnnx wrote no ncnn files of this network.')
        return files

    def _to_torch_export(self, folder: Path) -> List[Path]:
        file = folder / 'model.pt2'
        for dynamic in _dynamic_shapes(self._multiple):
            example = torch.rand(2 if dynamic else 1, 3, *self._input_size)
            try:
                program = torch.export.export(self._network, (example,), dynamic_shapes=dynamic and (dynamic,))
                break
            except Exception:  # of whatever in the network needs a fixed size
                if dynamic is None:
                    raise
        torch.export.save(program, file)
        return [file]


def _dynamic_shapes(multiple: int) -> List[Optional[Dict[int, Any]]]:
    """From any batch and size to fixed ones, to be tried in turn."""
    batch = Dim('batch')
    sides = (
        {2: Dim('height', min=32), 3: Dim('width', min=32)} if multiple == 1 else
        {2: multiple * Dim('rows', min=2), 3: multiple * Dim('columns', min=2)})
    return [{0: batch, **sides}, {0: batch}, None]


def _quantised(network: Any, calibration: np.ndarray, careful: bool) -> Any:
    """By NNCF: activations asymmetric, as ReLUs make them, and biases corrected for what the rounding shifts."""
    with _without_reports():
        import nncf

        nncf.set_log_level(logging.ERROR)
        pictures = [picture[None] for picture in calibration]
        options: Dict[str, Any] = dict(subset_size=len(pictures), preset=nncf.QuantizationPreset.MIXED)
        if not careful:
            return nncf.quantize(network, nncf.Dataset(pictures), **options)

        classes: Dict[bytes, np.ndarray] = {}  # by picture, of the network in float32, which is asked first

        def agreement(model: Any, inputs: Iterable[np.ndarray]) -> Tuple[float, List[float]]:
            request = model.create_infer_request()
            same = []
            for picture in inputs:
                found = request.infer([picture])[0].argmax(1)
                expected = classes.setdefault(hashlib.sha256(picture.tobytes()).digest(), found)
                same.append(float((found == expected).mean()))
            return float(np.mean(same)), same

        return nncf.quantize_with_accuracy_control(
            network, nncf.Dataset(pictures), nncf.Dataset(pictures), agreement, max_drop=0.005, **options)


@contextmanager
def _without_reports() -> Iterator[None]:
    """NNCF would tell its makers that it was used."""
    before = os.environ.get('NNCF_CI')
    os.environ['NNCF_CI'] = '1'  # read once, on import
    try:
        yield
    finally:
        if before is None:
            del os.environ['NNCF_CI']
        else:
            os.environ['NNCF_CI'] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what libraries and the programs that they start print there."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept: Sequence[Tuple[int, int]] = [(stream, os.dup(stream)) for stream in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream, _ in kept:
            os.dup2(nothing, stream)
        yield
    finally:
        for stream, copied in kept:
            os.dup2(copied, stream)
            os.close(copied)
        os.close(nothing)

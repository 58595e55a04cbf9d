"""From a PyTorch network to the files that other runtimes load, in float32 or smaller."""
import dataclasses
import logging
import os
import shutil
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from torch.export import Dim

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.runtimes.export import contiguous, write_onnx

__all__ = ['PRECISIONS', 'TARGETS', 'Conversion', 'Converted', 'Target', 'check_available', 'precisions_of']

PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8')  # what is wished for may give way to one before it


@dataclass(frozen=True)
class Target:
    """A kind of file, and what it takes to make it."""

    runtime: str  # the package that loads it
    libraries: Dict[str, Tuple[str, ...]]  # by precision: modules that the conversion imports
    extra: str  # of this package, that installs them


_EXPORT = ('onnx', 'onnxscript')
TARGETS: Dict[str, Target] = {
    'openvino': Target('openvino', {
        'fp32': (*_EXPORT, 'openvino'),
        'fp16': (*_EXPORT, 'openvino'),
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


def precisions_of(target: str) -> Tuple[str, ...]:
    """Raises a UserError if there is no such target."""
    if target not in TARGETS:
        raise UserError(f'unknown target {target!r}; choose of {", ".join(TARGETS)}.')
    return tuple(TARGETS[target].libraries)


def check_available(target: str, precision: str) -> None:
    """Raise a UserError if there is no such target or precision, or a package for it is missing."""
    offered = precisions_of(target)
    if precision not in offered:
        raise UserError(f'{target} has no {precision}; choose of {", ".join(offered)}.')
    if any(find_spec(library) is None for library in TARGETS[target].libraries[precision]):
        raise UserError(
            f'{target} {precision} needs more packages: pip install "rsq-backbone[{TARGETS[target].extra}]"')


@dataclass(frozen=True)
class Converted:
    """The files of a network, and which inputs they take."""

    files: Tuple[Path, ...]
    dynamic_batch: bool  # any number of pictures; else one
    dynamic_size: bool  # any height and width that the network takes; else those of the export


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
        self._network = contiguous(network)
        self._input_size = input_size
        self._folder = folder
        self._multiple = size_multiple
        self._onnx: Union[Converted, UserError, None] = None

    def convert(
            self, target: str, precision: str, calibration: Optional[np.ndarray] = None, careful: bool = False,
    ) -> Converted:
        """A network's files for a target in a precision.

        Args:
            target: A name of TARGETS.
            precision: Of its precisions. fp16 and bf16 store weights in half the bytes, as float16, and leave it to the
                runtime to compute in float16 or bfloat16; int8 quantises weights and activations of convolutions after
                training.
            calibration: (N, 3, H, W) float32, preprocessed pictures by which int8 finds the ranges of activations.
            careful: Of int8, keep the classifier in float32, the last layer with weights.

        Raises:
            UserError: if there is no such target or precision, a package is missing, or the conversion fails.
        """
        check_available(target, precision)
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

    def _exported(self) -> Converted:
        """The ONNX file in float32, of as few fixed sizes as the network allows."""
        if self._onnx is None:
            self._onnx = self._export()
        if isinstance(self._onnx, UserError):  # it would fail again, for each target and precision
            raise self._onnx
        return self._onnx

    def _export(self) -> Union[Converted, UserError]:
        file = self._folder / 'model.onnx'
        for dynamic in self._dynamic_shapes():
            try:
                write_onnx(
                    self._network, [self._example(dynamic)], file, input_names=['image'], output_names=['output'],
                    dynamic_shapes=dynamic and (dynamic,))
                return _converted([file], dynamic)
            except UserError as e:
                failed = e
        return failed

    def _dynamic_shapes(self) -> List[Optional[Dict[int, Any]]]:
        """From any batch and size to fixed ones, to be tried in turn."""
        batch, multiple = Dim('batch'), self._multiple
        sides = (
            {2: Dim('height', min=32), 3: Dim('width', min=32)} if multiple == 1 else
            {2: multiple * Dim('rows', min=2), 3: multiple * Dim('columns', min=2)})
        return [{0: batch, **sides}, {0: batch}, None]

    def _example(self, dynamic: Optional[Dict[int, Any]]) -> torch.Tensor:
        return torch.rand(2 if dynamic else 1, 3, *self._input_size)  # a batch of 1 would be taken for a constant

    def _to_onnx(
            self, folder: Path, precision: str, calibration: Optional[np.ndarray], careful: bool) -> Converted:
        exported = self._exported()
        file = folder / 'model.onnx'
        if precision == 'fp32':
            shutil.copyfile(exported.files[0], file)
            return dataclasses.replace(exported, files=(file,))
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
        quant_pre_process(str(exported.files[0]), str(prepared), skip_symbolic_shape=True)
        nodes = [(node.name, node.op_type) for node in onnx.load(str(prepared)).graph.node]
        quantize_static(
            str(prepared), str(file), Reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=_from_classifier(nodes, ('Conv', 'Gemm', 'MatMul'), careful))
        prepared.unlink()
        return dataclasses.replace(exported, files=(file,))

    def _to_openvino(
            self, folder: Path, precision: str, calibration: Optional[np.ndarray], careful: bool) -> Converted:
        from rsq_backbone.runtimes.openvino import openvino

        exported = self._exported()
        network = openvino.convert_model(str(exported.files[0]))
        if precision == 'int8':
            assert calibration is not None
            network = _quantised(network, calibration, careful)
        files = folder / 'model.xml', folder / 'model.bin'
        openvino.save_model(network, str(files[0]), compress_to_fp16=precision != 'fp32')
        return dataclasses.replace(exported, files=files)

    def _to_ncnn(self, folder: Path) -> Converted:
        import pnnx

        example = torch.rand(1, 3, *self._input_size)
        # Ends with what its own program says; its files are what counts.
        pnnx.export(self._network, str(folder / 'model.pt'), (example,), fp16=False, check_trace=False)
        files = [folder / 'model.ncnn.param', folder / 'model.ncnn.bin']
        if not all(file.is_file() for file in files):
            raise UserError('pnnx wrote no ncnn files of this network.')
        return _converted(files, None)

    def _to_torch_export(self, folder: Path) -> Converted:
        file = folder / 'model.pt2'
        for dynamic in self._dynamic_shapes():
            try:
                program = torch.export.export(
                    self._network, (self._example(dynamic),), dynamic_shapes=dynamic and (dynamic,))
                break
            except Exception:  # of whatever in the network needs a fixed size
                if dynamic is None:
                    raise
        torch.export.save(program, file)
        return _converted([file], dynamic)


def _converted(files: Sequence[Path], dynamic: Optional[Dict[int, Any]]) -> Converted:
    return Converted(tuple(files), dynamic is not None and 0 in dynamic, dynamic is not None and 2 in dynamic)


def _from_classifier(operations: Sequence[Tuple[str, str]], kinds: Sequence[str], careful: bool) -> List[str]:
    """Names of what follows the classifier, which only pools or scales up logits; of the classifier too if careful.

    Args:
        operations: Name and type of each, in the order of execution.
        kinds: Types that the classifier, the last operation with weights, may be of.
        careful: Include it.
    """
    last = max((i for i, (_, kind) in enumerate(operations) if kind in kinds), default=len(operations))
    return [name for name, _ in operations[last + (not careful):]]


def _quantised(network: Any, calibration: np.ndarray, careful: bool) -> Any:
    """By NNCF, with ranges that hold all that the calibration saw, and biases as they are.

    Its defaults average the extremes of the pictures and correct biases. On solar cells (490 pictures, fine-tuned
    networks of this package) 86 and 93 % then kept the class that PyTorch gives them; with these settings 95 and 96 %,
    and 98 and 99 % with the classifier in float32.
    """
    with _without_reports():
        import nncf

    nncf.set_log_level(logging.ERROR)
    # Sums are the biases of convolutions, and constants and results are no computations.
    operations = [
        (one.get_friendly_name(), one.get_type_name()) for one in network.get_ordered_ops()
        if one.get_type_name() not in ('Add', 'Constant', 'Result')]
    pictures = [picture[None] for picture in calibration]
    settings = nncf.AdvancedQuantizationParameters(
        disable_bias_correction=True,
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX)
    return nncf.quantize(
        network, nncf.Dataset(pictures), subset_size=len(pictures), preset=nncf.QuantizationPreset.MIXED,
        advanced_parameters=settings,
        ignored_scope=nncf.IgnoredScope(
            names=_from_classifier(operations, ('Convolution', 'MatMul'), careful), validate=False))


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
    """Keep off the terminal, and off a notebook, what libraries and the programs that they start print there."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept: Sequence[Tuple[int, int]] = [(stream, os.dup(stream)) for stream in (1, 2)]
    with open(os.devnull, 'w', encoding='utf-8') as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        try:
            for stream, _ in kept:
                os.dup2(nothing.fileno(), stream)
            yield
        finally:
            for stream, copied in kept:
                os.dup2(copied, stream)
                os.close(copied)

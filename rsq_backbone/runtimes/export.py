"""From a network to an ONNX file."""
import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
import torch
import torch.nn as nn

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import whole_file

__all__ = ['contiguous', 'export', 'write_onnx']

_OPSET = 18  # what torch's exporter writes itself; others go through a version converter


def export(network: nn.Module, inputs: Sequence[np.ndarray], file: Path) -> None:
    """Write an ONNX file for inputs of exactly these shapes, for which a runtime can optimise best.

    Args:
        network: On the CPU, in evaluation mode.
        inputs: One array for each of the network's inputs, the batch first.
        file: Is there whole or not at all.

    Raises:
        UserError: if the packages for it are missing, or the network cannot be exported.
    """
    if any(find_spec(library) is None for library in ('onnx', 'onnxscript')):
        raise UserError('an export needs more packages: pip install "rsq-backbone[onnx]"')
    import onnx

    with whole_file(file) as temporary:
        write_onnx(network, [torch.from_numpy(array) for array in inputs], temporary)
        try:
            onnx.checker.check_model(str(temporary))
        except onnx.checker.ValidationError as e:
            raise UserError(f'torch.onnx wrote no valid file of this {type(network).__name__} ({one_line(e)}).') from e


def contiguous(network: nn.Module) -> nn.Module:
    """The network with contiguous weights, a copy if it has others: exporters add operations for channels_last ones."""
    if all(parameter.is_contiguous() for parameter in network.parameters()):
        return network
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format)


def write_onnx(
        network: nn.Module, inputs: Sequence[torch.Tensor], file: Path, input_names: Optional[Sequence[str]] = None,
        output_names: Optional[Sequence[str]] = None, dynamic_shapes: Any = None) -> None:
    """`torch.onnx.export` by torch.export, into one file, without its remarks on its own internals.

    Raises:
        UserError: if the network cannot be exported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            torch.onnx.export(
                contiguous(network), tuple(inputs), str(file), dynamo=True, opset_version=_OPSET, verbose=False,
                input_names=input_names, output_names=output_names, dynamic_shapes=dynamic_shapes,
                external_data=False)
    except Exception as e:  # an exporter fails in as many ways as the networks given to it
        raise UserError(f'torch.onnx cannot export this {type(network).__name__} ({one_line(e)}).') from e

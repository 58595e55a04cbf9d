"""ONNX, the paper's way to devices: one file for any batch and any picture, run without PyTorch."""
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import onnx
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from torch.export import Dim

OPSET = 18  # what torch's exporter writes itself; others go through a version converter

MODEL = ''  # of the fixture `variant`
pytestmark = [
    pytest.mark.usefixtures('variant'),
    # The exporter's own remarks on its internals.
    pytest.mark.filterwarnings('ignore::DeprecationWarning:torch'),
    pytest.mark.filterwarnings('ignore::FutureWarning:torch'),
    pytest.mark.filterwarnings("ignore:For 'tu-' .timm universal. encoders:UserWarning"),
]


def export(model: nn.Module, file: Path, size: Tuple[int, int], multiple: int = 1) -> onnxruntime.InferenceSession:
    """Exported from a batch of 2: a batch of 1 would be taken for a constant."""
    dynamic = {0: Dim('batch'), 2: multiple * Dim('h', min=2), 3: multiple * Dim('w', min=2)} if multiple > 1 else {
        0: Dim('batch'), 2: Dim('height', min=32), 3: Dim('width', min=32)}
    torch.onnx.export(
        model, (torch.rand(2, 3, *size),), str(file), dynamo=True, opset_version=OPSET, verbose=False,
        input_names=['image'], output_names=['output'], dynamic_shapes=(dynamic,), external_data=False)
    onnx.checker.check_model(str(file), full_check=True)
    (opset,) = [entry.version for entry in onnx.load(file).opset_import if entry.domain == '']
    assert opset == OPSET
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])


def assert_parity(session: onnxruntime.InferenceSession, model: nn.Module, *shape: int) -> None:
    x = torch.randn(*shape)
    with torch.inference_mode():
        expected = model(x).numpy()
    (output,) = session.run(None, {'image': x.numpy()})
    assert output.shape == expected.shape
    # Two sets of float32 kernels through some 30 convolutions.
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4 * max(1., np.abs(expected).max()))


@pytest.mark.parametrize('geometry', ['paper', pytest.param('aligned', marks=pytest.mark.slow)])
def test_the_classifier_runs_at_any_batch_and_size(geometry: str, tmp_path: Path) -> None:
    model = timm.create_model(MODEL, pretrained=True, geometry=geometry).eval()
    session = export(model, tmp_path / 'model.onnx', (227, 227))
    for shape in ((2, 227, 227), (1, 227, 227), (3, 227, 227), (1, 224, 224), (3, 97, 131), (1, 32, 32)):
        assert_parity(session, model, shape[0], 3, *shape[1:])


@pytest.mark.slow
@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize('geometry', ['paper', 'aligned'])
def test_the_dilated_classifier_runs_at_any_batch_and_size(geometry: str, output_stride: int, tmp_path: Path) -> None:
    model = timm.create_model(MODEL, pretrained=True, geometry=geometry, output_stride=output_stride).eval()
    session = export(model, tmp_path / 'model.onnx', (128, 128))
    for shape in ((1, 128, 128), (3, 97, 131)):
        assert_parity(session, model, shape[0], 3, *shape[1:])


@pytest.mark.parametrize('route', ['', pytest.param('tu-', marks=pytest.mark.slow)])
def test_a_unet_runs_at_any_batch_and_any_size_divisible_by_32(route: str, tmp_path: Path) -> None:
    model: Any = smp.Unet(f'{route}{MODEL}', classes=3).eval()
    session = export(model, tmp_path / 'unet.onnx', (64, 96), multiple=32)
    for shape in ((2, 64, 96), (1, 64, 96), (3, 64, 96), (1, 128, 64), (3, 224, 224)):
        assert_parity(session, model, shape[0], 3, *shape[1:])

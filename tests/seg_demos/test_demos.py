"""The networks of the four demos: light, trainable in small batches, of any encoder, saved, loaded and exported."""
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F

import rsq_backbone  # noqa: F401  registers
import seg_demos.onnx_export
from rsq_backbone.errors import UserError
from seg_demos import deeplab, pspnet, segnet, unet
from seg_demos.onnx_export import export_onnx
from seg_demos.trained import Trained, load
from seg_demos.training import save_model

DEMOS = {
    'unet': (unet.build, {}),
    'deeplab': (deeplab.build, {}),
    'deeplab v3': (deeplab.build, {'v3': True, 'output_stride': 8}),
    'pspnet': (pspnet.build, {}),
    'segnet': (segnet.build, {}),
}
CONFIG = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
every_demo = pytest.mark.parametrize('demo', DEMOS)


def build(demo, encoder='res_squeezenet', weights=None, classes=3):
    torch.manual_seed(0)
    function, options = DEMOS[demo]
    return function(encoder, weights, classes, **options)


def with_statistics(network):
    """Norms as training leaves them: with neutral ones many faults would not show."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@every_demo
def test_the_decoder_is_light(demo):
    network = build(demo)
    decoder = sum(p.numel() for p in network.decoder.parameters())
    encoder = sum(p.numel() for p in network.encoder.parameters())
    assert encoder == 722_496 + 9_704_448  # all of it, the residual stage included
    assert decoder < 0.25 * encoder


@every_demo
def test_it_starts_from_imagenet_with_the_network_off(demo):
    start = build(demo, weights='imagenet').encoder.state_dict()
    for key, value in smp.encoders.get_encoder('res_squeezenet', weights='imagenet').state_dict().items():
        assert torch.equal(start[key], value), key


@every_demo
@pytest.mark.parametrize('encoder', ['resnet18', 'mobilenet_v2', 'tu-res_squeezenet'])
def test_any_encoder_trains_on_two_crops(demo, encoder):
    network = build(demo, encoder).train()
    logits = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    F.cross_entropy(logits, torch.randint(0, 3, (2, 64, 64))).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(('output_stride', 'rates'), [(16, (6, 12, 18)), (8, (12, 24, 36))])
@pytest.mark.parametrize('v3', [False, True])
def test_deeplab_dilates_as_its_paper_does(v3, output_stride, rates):
    network = deeplab.build('res_squeezenet', None, 2, v3=v3, output_stride=output_stride)
    assert type(network) is (smp.DeepLabV3 if v3 else smp.DeepLabV3Plus)
    assert network.encoder.output_stride == output_stride
    dilations = {m.dilation[0] for m in network.decoder.modules() if isinstance(m, nn.Conv2d)}
    assert dilations == {1, *rates}


@pytest.mark.parametrize('output_stride', [8, 16])
def test_pspnet_pools_the_deepest_map_at_the_stride_asked_for(output_stride):
    network = pspnet.build('res_squeezenet', None, 2, output_stride=output_stride).eval()
    assert network.encoder(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 512, 64 // output_stride, 64 // output_stride)


@every_demo
@torch.inference_mode()
def test_saved_it_comes_back_with_its_classes_and_preprocessing(demo, tmp_path):
    network = with_statistics(build(demo))
    save_model(network, tmp_path, ('sky', 'bird', 'tree'), CONFIG)
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(smp.from_pretrained(tmp_path).eval()(x), network(x))
    trained = load(tmp_path)
    assert (trained.classes, trained.config) == (('sky', 'bird', 'tree'), CONFIG)


@pytest.mark.parametrize('encoder', ['resnet18', 'res_squeezenet'])
def test_smp_loads_it_without_asking_the_hub_for_the_start_of_its_encoder(encoder, tmp_path, monkeypatch):
    """Whatever its encoder began from: the network gate of these tests is shut, and there is no cache."""
    network = build('unet', encoder)
    network.config['encoder_weights'] = 'imagenet'
    save_model(network, tmp_path, ('a', 'b', 'c'), CONFIG)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'empty'))
    assert isinstance(smp.from_pretrained(tmp_path), smp.Unet)


@pytest.mark.parametrize('demo', [
    'unet', 'pspnet', pytest.param('deeplab', marks=pytest.mark.slow), pytest.param('segnet', marks=pytest.mark.slow)])
def test_one_onnx_file_serves_any_batch_and_size(demo, tmp_path):
    network = with_statistics(build(demo))
    trained = Trained(network, ('sky', 'bird', 'tree'), CONFIG, 32)
    assert export_onnx(trained, tmp_path / 'model.onnx') < 1e-3
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx', providers=['CPUExecutionProvider'])
    # Heights and widths that PSPNet's pools divide unevenly, too.
    for shape in ((1, 3, 64, 64), (3, 3, 96, 160), (1, 3, 416, 256)):
        x = torch.randn(shape)
        actual, = session.run(None, {'image': x.numpy()})
        with torch.inference_mode():
            expected = network(x).numpy()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    facts = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / 'model.onnx').metadata_props}
    assert {key: facts[key] for key in ('classes', 'stride', 'mean')} == {
        'classes': ['sky', 'bird', 'tree'], 'stride': 32, 'mean': [0.485, 0.456, 0.406]}


@pytest.mark.parametrize('size', [6, 7, 32, 52, 53])
@pytest.mark.parametrize('parts', [1, 2, 3, 6])
def test_pools_by_matrix_are_adaptive_average_pools(size, parts):
    x = torch.randn(2, 4, size, size + 5, dtype=torch.float64)
    means = seg_demos.onnx_export._means
    torch.testing.assert_close(
        means(size, parts).double() @ x @ means(size + 5, parts).double().T, F.adaptive_avg_pool2d(x, parts),
        rtol=1e-6, atol=1e-6)


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(seg_demos.onnx_export, '_difference', lambda *args: 0.5)
    small = smp.Unet('tu-test_resnet', encoder_weights=None, classes=3, decoder_channels=(8, 8, 8, 8, 8)).eval()
    with pytest.raises(UserError, match='computes something else'):
        export_onnx(Trained(small, ('a', 'b', 'c'), CONFIG, 32), tmp_path / 'model.onnx')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('demo', ['unet', 'deeplab', 'pspnet', 'segnet'])
def test_help_answers_at_once_with_examples_and_the_demo_s_own_options(demo, run_python):
    done = run_python(f'''
        import runpy, sys
        sys.argv = ['{demo}', '--help']
        try:
            runpy.run_module('seg_demos.{demo}', run_name='__main__')
        except SystemExit as e:
            assert not e.code, e.code
        heavy = {{'torch', 'segmentation_models_pytorch', 'lightning', 'matplotlib'}} & set(sys.modules)
        assert not heavy, heavy
    ''')
    assert f'python -m seg_demos.{demo} DATA' in done.stdout
    assert ('--output-stride' in done.stdout) == (demo in ('deeplab', 'pspnet'))
    assert ('--v3' in done.stdout) == (demo == 'deeplab')


def test_export_writes_the_file_and_says_how_far_it_is_off(tmp_path, monkeypatch, capsys):
    from rsq_backbone.cli._running import run_app
    from seg_demos import export

    save_model(build('unet'), tmp_path, ('sky', 'bird', 'tree'), CONFIG)
    monkeypatch.setattr(sys, 'argv', ['export', str(tmp_path)])
    monkeypatch.setattr(seg_demos.onnx_export, 'export_onnx', lambda trained, file: file.write_bytes(b'onnx') * 1e-7)
    with pytest.raises(SystemExit) as ended:
        run_app(export.app, export.COMMAND)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f'{tmp_path / "model.onnx"} (0.0 MB; off PyTorch by 4e-07')

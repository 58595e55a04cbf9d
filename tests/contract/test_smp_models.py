"""What segmentation_models_pytorch's own tests demand of a model (its tests/models/), for every decoder that takes a
convolutional encoder and for our SegNet, with Res-SqueezeNet inside: `res_squeezenet` and `res_squeezenet_lite` from
smp's registry, and `tu-res_squeezenet` by timm.
"""
import inspect
import tempfile
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _NormBase

import seg_demos.segnet_model  # noqa: F401  registers

NATIVE, UNIVERSAL, LITE = 'res_squeezenet', 'tu-res_squeezenet', 'res_squeezenet_lite'
each_encoder = pytest.mark.parametrize('encoder_name', [NATIVE, UNIVERSAL, LITE])

# smp's default encoder_weights='imagenet' is meant for its own encoders; for tu- ones it loads the weights and warns.
pytestmark = pytest.mark.filterwarnings("ignore:For 'tu-' .timm universal. encoders:UserWarning")


class Decoder(NamedTuple):
    """How smp tests a decoder, and what its design allows."""

    batch: int = 1  # 2 where a batch norm follows a global pooling: it needs more than one value
    size: int = 64
    # Strides of the encoder it accepts; `pyramid`: joins levels by doubling, so no level may miss its own stride.
    output_strides: Tuple[int, ...] = (8, 16, 32)
    pyramid: bool = False
    export_tolerance: float = 1e-5


DECODERS = {
    'unet': Decoder(),
    'unetplusplus': Decoder(pyramid=True),
    'manet': Decoder(pyramid=True),
    'linknet': Decoder(pyramid=True),
    'fpn': Decoder(pyramid=True),
    'pspnet': Decoder(batch=2),
    'deeplabv3': Decoder(batch=2, output_strides=(8, 16)),
    'deeplabv3plus': Decoder(batch=2, output_strides=(8, 16)),
    'pan': Decoder(batch=2, size=128, output_strides=(16, 32)),
    'upernet': Decoder(batch=2, export_tolerance=1e-3),  # smp's own tolerance for it
    'segformer': Decoder(),
    'segnet': Decoder(),  # ours
}
STRIDE_ARGUMENT = dict.fromkeys(('deeplabv3', 'deeplabv3plus', 'pan'), 'encoder_output_stride')


def test_every_decoder_of_smp_is_tested() -> None:
    own = {name for name, model in smp.MODEL_ARCHITECTURES_MAPPING.items() if model.__module__.startswith(smp.__name__)}
    assert {*DECODERS, 'dpt'} == own | {'segnet'}  # DPT takes vision transformers only


# Both routes build the same encoder (test_smp_encoder.py), and the variants differ in what no decoder sees; so one of
# them with every decoder is enough for every day.
@pytest.fixture(scope='module', params=[
    *[pytest.param((arch, NATIVE), id=f'{arch}-{NATIVE}') for arch in DECODERS],
    *[pytest.param((arch, name), id=f'{arch}-{name}', marks=[pytest.mark.slow] if arch != 'unet' else [])
      for name in (UNIVERSAL, LITE) for arch in DECODERS],
])
def combination(request: pytest.FixtureRequest) -> Tuple[str, str]:
    return request.param


@pytest.fixture(scope='module')
def arch(combination: Tuple[str, str]) -> str:
    return combination[0]


@pytest.fixture(scope='module')
def encoder_name(combination: Tuple[str, str]) -> str:
    return combination[1]


@pytest.fixture(scope='module')
def model(arch: str, encoder_name: str) -> nn.Module:
    """smp's defaults, pretrained weights included."""
    torch.manual_seed(0)
    return smp.create_model(arch, encoder_name)


def sample(arch: str, chans: int = 3, extra: Tuple[int, int] = (0, 0)) -> torch.Tensor:
    decoder = DECODERS[arch]
    return torch.rand(decoder.batch, chans, decoder.size + extra[0], decoder.size + extra[1])


def depth_arguments(arch: str, depth: int) -> Dict[str, Any]:
    """`encoder_depth`, and as many decoder blocks as there are levels where the decoder wants them listed."""
    default = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[arch]).parameters.get('decoder_channels')
    per_level = default is not None and isinstance(default.default, tuple)
    return {'encoder_depth': depth, **({'decoder_channels': default.default[:depth]} if per_level else {})}


# ---- what smp asks ----

def test_trains_with_every_default(arch: str, model: nn.Module) -> None:
    model.train().zero_grad()
    x = sample(arch)
    masks = model(x)
    assert masks.shape == (len(x), 1, *x.shape[2:])
    masks.mean().backward()
    broken = [n for n, p in model.encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert broken == []


def test_other_channels_depth_and_classes(arch: str, encoder_name: str) -> None:
    model = smp.create_model(arch, encoder_name, in_channels=1, classes=7, **depth_arguments(arch, 3)).eval()
    with torch.inference_mode():
        assert model(sample(arch, chans=1)).shape[1] == 7


def test_classification_head(arch: str, encoder_name: str) -> None:
    aux_params = {'pooling': 'avg', 'classes': 10, 'dropout': 0.5, 'activation': 'sigmoid'}
    model = smp.create_model(arch, encoder_name, aux_params=aux_params).eval()
    pool, flatten, dropout, linear, activation = model.classification_head
    assert isinstance(pool, nn.AdaptiveAvgPool2d)
    assert isinstance(flatten, nn.Flatten)
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5
    assert isinstance(linear, nn.Linear)
    assert linear.in_features == model.encoder.out_channels[-1]
    assert isinstance(activation.activation, nn.Sigmoid)
    with torch.inference_mode():
        _, probabilities = model(sample(arch))
    assert probabilities.shape == (DECODERS[arch].batch, 10)


def test_any_size_gives_a_mask_of_that_size_or_says_what_size_to_pad_to(arch: str, model: nn.Module) -> None:
    x = sample(arch, extra=(3, 7))  # 67 x 71
    model.eval()
    if not model.requires_divisible_input_shape:
        with torch.inference_mode():
            assert model(x).shape[2:] == x.shape[2:]
        return
    with pytest.raises(RuntimeError, match=f'Wrong input shape.*divisible by {model.encoder.output_stride}'):
        model(x)


def test_only_unet_and_segnet_take_any_size() -> None:
    """Which branch the test above takes is smp's to say; if that changes, someone should look."""
    assert [a for a in DECODERS if not smp.MODEL_ARCHITECTURES_MAPPING[a].requires_divisible_input_shape] == [
        'unet', 'segnet']


def test_save_pretrained_round_trip(arch: str, model: nn.Module) -> None:
    model.eval()
    with tempfile.TemporaryDirectory() as folder:  # pytest would keep these files for three runs
        model.save_pretrained(folder, dataset='nuclei', metrics={'mean_iou': 0.99})
        restored = smp.from_pretrained(folder).eval()
        card = (Path(folder) / 'README.md').read_text()
    x = sample(arch)
    with torch.inference_mode():
        assert model(x).shape[1] == 1
        torch.testing.assert_close(restored(x), model(x), rtol=0, atol=0)
    assert 'nuclei' in card
    assert 'mean_iou' in card


@each_encoder
@pytest.mark.parametrize('archs', [
    pytest.param(['unet'], id='unet'),
    pytest.param([arch for arch in DECODERS if arch != 'unet'], id='others', marks=pytest.mark.slow),
])
def test_a_saved_model_opens_in_a_process_that_knows_only_this_package(
        archs: list, encoder_name: str, run_python: Any,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for arch in archs:
            model = smp.create_model(arch, encoder_name, classes=3).eval()
            model.save_pretrained(Path(folder) / arch)
            x = sample(arch)
            with torch.inference_mode():
                torch.save((x, model(x)), Path(folder) / arch / 'expected.pt')
        done = run_python('''
            import sys, warnings
            from pathlib import Path
            import rsq_backbone
            import seg_demos.segnet_model
            import segmentation_models_pytorch as smp
            import torch
            warnings.simplefilter('ignore')
            for folder in sorted(Path(sys.argv[1]).iterdir()):
                x, expected = torch.load(folder / 'expected.pt')
                with torch.inference_mode():
                    masks = smp.from_pretrained(str(folder)).eval()(x)
                # Another process may split the work among threads differently.
                torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-4)
                print(folder.name)
        ''', folder)
    assert [line for line in done.stdout.splitlines() if line in DECODERS] == sorted(archs)  # the hub client prints too


@each_encoder
def test_from_pretrained_for_other_classes_keeps_the_encoder(tmp_path: Path, encoder_name: str) -> None:
    original = smp.Unet(encoder_name, classes=1)
    original.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match='Mismatched keys'):
        restored = smp.from_pretrained(tmp_path, classes=2, strict=False)
    assert restored.segmentation_head[0].out_channels == 2
    before, after = original.state_dict(), restored.state_dict()
    assert {k for k in before if before[k].shape != after[k].shape} == {
        'segmentation_head.0.weight', 'segmentation_head.0.bias'}
    assert [k for k in before if not k.startswith('segmentation_head') and not torch.equal(before[k], after[k])] == []


@pytest.mark.slow
def test_compiles_to_one_dynamic_graph(arch: str, model: nn.Module) -> None:
    model.eval()
    assert model._is_torch_compilable
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend='eager')
    x = sample(arch)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_exports_strictly(arch: str, model: nn.Module) -> None:
    model.eval()
    x = sample(arch)
    exported = torch.export.export(model, args=(x,), strict=True)
    tolerance = DECODERS[arch].export_tolerance
    with torch.inference_mode():
        masks, expected = exported.module()(x), model(x)
    assert masks.shape == expected.shape
    torch.testing.assert_close(masks, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_scripts_wherever_the_decoder_does(arch: str, model: nn.Module) -> None:
    model.eval()
    if not model._is_torch_scriptable:
        assert arch == 'unetplusplus'
        with pytest.raises(RuntimeError):
            torch.jit.script(model)
        return
    scripted = torch.jit.script(model)
    x = sample(arch)
    with torch.inference_mode():
        masks, expected = scripted(x), model(x)
    assert masks.shape == expected.shape
    torch.testing.assert_close(masks, expected, rtol=1e-3, atol=1e-3)  # smp's tolerance


# ---- freezing ----

def norms(encoder: nn.Module) -> list:
    return [m for m in encoder.modules() if isinstance(m, _NormBase)]


@each_encoder
def test_freezing_the_encoder_holds_until_it_is_unfrozen(encoder_name: str) -> None:
    model = smp.Unet(encoder_name, encoder_weights=None).train()

    def state() -> Tuple[set, set]:
        return {p.requires_grad for p in model.encoder.parameters()}, {m.training for m in norms(model.encoder)}

    assert state() == ({True}, {True})
    model.freeze_encoder()
    assert state() == ({False}, {False})
    model.train()
    assert state() == ({False}, {False})
    model.unfreeze_encoder()
    assert state() == ({True}, {True})
    model.train()
    assert state() == ({True}, {True})
    model.eval()
    model.freeze_encoder()
    assert state() == ({False}, {False})
    model.unfreeze_encoder()
    assert state() == ({True}, {True})


@each_encoder
def test_a_frozen_encoder_keeps_its_running_statistics_and_weights(encoder_name: str) -> None:
    model = smp.Unet(encoder_name)
    model.freeze_encoder()
    model.train()
    assert len(norms(model.encoder)) == (6 if encoder_name == LITE else 5)
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(2, 3, 64, 64)).mean().backward()
    optimizer.step()
    assert [k for k, v in model.encoder.state_dict().items() if not torch.equal(v, before[k])] == []


# ---- what smp does not ask: every depth with every output stride ----

COMBINATIONS = [
    (arch, depth, stride)
    for arch, decoder in DECODERS.items() for depth in (3, 4, 5) for stride in decoder.output_strides
    if not decoder.pyramid or stride >= 2 ** depth
]


@pytest.mark.slow
@each_encoder
@pytest.mark.parametrize(('arch', 'depth', 'output_stride'), COMBINATIONS)
def test_mask_has_the_size_of_the_picture_at_any_depth_and_stride(
        arch: str, depth: int, output_stride: int, encoder_name: str,
) -> None:
    final_stride = min(output_stride, 2 ** depth)
    kwargs = depth_arguments(arch, depth)
    if arch == 'pspnet':
        kwargs['upsampling'] = final_stride
    if arch == 'fpn':
        kwargs['upsampling'] = 2 ** (depth - 3)  # its finest map lies three levels above the deepest one
    kwargs[STRIDE_ARGUMENT.get(arch, 'output_stride')] = output_stride
    model = smp.create_model(arch, encoder_name, encoder_weights=None, classes=2, **kwargs)
    assert model.encoder.output_stride == final_stride
    x = torch.rand(2, 3, 256, 128 if arch != 'pan' else 256)  # PAN halves the deepest map three times more
    masks = model(x)
    assert masks.shape == (2, 2, *x.shape[2:])
    masks.square().mean().backward()
    assert [n for n, p in model.encoder.named_parameters() if p.grad is None] == []


@each_encoder
@pytest.mark.parametrize(('arch', 'output_stride'), [('deeplabv3', 32), ('deeplabv3plus', 32), ('pan', 8)])
def test_a_stride_the_decoder_cannot_use_is_refused(arch: str, output_stride: int, encoder_name: str) -> None:
    with pytest.raises(ValueError, match=f'support output stride .* got {output_stride}'):
        smp.create_model(arch, encoder_name, encoder_weights=None, encoder_output_stride=output_stride)

"""The start's features have unit scale, and it computes what SqueezeNet's original weights do."""
import json

import pytest
import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from timm.data import create_transform, resolve_data_config

from rsq_backbone.images import list_images, read_image
from rsq_backbone.res_squeezenet import default_cfgs
from rsq_backbone.unit_scale import dead_leaves, feature_rms, rescale, unit_scale, unit_scale_factors
from rsq_backbone.weights.convert import add_norm_statistics

BUNDLED = default_cfgs['res_squeezenet'].default.file
VARIANTS = ['res_squeezenet', 'res_squeezenet_lite']


def bundled():
    with safe_open(BUNDLED, 'pt') as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()['unit_scale'])  # noqa: SIM118


def original():
    """SqueezeNet's own weights: the bundled file with its scaling undone by hand, layer by layer."""
    state, exponents = bundled()
    names = ['stem.conv1']
    for number in range(2, 10):
        name = f'stages.{min((number - 2) // 2, 2)}.fire{number}'
        names += [f'{name}.squeeze', name]
    assert list(exponents) == names
    read, out = 0, {}
    for name in names:
        fire = not name.endswith(('conv1', 'squeeze'))
        layers = [f'{name}.expand1x1', f'{name}.expand3x3'] if fire else [name]
        for layer in layers:
            out[f'{layer}.weight'] = state[f'{layer}.weight'] * 2.0 ** (read - exponents[name])
            out[f'{layer}.bias'] = state[f'{layer}.bias'] * 2.0 ** -exponents[name]
        read = exponents[name]
    return {**out, 'conv10.weight': state['conv10.weight'] * 2.0 ** read, 'conv10.bias': state['conv10.bias']}


def photographs(model):
    transform = create_transform(**resolve_data_config(model=model))
    return torch.stack([transform(Image.fromarray(getattr(skimage.data, name)()))
                        for name in ('coffee', 'cat', 'rocket', 'astronaut')])


def rms(x):
    return x.double().square().mean().sqrt().item()


def test_the_original_weights_are_far_from_unit_scale():
    """What all this is for; the figures are those of 100 ImageNet photographs."""
    sizes = {name: rms(by_channel) for name, by_channel in feature_rms(original(), dead_leaves()).items()}
    assert sizes['stem.conv1'] == pytest.approx(34, rel=0.3)
    assert sizes['stages.0.fire3'] == pytest.approx(60, rel=0.3)
    assert sizes['stages.1.fire4.squeeze'] == pytest.approx(206, rel=0.3)
    assert sizes['stages.2.fire9'] == pytest.approx(12, rel=0.3)


@pytest.mark.parametrize('geometry', ['paper', 'aligned'])
@pytest.mark.parametrize('name', VARIANTS)
def test_every_level_and_every_squeeze_has_an_rms_between_a_half_and_two(name, geometry, rsq_data):
    model = timm.create_model(name, pretrained=True, geometry=geometry).eval()
    transform = create_transform(**resolve_data_config(model=model))
    batch = torch.stack([transform(read_image(path)) for path in list_images(rsq_data / 'imagenet-samples')])
    sizes = {}
    for layer, module in model.named_modules():
        if layer.endswith('squeeze_act'):
            module.register_forward_hook(lambda _, inputs, output, layer=layer: sizes.update({layer: rms(output)}))
    with torch.no_grad():
        levels = model.forward_intermediates(batch, intermediates_only=True)
    sizes.update({f'level {i}': rms(level) for i, level in enumerate(levels)})
    assert len(sizes) == 8 + 5
    assert {layer: size for layer, size in sizes.items() if not 0.5 < size < 2} == {}


@pytest.mark.parametrize('kwargs', [
    {}, {'geometry': 'aligned'}, {'output_stride': 16}, {'output_stride': 8, 'geometry': 'aligned'},
    {'in_chans': 1}, {'in_chans': 4}])
@pytest.mark.parametrize('name', VARIANTS)
def test_the_logits_are_those_of_the_original_weights(name, kwargs):
    """To the bit where no batch norm is on the way; those of `res_squeezenet` round."""
    model = timm.create_model(name, pretrained=True, **kwargs).eval()
    torch.manual_seed(0)
    before = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=original()), **kwargs).eval()
    batch = photographs(timm.create_model(name))
    batch = batch[:, :1] if kwargs.get('in_chans') == 1 else torch.cat([batch, batch[:, :1]], 1)[:, :model.in_chans]
    with torch.no_grad():
        logits, expected = model(batch), before(batch)
    assert expected.max() > 10
    if name == 'res_squeezenet_lite':
        assert torch.equal(logits, expected)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_in_training_mode_the_start_is_no_further_from_its_function_than_at_the_original_scale():
    model = timm.create_model('res_squeezenet', pretrained=True, drop_rate=0.)
    state, batch = original(), photographs(model)
    _, exponents = bundled()
    evaluated = model.eval()(batch)

    def error():
        return float((model.train()(batch) - evaluated).norm() / evaluated.norm())

    with_unit_scale = error()
    # The same statistics at the original scale.
    scaled, _ = bundled()
    factor = 2.0 ** -exponents['stages.2.fire9']
    for key, value in scaled.items():
        if key.startswith('stages.3.'):
            power = 2 if key.endswith('var') else 1 if key.startswith('stages.3.res5a.shortcut') or 'mean' in key else 0
            state[key] = value * factor ** power
    model.load_state_dict({**model.state_dict(), **state})
    assert with_unit_scale <= 1.001 * error()


def test_factors_are_powers_of_two_that_bring_each_layer_near_one():
    sizes = {'a': torch.tensor([3., 4.]).double(), 'b': torch.tensor([0.1]).double(), 'dead': torch.zeros(2).double()}
    factors = unit_scale_factors(sizes)
    # sqrt((9 + 16) / 2) = 3.54, nearest power of two in ratio is 4; 0.1 -> 1/8.
    assert {name: factor.tolist() for name, factor in factors.items()} == {
        'a': [0.25, 0.25], 'b': [8.0], 'dead': [1.0, 1.0]}


@pytest.mark.parametrize('kind', ['layer', 'channel'])
def test_rescaling_changes_no_logit_whatever_the_factors(kind):
    state = original()
    generator = torch.Generator().manual_seed(0)
    factors = {name: 2.0 ** torch.randint(-6, 7, (len(size) if kind == 'channel' else 1,), generator=generator)
               .double().expand(len(size)) for name, size in feature_rms(state, dead_leaves(1, 67)).items()}
    scaled = rescale(state, factors)
    assert scaled.keys() == state.keys()

    def logits(weights):
        model = timm.create_model(
            'res_squeezenet_lite', pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights))
        with torch.no_grad():
            return model.eval()(dead_leaves(1, 67))

    assert torch.equal(logits(scaled), logits(state))


def test_rescaling_there_and_back_gives_the_same_weights():
    state = original()
    factors = unit_scale_factors(feature_rms(state, dead_leaves()))
    back = rescale(rescale(state, factors), {name: 1 / factor for name, factor in factors.items()})
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize('name', VARIANTS)
def test_torchvisions_checkpoint_is_brought_to_unit_scale_as_it_is_loaded(name):
    """Here with Caffe's weights under torchvision's names; torchvision's own need the network."""
    squeeze = torchvision.models.squeezenet1_1(weights=None).eval()
    squeeze.load_state_dict(dict(zip(squeeze.state_dict(), original().values(), strict=True)))
    model = timm.create_model(
        f'{name}.tv_in1k', pretrained=True, pretrained_cfg_overlay=dict(state_dict=squeeze.state_dict())).eval()
    batch = photographs(model)
    with torch.no_grad():
        levels = model.forward_intermediates(batch, intermediates_only=True)
        expected = torch.relu(squeeze.classifier[1](squeeze.features(batch)))[:, :, ::2, ::2].mean((2, 3))
        torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-4)
    assert rms(squeeze.features[:2](batch)) > 20
    for level in levels:
        assert 0.5 < rms(level) < 2


def test_any_scale_ends_at_the_same_weights():
    state = original()
    factors = {name: torch.full_like(size, 2.0 ** (i % 5 - 9))
               for i, (name, size) in enumerate(feature_rms(state, dead_leaves()).items())}
    expected, actual = unit_scale(state), unit_scale(rescale(state, factors))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize('name', VARIANTS)
def test_a_full_checkpoint_made_before_unit_scale_loads_as_what_it_is(name, tmp_path):
    before = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=original())).eval()
    torch.save(before.state_dict(), tmp_path / 'old.pth')
    for model in (
            timm.create_model(name, checkpoint_path=str(tmp_path / 'old.pth')),
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'old.pth')))):
        assert all(torch.equal(value, before.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_step_leaves_what_it_is_given_as_it_was():
    state = original()
    copy = {key: value.clone() for key, value in state.items()}
    unit_scale(state)
    assert all(torch.equal(state[key], copy[key]) for key in state)
    assert state.keys() == copy.keys()


def test_statistics_of_the_residual_stage_are_those_of_features_at_unit_scale(rsq_data):
    from rsq_backbone.weights.convert import read_photos

    expected, _ = bundled()
    state = {key: value for key, value in expected.items() if not key.startswith('stages.3.')}
    add_norm_statistics(state, read_photos(rsq_data / 'imagenet-samples'))
    for key, value in expected.items():
        # Of another processor's rounding.
        torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4)

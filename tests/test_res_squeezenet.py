"""What the network computes, against computations that share no code with it."""
import numpy as np
import pytest
import skimage.data
import timm
import torch
import torchvision
from PIL import Image
from safetensors.numpy import load_file
from timm.data import ImageNetInfo, create_transform, resolve_data_config

from rsq_backbone.classification import classify
from rsq_backbone.images import list_images, read_image
from rsq_backbone.res_squeezenet import BatchNorm2d, checkpoint_filter_fn, default_cfgs

BUNDLED = default_cfgs['res_squeezenet'].default.file


def conv(x, weight, bias, stride=1, padding=0):
    """Convolution of (C, H, W) by its definition."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum('chwij,ocij->ohw', windows, weight) + bias[:, None, None]


def max_pool(x):
    """3 x 3, stride 2, windows may hang over the far border (ceil mode)."""
    rows, columns = (-(-(size - 3) // 2) + 1 for size in x.shape[1:])
    return np.stack([
        np.stack([x[:, 2 * r:2 * r + 3, 2 * c:2 * c + 3].max((1, 2)) for c in range(columns)], 1) for r in range(rows)
    ], 1)


def squeezenet(x, weights):
    """SqueezeNet 1.1's class maps, from the paper's description of its layers."""
    weights = {k: v.astype(np.float64) for k, v in weights.items()}

    def layer(x, name, **kwargs):
        return np.maximum(conv(x, weights[f'{name}.weight'], weights[f'{name}.bias'], **kwargs), 0)

    x = layer(x, 'stem.conv1', stride=2)
    for fires in ((2, 3), (4, 5), (6, 7, 8, 9)):
        x = max_pool(x)
        for fire in fires:
            name = f'stages.{min((fire - 2) // 2, 2)}.fire{fire}'
            x = layer(x, f'{name}.squeeze')
            x = np.concatenate([layer(x, f'{name}.expand1x1'), layer(x, f'{name}.expand3x3', padding=1)])
    return layer(x, 'conv10')


VARIANTS = ['res_squeezenet', 'res_squeezenet_lite']


def pretrained(name='res_squeezenet', **kwargs):
    return timm.create_model(name, pretrained=True, **kwargs)


def torchvision_squeezenet():
    """torchvision's network with the bundled weights: both list their 26 convolutions in the same order."""
    model = torchvision.models.squeezenet1_1(weights=None).eval()
    bundled = {key: torch.from_numpy(array) for key, array in load_file(BUNDLED).items()}
    names = [k for k in pretrained().state_dict() if not k.startswith('stages.3')]
    model.load_state_dict({k: bundled[name] for k, name in zip(model.state_dict(), names, strict=True)})
    return model


@pytest.mark.parametrize('name', VARIANTS)
def test_trunk_and_classifier_equal_a_plain_numpy_forward(name):
    x = np.random.default_rng(0).standard_normal((3, 67, 83))
    expected = squeezenet(x, load_file(BUNDLED))
    model = pretrained(name).eval().double()
    with torch.no_grad():
        features = model.forward_intermediates(torch.from_numpy(x)[None], indices=[3], intermediates_only=True)[0]
        actual = model.relu_conv10(model.conv10(features))[0].numpy()
    assert actual.shape == expected.shape == (1000, 4, 5)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('name', VARIANTS)
@pytest.mark.parametrize('size', [(227, 227), (224, 224), (97, 131), (32, 32)])
def test_pretrained_logits_are_squeezenets_read_at_every_second_position(size, name):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    squeeze = torchvision_squeezenet()
    with torch.no_grad():
        expected = torch.relu(squeeze.classifier[1](squeeze.features(x)))[:, :, ::2, ::2].mean((2, 3))
        actual = pretrained(name).eval()(x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', VARIANTS)
def test_torchvision_checkpoint_loads_with_the_same_function(name):
    """The tag tv_in1k gets such a file from the network; here it is made."""
    torch.manual_seed(0)
    squeeze = torchvision.models.squeezenet1_1(weights=None).eval()
    model = timm.create_model(
        f'{name}.tv_in1k', pretrained=True, pretrained_cfg_overlay=dict(state_dict=squeeze.state_dict())).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = torch.relu(squeeze.classifier[1](squeeze.features(x)))[:, :, ::2, ::2].mean((2, 3))
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', VARIANTS)
def test_full_checkpoint_passes_the_filter_unchanged(name):
    model = timm.create_model(name)
    state = model.state_dict()
    filtered = checkpoint_filter_fn(dict(state), model)
    assert filtered.keys() == state.keys()
    assert all(filtered[k] is state[k] for k in state)


@pytest.mark.parametrize(('name', 'other'), [VARIANTS, VARIANTS[::-1]])
def test_a_checkpoint_of_the_other_variant_is_refused_by_the_names_of_its_layers(name, other, tmp_path):
    torch.save(timm.create_model(other).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*stages\.3.*Unexpected key.*stages\.3'):
        timm.create_model(name, checkpoint_path=str(tmp_path / 'other.pth'))


def photographs():
    return [Image.fromarray(getattr(skimage.data, name)()) for name in ('coffee', 'cat', 'rocket', 'astronaut')]


def test_pretrained_names_what_is_in_photographs():
    coffee, cat = classify(photographs()[:2], pretrained().eval(), topk=3)
    assert coffee.predictions[0].class_name == 'espresso'
    assert {p.class_name for p in cat.predictions} == {'Egyptian cat', 'tiger cat', 'tabby, tabby cat'}


def batch_of(pictures, model):
    transform = create_transform(**resolve_data_config(model=model))
    return torch.stack([transform(picture) for picture in pictures])


@torch.no_grad()
def test_start_keeps_its_function_in_training_mode_as_far_as_batch_statistics_allow():
    """Four pictures give noisy statistics, hence the comparison with a batch norm of one scale for all and no shift."""
    model = pretrained(drop_rate=0.)
    batch = batch_of(photographs(), model)
    evaluated = model.eval()(batch)

    def error():
        return float((model.train()(batch) - evaluated).norm() / evaluated.norm())

    with_statistics = error()
    norm = model.stages[3].res5a.shortcut.bn
    torch.nn.init.ones_(norm.weight)
    torch.nn.init.zeros_(norm.bias)
    assert with_statistics < 0.8 * error()


@torch.no_grad()
def test_the_lite_start_keeps_its_function_in_training_mode_whatever_the_batch():
    """Its shortcuts have no norms, and what the blocks add is scaled by zero."""
    model = pretrained('res_squeezenet_lite', drop_rate=0.)
    batch = batch_of(photographs()[:1], model)
    assert torch.equal(model.eval()(batch), model.train()(batch))


def test_start_is_kept_in_training_mode_on_a_large_batch(rsq_data):
    model = pretrained(drop_rate=0.)
    batch = batch_of(map(read_image, list_images(rsq_data / 'imagenet-samples')), model)
    with torch.no_grad():
        evaluated = model.eval()(batch)
        trained = model.train()(batch)
    torch.testing.assert_close(trained, evaluated, rtol=1e-2, atol=1e-2)


def test_accuracy_is_within_two_points_of_squeezenet(rsq_data):
    paths = list_images(rsq_data / 'imagenet-samples')
    names = ImageNetInfo().label_names()
    labels = torch.tensor([names.index(path.name.split('_')[0]) for path in paths])
    model = pretrained().eval()
    batch = batch_of(map(read_image, paths), model)
    with torch.no_grad():
        ours, squeezenets = (100 * (m(batch).argmax(1) == labels).double().mean() for m in (
            model, torchvision_squeezenet()))
    assert len(paths) == 100
    assert ours >= squeezenets - 2
    assert ours > 55


def test_dead_class_gets_gradient_only_without_logit_relu():
    for logit_relu, learns in ((True, False), (False, True)):
        model = pretrained(logit_relu=logit_relu, drop_rate=0., num_classes=3).eval()
        with torch.no_grad():
            model.conv10.bias[1] = -1000.
        logits = model(torch.randn(2, 3, 64, 64))
        torch.nn.functional.cross_entropy(logits, torch.tensor([1, 1])).backward()
        assert bool(model.conv10.weight.grad[1].abs().sum() > 0) is learns


class TestBatchNorm2d:
    def both(self):
        torch.manual_seed(0)
        ours, torchs = BatchNorm2d(4), torch.nn.BatchNorm2d(4)
        for norm in (ours, torchs):
            norm.weight.data.copy_(torch.tensor([1., 2., 3., 4.]))
        return ours, torchs

    def assert_equal(self, ours, torchs):
        for key, value in torchs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=0, atol=0)

    @pytest.mark.parametrize('momentum', [0.1, 0.5, None])
    def test_equals_torchs_in_training_and_evaluation(self, momentum):
        ours, torchs = self.both()
        ours.momentum = torchs.momentum = momentum
        for _ in range(3):
            x = torch.randn(2, 4, 3, 3)
            torch.testing.assert_close(ours(x), torchs(x), rtol=0, atol=0)
        self.assert_equal(ours, torchs)
        ours.eval(), torchs.eval()
        torch.testing.assert_close(ours(x), torchs(x), rtol=0, atol=0)

    def test_one_value_per_channel_is_normalised_by_the_running_statistics_which_stay(self):
        ours, torchs = self.both()
        ours(torch.randn(2, 4, 3, 3))
        before = {k: v.clone() for k, v in ours.state_dict().items() if k.startswith('running')}
        x = torch.randn(1, 4, 1, 1)
        with pytest.raises(ValueError, match='more than 1 value'):
            torchs(x)
        torch.testing.assert_close(ours.train()(x), ours.eval()(x))
        for key, value in before.items():
            torch.testing.assert_close(ours.state_dict()[key], value, rtol=0, atol=0)

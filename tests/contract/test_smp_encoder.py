"""What segmentation_models_pytorch's own tests demand of an encoder (its tests/encoders/base.py), on both routes.

A variant's own name is the entry in smp's registry; with `tu-` before it, it comes by timm. What smp does not ask
stands below.
"""
import contextlib
import warnings
from typing import Any, List

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn

import rsq_backbone  # noqa: F401  registers

MODEL = ''  # of the fixture `variant`
pytestmark = pytest.mark.usefixtures('variant')
OUTPUT_STRIDES = [1, 2, 4, 8, 16, 32]
CHANNELS = [64, 128, 256, 512, 512]


@pytest.fixture(params=['', 'tu-'], ids=['native', 'universal'])
def name(request: pytest.FixtureRequest, variant: str) -> str:
    return request.param + variant


def encoder_for(name: str, **kwargs: Any) -> nn.Module:
    return smp.encoders.get_encoder(name, **kwargs)


def pretrained(name: str, **kwargs: Any) -> nn.Module:
    return encoder_for(name, weights=True if name.startswith('tu-') else 'imagenet', **kwargs)


def sample(chans: int = 3, size: int = 64) -> torch.Tensor:
    return torch.rand(1, chans, size, size)


def assert_same_features(ours: List[torch.Tensor], expected: List[torch.Tensor], **tolerance: float) -> None:
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


# ---- what smp asks ----

def test_six_feature_maps_that_train_on_a_single_picture(name: str) -> None:
    encoder = encoder_for(name, in_channels=3, weights=None)
    features = encoder(sample())
    assert len(features) == 6
    features[-1].mean().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize('in_channels', [1, 3, 4])
def test_any_number_of_input_channels(name: str, in_channels: int) -> None:
    encoder = encoder_for(name, in_channels=in_channels, weights=None).eval()
    x = sample(in_channels)
    with torch.inference_mode():
        features = encoder(x)
    assert torch.equal(features[0], x)
    assert encoder.out_channels == [in_channels, *CHANNELS]


@pytest.mark.parametrize('depth', [1, 2, 3, 4, 5])  # smp asks for 3, 4 and 5
def test_depth_gives_the_levels_of_exact_stride(name: str, depth: int) -> None:
    encoder = encoder_for(name, in_channels=3, weights=None, depth=depth).eval()
    with torch.inference_mode():
        features = encoder(sample())
    strides = OUTPUT_STRIDES[:depth + 1]
    assert len(features) == depth + 1
    assert [64 // f.shape[2] for f in features] == strides
    assert [64 // f.shape[3] for f in features] == strides
    assert encoder.output_stride == strides[-1]
    assert len(encoder.out_channels) == depth + 1
    assert [f.shape[1] for f in features] == encoder.out_channels


@pytest.mark.parametrize('depth', [-1, 0, 6])
def test_a_depth_that_does_not_exist_is_refused(name: str, depth: int) -> None:
    with pytest.raises(ValueError, match=rf'depth should be in range \[1, 5\], got {depth}'):
        encoder_for(name, depth=depth)


@pytest.mark.parametrize('depth', [3, 4, 5])
@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_output_stride_bounds_every_level_exactly(name: str, output_stride: int, depth: int) -> None:
    """smp itself asks no more than that no stride exceeds the bound, at full depth."""
    encoder = encoder_for(name, in_channels=3, weights=None, output_stride=output_stride, depth=depth).eval()
    with torch.inference_mode():
        features = encoder(sample())
    expected = [64 // min(stride, output_stride) for stride in OUTPUT_STRIDES[:depth + 1]]
    assert [f.shape[2] for f in features] == expected
    assert [f.shape[3] for f in features] == expected
    assert [f.shape[1] for f in features] == encoder.out_channels == [3, *CHANNELS[:depth]]
    assert encoder.output_stride == min(output_stride, 2 ** depth)


def test_compiles_to_one_dynamic_graph(name: str) -> None:
    encoder = encoder_for(name, weights=None).eval()
    assert encoder._is_torch_compilable
    torch.compiler.reset()
    compiled = torch.compile(encoder, fullgraph=True, dynamic=True, backend='eager')
    for x in (sample(), sample(size=96)):
        assert_same_features(compiled(x), encoder(x))


def test_exports_strictly(name: str) -> None:
    encoder = encoder_for(name, weights=None).eval()
    assert encoder._is_torch_exportable
    x = sample()
    exported = torch.export.export(encoder, args=(x,), strict=True)
    with torch.inference_mode():
        assert_same_features(exported.module()(x), encoder(x))


def test_scripts(name: str) -> None:
    encoder = encoder_for(name, weights=None).eval()
    assert encoder._is_torch_scriptable
    scripted = torch.jit.script(encoder)
    with torch.inference_mode():
        for x in (sample(), sample(size=96)):
            assert_same_features(scripted(x), encoder(x))


@pytest.mark.parametrize(('weights', 'expectation'), [
    pytest.param('imagenet', pytest.warns(UserWarning, match='encoder_weights'), id='a tag is not for tu- encoders'),
    pytest.param(True, contextlib.nullcontext(), id='True'),
    pytest.param(None, contextlib.nullcontext(), id='None'),
])
def test_universal_encoder_warns_of_a_weights_tag_and_of_nothing_else(weights: Any, expectation: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with expectation:
            encoder_for(f'tu-{MODEL}', weights=weights)


@pytest.mark.parametrize('weights', ['imagenet', None])
def test_registered_encoder_warns_of_nothing(weights: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        encoder_for(MODEL, weights=weights)


def test_unknown_weights_are_refused_by_name() -> None:
    with pytest.raises(KeyError, match=r'Wrong pretrained weights `instagram`.*imagenet'):
        encoder_for(MODEL, weights='instagram')


def test_preprocessing_is_that_of_imagenet(name: str) -> None:
    assert smp.encoders.get_preprocessing_params(name) == {
        'input_space': 'RGB', 'input_range': [0, 1], 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}
    white = torch.full((4, 4, 3), 255.).numpy()
    prepared = smp.encoders.get_preprocessing_fn(name)(white)
    assert prepared[0, 0] == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])


def test_the_encoder_is_in_smps_list() -> None:
    assert MODEL in smp.encoders.get_encoder_names()


# ---- what smp does not ask ----

def test_extra_arguments_reach_the_timm_model() -> None:
    paper = encoder_for(f'tu-{MODEL}', weights=None, geometry='paper').eval()
    assert [f.shape[-1] for f in paper(sample(size=227))] == [227, 113, 56, 28, 14, 7]


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('in_channels', [1, 2, 3, 4, 6])
def test_both_routes_give_the_same_pretrained_features(in_channels: int, output_stride: int) -> None:
    """Also for other numbers of channels, which smp and timm adapt by code of their own."""
    native, universal = (
        pretrained(name, in_channels=in_channels, output_stride=output_stride).eval()
        for name in (MODEL, f'tu-{MODEL}'))
    x = torch.randn(1, in_channels, 64, 64)
    with torch.inference_mode():
        assert_same_features(native(x), universal(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('depth', [1, 2, 3, 4, 5])
def test_pretrained_features_are_those_of_the_classifier_at_any_depth(name: str, depth: int) -> None:
    classifier = timm.create_model(MODEL, pretrained=True, geometry='aligned').eval()
    encoder = pretrained(name, depth=depth).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        levels = classifier.forward_intermediates(x, intermediates_only=True)
        assert_same_features(encoder(x), [x, *levels[:depth]])


@pytest.mark.parametrize('depth', [1, 2, 3, 4, 5])
def test_no_parameter_is_left_idle(name: str, depth: int) -> None:
    encoder = encoder_for(name, weights=None, depth=depth)
    encoder(sample())[-1].mean().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('output_stride', [4, 12, 64])
def test_an_output_stride_that_does_not_exist_is_refused(name: str, output_stride: int) -> None:
    with pytest.raises(ValueError, match=rf'8, 16 or 32, got {output_stride}'):
        encoder_for(name, weights=None, output_stride=output_stride)


def test_dilating_an_encoder_built_without_dilation_is_refused_with_the_remedy() -> None:
    encoder = encoder_for(MODEL)
    with pytest.raises(ValueError, match='output_stride=16 instead'):
        encoder.make_dilated(16)
    with pytest.raises(ValueError, match='should be 16 or 8, got 4'):
        encoder.make_dilated(4)
    encoder_for(MODEL, output_stride=8).make_dilated(8)


@pytest.mark.parametrize('depth', [1, 3, 5])
def test_stages_are_listed_by_the_stride_at_which_they_end(depth: int) -> None:
    encoder = encoder_for(MODEL, depth=depth)
    stages = encoder.get_stages()
    assert sorted(stages) == [2 ** level for level in range(2, depth + 1)]
    listed = {id(p) for modules in stages.values() for m in modules for p in m.parameters()}
    assert listed == {id(p) for p in encoder.stages.parameters()}


def test_gradient_checkpointing_changes_no_feature_and_no_gradient() -> None:
    encoder = encoder_for(MODEL).train()
    x = sample()
    results = []
    for enable in (False, True):
        encoder.set_grad_checkpointing(enable)
        encoder.zero_grad()
        features = encoder(x)
        sum(f.square().mean() for f in features[1:]).backward()
        results.append((features, [p.grad.clone() for p in encoder.parameters()]))
    assert_same_features(results[1][0], results[0][0])
    assert_same_features(results[1][1], results[0][1])


def test_loading_something_else_fails_instead_of_passing_silently() -> None:
    encoder = encoder_for(MODEL)
    whole = timm.create_model(MODEL).state_dict()
    encoder.load_state_dict(whole)  # the classifier's own weights fit
    assert all(torch.equal(value, whole[key]) for key, value in encoder.state_dict().items())
    without = {k: v for k, v in whole.items() if k != 'stages.0.fire2.squeeze.weight'}
    with pytest.raises(RuntimeError, match=r'Missing key.*stages\.0\.fire2\.squeeze\.weight'):
        encoder.load_state_dict(without)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*decoder\.weight'):
        encoder.load_state_dict({**whole, 'decoder.weight': torch.zeros(1)})


@pytest.mark.parametrize('depth', [1, 2, 3, 4, 5])
def test_own_state_round_trips_at_any_depth(name: str, depth: int) -> None:
    """A state without a residual stage is not taken for SqueezeNet's, whose start is another."""
    encoder, other = (encoder_for(name, weights=None, depth=depth).eval() for _ in range(2))
    other.load_state_dict(encoder.state_dict())
    x = sample()
    with torch.inference_mode():
        for feature, expected in zip(other(x), encoder(x), strict=True):
            assert torch.equal(feature, expected)

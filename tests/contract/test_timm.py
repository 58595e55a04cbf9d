"""What timm's own tests demand of a model (its tests/test_models.py), demanded of both networks.

timm collects its tests from its registry and leaves out, silently, what it does not find there; the last section makes
sure that it would find each model for every one of the twelve tests that apply to it.
"""
import fnmatch
import math
import sys
from typing import Any, Dict, List, Tuple

import pytest
import timm
import torch
import torch.nn as nn
from timm.models import FeatureInfo, get_notrace_functions, get_notrace_modules
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

MODEL = ''  # of the fixture `variant`
BUNDLED = 'caffe_in1k'
TAGS = [BUNDLED, 'tv_in1k']
WITH_WEIGHTS = [BUNDLED, pytest.param('tv_in1k', marks=pytest.mark.network)]  # torchvision's are downloaded

# timm asks at the model's own size, or at its smallest where that is too large for the test: 227 and 32.
SIZES = [227, 32]
pytestmark = [
    pytest.mark.usefixtures('variant'),
    # torchvision remarks that the graphs for training and evaluation differ.
    pytest.mark.filterwarnings('ignore:NOTE. The nodes obtained by tracing:UserWarning'),
]
GEOMETRIES = [pytest.param({}, id='default'), pytest.param({'geometry': 'aligned'}, id='aligned')]


def images(batch: int, size: int, chans: int = 3) -> torch.Tensor:
    return torch.randn(batch, chans, size, size, generator=torch.Generator().manual_seed(size))


def assert_every_parameter_got_a_gradient(model: nn.Module) -> None:
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with_gradient = sum(p.grad.numel() for p in model.parameters())
    assert with_gradient == sum(p.numel() for p in model.parameters())


def assert_levels_match(info: Any, levels: List[torch.Tensor], batch: int, size: int) -> None:
    """As many levels as announced, of the announced channels, and no larger than the announced reduction allows."""
    channels, reductions = info.channels(), info.reduction()
    assert len(levels) == len(channels) >= 3
    for level, chans, reduction in zip(levels, channels, reductions, strict=True):
        assert level.shape[:2] == (batch, chans)
        assert max(level.shape[2:]) <= math.ceil(size / reduction) + 1
        assert not level.isnan().any()


def traced(model: nn.Module) -> nn.Module:
    """The model as a torch.fx graph for training and evaluation, made the way timm's tests make it."""
    options: Dict[str, Any] = dict(
        leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions(), param_shapes_constant=True)
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=options)
    return create_feature_extractor(
        model, train_return_nodes=[train_nodes[-1]], eval_return_nodes=[eval_nodes[-1]], tracer_kwargs=options)


# ---- forward and backward ----

@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kwargs', GEOMETRIES)
def test_forward_is_finite_and_gradient_checkpointing_does_not_change_it(kwargs: Dict[str, Any], size: int) -> None:
    model = timm.create_model(MODEL, **kwargs).eval()
    x = images(1, size)
    plain = model(x)
    assert plain.shape == (1, 1000)
    assert not plain.isnan().any()
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-5)  # timm's tolerance


def test_gradient_checkpointing_leaves_the_gradients_as_they_are() -> None:
    model = timm.create_model(MODEL, drop_rate=0., logit_relu=False).train()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images(2, 64)).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, msg=lambda m, name=name: f'{name}: {m}')


@pytest.mark.parametrize('size', [128, 32])
@pytest.mark.parametrize('kwargs', GEOMETRIES)
def test_backward_reaches_every_parameter(kwargs: Dict[str, Any], size: int) -> None:
    model = timm.create_model(MODEL, num_classes=42, **kwargs).train()
    logits = model(images(2, size))
    logits.mean().backward()
    assert logits.shape == (2, 42)
    assert not logits.isnan().any()
    assert_every_parameter_got_a_gradient(model)


# ---- what the configuration promises ----

@pytest.mark.parametrize('tag', TAGS)
def test_default_cfg_tells_the_truth_about_the_model(tag: str) -> None:
    name = f'{MODEL}.{tag}'
    model = timm.create_model(name).eval()
    cfg = model.default_cfg
    keys = set(model.state_dict())
    assert model.num_classes == cfg['num_classes'] >= 0
    assert model.num_features > 0
    assert model.head_hidden_size > 0
    assert f"{cfg['classifier']}.weight" in keys
    assert f"{cfg['first_conv']}.weight" in keys

    x = images(1, cfg['input_size'][-1])
    features = model.forward_features(x)
    assert features.shape == (1, model.num_features, *cfg['pool_size'])
    pre_logits = model.forward_head(features, pre_logits=True)
    assert pre_logits.shape[1] == model.head_hidden_size

    model.reset_classifier(0)
    assert model.num_classes == 0
    pooled = model(x)
    assert pooled.ndim == 2
    assert pooled.shape[1] == model.head_hidden_size
    assert pooled.shape == pre_logits.shape

    model.reset_classifier(0, '')
    assert model(x).ndim == 4
    assert model(x).shape[2:] == cfg['pool_size']

    headless = timm.create_model(name, num_classes=0, global_pool='').eval()
    assert headless(x).ndim == 4
    assert headless(x).shape[2:] == cfg['pool_size']


def test_headless_outputs_are_the_features_themselves() -> None:
    """timm compares shapes only; these are the numbers behind them."""
    model = timm.create_model(f'{MODEL}.{BUNDLED}', pretrained=True).eval()
    x = images(2, 227)
    features = model.forward_features(x)
    pre_logits = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pre_logits, features.mean((2, 3)))
    torch.testing.assert_close(model.forward_head(features), model(x))
    torch.testing.assert_close(
        model(x), torch.einsum('nchw,kc->nkhw', features, model.conv10.weight[:, :, 0, 0]).add(
            model.conv10.bias[:, None, None]).relu().mean((2, 3)), rtol=1e-4, atol=1e-4)  # another order of summation
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pre_logits)
    model.reset_classifier(0, '')
    torch.testing.assert_close(model(x), features)


# ---- pretrained weights ----

@pytest.mark.parametrize('num_classes', [5, 0])
@pytest.mark.parametrize('tag', WITH_WEIGHTS)
def test_pretrained_weights_load_for_other_channels_and_classes(tag: str, num_classes: int) -> None:
    name = f'{MODEL}.{tag}'
    model = timm.create_model(name, pretrained=True, in_chans=1, num_classes=num_classes).eval()
    original = timm.create_model(name, pretrained=True)
    # One grey channel stands for three equal ones.
    torch.testing.assert_close(model.stem.conv1.weight, original.stem.conv1.weight.sum(1, keepdim=True))
    torch.testing.assert_close(model.stages[2].fire9.expand3x3.weight, original.stages[2].fire9.expand3x3.weight)
    assert model(images(2, 64, chans=1)).shape == (2, num_classes or 512)


@pytest.mark.parametrize('tag', WITH_WEIGHTS)
def test_pretrained_weights_load_as_a_feature_pyramid(tag: str) -> None:
    name = f'{MODEL}.{tag}'
    pyramid = timm.create_model(name, pretrained=True, features_only=True).eval()
    whole = timm.create_model(name, pretrained=True, geometry='aligned').eval()
    x = images(1, 96)
    for ours, theirs in zip(pyramid(x), whole.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(ours, theirs)


# ---- feature pyramids ----

@pytest.mark.parametrize('size', [96, 32])
@pytest.mark.parametrize('geometry', ['aligned', 'paper'])
@pytest.mark.parametrize('feature_cls', ['list', 'getter', 'hook', 'dict', 'fx'])
def test_features_only_gives_the_levels_it_announces(feature_cls: str, geometry: str, size: int) -> None:
    pyramid = timm.create_model(MODEL, features_only=True, feature_cls=feature_cls, geometry=geometry).eval()
    x = images(1, size)
    levels = pyramid(x)
    if feature_cls == 'dict':
        levels = list(levels.values())
    assert_levels_match(pyramid.feature_info, levels, 1, size)

    torch.manual_seed(0)
    whole = timm.create_model(MODEL, geometry=geometry).eval()
    for level, expected in zip(levels, whole.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(level, expected)


@pytest.mark.parametrize('out_indices', [(0,), (2, 4), (1, 2, 3), (-1,), (-2, -1)])
@pytest.mark.parametrize('feature_cls', ['list', 'getter'])
def test_out_indices_select_levels(feature_cls: str, out_indices: Tuple[int, ...]) -> None:
    every = timm.create_model(MODEL, features_only=True).eval()(images(1, 64))
    torch.manual_seed(0)
    some = timm.create_model(MODEL, features_only=True, out_indices=out_indices, feature_cls=feature_cls).eval()
    levels = some(images(1, 64))
    assert len(levels) == len(out_indices)
    for level, index in zip(levels, out_indices, strict=True):
        torch.testing.assert_close(level, every[index])


@pytest.mark.parametrize('size', [96, 32])
@pytest.mark.parametrize('kwargs', GEOMETRIES)
def test_forward_intermediates_gives_the_levels_and_the_final_features(kwargs: Dict[str, Any], size: int) -> None:
    model = timm.create_model(MODEL, **kwargs).eval()
    x = images(1, size)
    final, levels = model.forward_intermediates(x, output_fmt='NCHW')
    assert_levels_match(FeatureInfo(model.feature_info, len(model.feature_info)), levels, 1, size)
    torch.testing.assert_close(final, model.forward_features(x), rtol=1e-5, atol=1e-8)  # torch.allclose's defaults
    model.set_grad_checkpointing()
    checkpointed, _ = model.forward_intermediates(x, output_fmt='NCHW')
    torch.testing.assert_close(checkpointed, final, rtol=1e-4, atol=1e-5)


# ---- TorchScript and torch.fx ----

@pytest.mark.parametrize('size', [128, 32])
def test_torchscript_computes_what_the_model_does(size: int) -> None:
    with timm.layers.set_scriptable(True):
        model = timm.create_model(MODEL).eval()
    scripted = torch.jit.script(model)
    x = images(1, size)
    with torch.inference_mode():
        logits = scripted(x)
        assert logits.shape[0] == 1
        assert not logits.isnan().any()
        torch.testing.assert_close(logits, model(x))


@pytest.mark.parametrize('size', [128, 32])
@pytest.mark.parametrize('kwargs', GEOMETRIES)
def test_fx_graph_is_bit_for_bit_the_model(kwargs: Dict[str, Any], size: int) -> None:
    model = timm.create_model(MODEL, **kwargs).eval()
    x = images(1, size)
    with torch.inference_mode():
        expected = model(x)
        (logits,) = traced(model)(x).values()
    assert logits.shape[0] == 1
    assert not logits.isnan().any()
    assert torch.equal(logits, expected)


@pytest.mark.parametrize('size', [128, 32])
def test_fx_graph_trains_every_parameter(size: int) -> None:
    model = timm.create_model(MODEL, num_classes=42).train()
    graph = traced(model)
    (logits,) = graph(images(2, size)).values()
    logits.mean().backward()
    assert logits.shape[-1] == 42
    assert not logits.isnan().any()
    assert_every_parameter_got_a_gradient(model)
    assert {name for name, _ in graph.named_parameters()} == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize('size', [128, 32])
def test_fx_graph_can_be_scripted(size: int) -> None:
    with timm.layers.set_scriptable(True):
        model = timm.create_model(MODEL).eval()
    x = images(1, size)
    scripted = torch.jit.script(traced(model))
    with torch.inference_mode():
        (logits,) = scripted(x).values()
        assert logits.shape[0] == 1
        assert not logits.isnan().any()
        torch.testing.assert_close(logits, model(x))


def test_fx_feature_pyramid_can_be_scripted() -> None:
    """timm asks this of one of its models only (regnetx_002)."""
    with timm.layers.set_scriptable(True):
        pyramid = timm.create_model(MODEL, features_only=True, feature_cls='fx').eval()
    scripted = torch.jit.script(pyramid)
    with torch.inference_mode():
        levels = scripted(images(1, 128))
        assert isinstance(levels, list)
        assert not any(level.isnan().any() for level in levels)
        for level, expected in zip(levels, pyramid(images(1, 128)), strict=True):
            torch.testing.assert_close(level, expected)


# ---- nothing is left out ----

# timm's test, ours, and the listing that timm's test takes its names from.
UPSTREAM_TESTS = [
    ('test_model_forward', 'test_forward_is_finite_and_gradient_checkpointing_does_not_change_it', {}),
    ('test_model_backward', 'test_backward_reaches_every_parameter', {'name_matches_cfg': True}),
    ('test_model_default_cfgs', 'test_default_cfg_tells_the_truth_about_the_model', {'include_tags': True}),
    ('test_model_forward_torchscript', 'test_torchscript_computes_what_the_model_does', {'name_matches_cfg': True}),
    ('test_model_forward_features', 'test_features_only_gives_the_levels_it_announces', {}),
    ('test_model_forward_fx', 'test_fx_graph_is_bit_for_bit_the_model', {}),
    ('test_model_backward_fx', 'test_fx_graph_trains_every_parameter', {'name_matches_cfg': True}),
    ('test_model_forward_fx_torchscript', 'test_fx_graph_can_be_scripted', {'name_matches_cfg': True}),
    ('test_model_load_pretrained', 'test_pretrained_weights_load_for_other_channels_and_classes', {'pretrained': True}),
    ('test_model_features_pretrained', 'test_pretrained_weights_load_as_a_feature_pyramid', {'pretrained': True}),
    ('test_model_forward_intermediates_features', 'test_features_only_gives_the_levels_it_announces',
     {'module': 'res_squeezenet'}),
    ('test_model_forward_intermediates', 'test_forward_intermediates_gives_the_levels_and_the_final_features',
     {'module': 'res_squeezenet'}),
]


def test_all_twelve_of_timms_tests_are_restated_here() -> None:
    assert len({theirs for theirs, _, _ in UPSTREAM_TESTS}) == 12
    missing = [ours for _, ours, _ in UPSTREAM_TESTS if not callable(getattr(sys.modules[__name__], ours, None))]
    assert missing == []


@pytest.mark.parametrize('listing', [pytest.param(listing, id=theirs) for theirs, _, listing in UPSTREAM_TESTS])
def test_timm_would_collect_the_model_for_each_of_its_tests(listing: Dict[str, Any]) -> None:
    tagged = listing.get('include_tags') or listing.get('pretrained')
    collected = [name for name in timm.list_models(**listing) if name.partition('.')[0] == MODEL]
    assert collected == ([f'{MODEL}.{tag}' for tag in TAGS] if tagged else [MODEL])


@pytest.mark.parametrize('pattern', [
    # Names that timm's tests leave out or treat as something else, then those that smp's encoders do.
    'test_*', '*pruned*', '*enormous*', '*huge*', '*giant*', '*gigantic*', '*_7b_*', 'dpn*', 'densenet*', 'hrnet*',
    'selecsls*', 'hiera*', 'vit_*', 'pit_*', 'deit*', 'eva*', 'tnt_*', 'levit*', 'swiftformer_*',
    '*tresnet*', '*dla*', 'regnet*', 'res2*', 'resnest*', 'mobilenetv3*', 'gernet*', 'mit_b*', 'vgg*',
])
def test_no_name_belongs_to_a_family_that_is_treated_specially(pattern: str) -> None:
    assert fnmatch.filter([MODEL, *(f'{MODEL}.{tag}' for tag in TAGS)], pattern) == []


def test_the_bundled_weights_are_the_default() -> None:
    assert timm.get_pretrained_cfg(MODEL).tag == BUNDLED
    assert timm.is_model_pretrained(MODEL)
    bare = timm.create_model(MODEL, pretrained=True).state_dict()
    for key, value in timm.create_model(f'{MODEL}.{BUNDLED}', pretrained=True).state_dict().items():
        assert torch.equal(bare[key], value), key


@pytest.mark.parametrize('tag', TAGS)
def test_licence_and_origin_of_the_weights_are_stated(tag: str) -> None:
    cfg = timm.get_pretrained_cfg(f'{MODEL}.{tag}')
    for field in ('license', 'description', 'origin_url', 'paper_name', 'paper_ids'):
        assert getattr(cfg, field), field

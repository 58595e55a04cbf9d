"""What a user of timm expects of a model and timm's tests do not ask: the classifier by its name, layer groups,
pruning, devices, data types, memory formats, small batches, and errors that say what is wrong.
"""
import copy
import math
import pickle
import warnings
from pathlib import Path
from typing import Any, Dict, List

import pytest
import timm
import torch
import torch.nn as nn
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from timm.utils import freeze, reparameterize_model, unfreeze

from rsq_backbone import ResSqueezeNet

MODEL = ''  # of the fixture `variant`
pytestmark = pytest.mark.usefixtures('variant')
GEOMETRIES = ['paper', 'aligned']


def create(**kwargs: Any) -> nn.Module:
    return timm.create_model(MODEL, **kwargs)


def tensors(model: nn.Module) -> Dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


# ---- arguments that make no sense ----

NONSENSE = [
    ({'geometry': 'round'}, r"geometry should be 'paper' or 'aligned', got 'round'"),
    ({'output_stride': 4}, r'output_stride should be 8, 16 or 32, got 4'),
    ({'output_stride': 64}, r'output_stride should be 8, 16 or 32, got 64'),
    ({'residual_block': 'ghost'}, r"residual_block should be 'basic' or 'bottleneck', got 'ghost'"),
]
NONSENSE_POOLING = [
    ({'global_pool': pool}, rf"global_pool='{pool}' changes the number of channels.*'avg', 'max', 'avgmax' or ''")
    for pool in ('catavgmax', 'fastcatavgmax')
]


@pytest.mark.parametrize(('kwargs', 'message'), NONSENSE + NONSENSE_POOLING)
def test_arguments_that_make_no_sense_are_refused_with_the_choices(kwargs: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(**kwargs)


@pytest.mark.parametrize(('kwargs', 'message'), NONSENSE)
def test_feature_pyramids_refuse_them_too(kwargs: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(features_only=True, **kwargs)


def test_reset_classifier_refuses_a_pooling_that_changes_the_channels() -> None:
    with pytest.raises(ValueError, match='changes the number of channels'):
        create().reset_classifier(10, 'catavgmax')


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match='output_strid'):
        create(output_strid=8)


# ---- the classifier ----

@pytest.mark.parametrize('tag', ['caffe_in1k', 'tv_in1k'])
def test_get_classifier_is_the_module_that_the_configuration_names(tag: str) -> None:
    model = timm.create_model(f'{MODEL}.{tag}')
    assert model.get_classifier() is model.get_submodule(model.pretrained_cfg['classifier'])
    assert model.get_classifier(name_only=True) == model.pretrained_cfg['classifier']
    first = model.get_submodule(model.pretrained_cfg['first_conv'])
    assert first is next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert model.in_chans == first.in_channels == 3


@pytest.mark.parametrize('num_classes', [1, 9])
def test_reset_classifier_gives_a_fresh_head_of_the_given_size(num_classes: int) -> None:
    model = create(pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    model.reset_classifier(num_classes)
    assert model.num_classes == num_classes
    assert model(x).shape == (2, num_classes)
    assert model.get_classifier().weight.shape == (num_classes, 512, 1, 1)
    assert model.get_classifier().weight.std() > 0
    assert not model.get_classifier().bias.any()
    assert torch.equal(model.forward_features(x), features)
    model.reset_classifier(num_classes, 'max')
    maps = model.relu_conv10(model.conv10(features))
    torch.testing.assert_close(model(x), maps.amax((2, 3)))


@pytest.mark.parametrize(('pool', 'reduce'), [
    ('avg', lambda m: m.mean((2, 3))),
    ('max', lambda m: m.amax((2, 3))),
    ('avgmax', lambda m: (m.mean((2, 3)) + m.amax((2, 3))) / 2),
    ('', lambda m: m),
])
def test_global_pool_is_applied_to_the_class_maps(pool: str, reduce: Any) -> None:
    model = create(global_pool=pool).eval()
    x = torch.randn(2, 3, 96, 96)
    maps = model.conv10(model.forward_features(x)).relu()
    torch.testing.assert_close(model(x), reduce(maps))


def test_half_the_features_are_dropped_before_the_classifier_in_training_only() -> None:
    """drop9 of figure 9, at the paper's 50 %."""
    model = create(global_pool='')
    features = torch.rand(1, 512, 7, 7) + 1
    model.train()
    kept = model.forward_head(features, pre_logits=True) != 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.02)  # 25,088 draws: six standard deviations
    model.eval()
    assert torch.equal(model.forward_head(features, pre_logits=True), features)

    everything_dropped = create(drop_rate=1.0).train()
    nn.init.constant_(everything_dropped.conv10.bias, 3.)
    assert torch.equal(everything_dropped.forward_head(features), torch.full((1, 1000), 3.))


# ---- layers and their parameters ----

@pytest.mark.parametrize('coarse', [False, True])
def test_layer_groups_cover_every_parameter_and_leave_only_the_head_over(coarse: bool) -> None:
    model = create()
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert sorted(groups[max(groups)]) == ['conv10.bias', 'conv10.weight']  # timm puts what nothing matches last
    assert sorted(groups[0]) == ['stem.conv1.bias', 'stem.conv1.weight']
    # conv1, then fire2 .. fire9 and the two residual blocks (or the four stages), then the head.
    assert len(groups) == (1 + 4 + 1 if coarse else 1 + 8 + 2 + 1)
    for group in list(groups.values())[1:-1]:
        owners = {'.'.join(name.split('.')[:2 if coarse else 3]) for name in group}
        assert len(owners) == 1, owners


@pytest.mark.parametrize('coarse', [False, True])
def test_layer_groups_run_from_input_to_output(coarse: bool) -> None:
    model = create()
    layer_of = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    along_the_network = [layer_of[name] for name, _ in model.named_parameters()]
    assert along_the_network == sorted(along_the_network)


def test_layer_decay_gives_the_stem_the_lowest_rate_and_the_head_the_full_one() -> None:
    model = create()
    optimizer = create_optimizer_v2(model, opt='sgd', lr=1.0, layer_decay=0.5)
    scale = {id(p): group['lr_scale'] for group in optimizer.param_groups for p in group['params']}
    scales = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert scales['conv10.weight'] == 1.0
    assert scales[{
        'res_squeezenet': 'stages.3.res5b.conv2.weight', 'res_squeezenet_lite': 'stages.3.res5b.conv3.weight',
    }[MODEL]] == 0.5
    assert scales['stem.conv1.weight'] == pytest.approx(0.5 ** 11) == min(scales.values())


def test_no_weight_decay_names_parameters_that_exist() -> None:
    model = create()
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize('prune_head', [False, True])
@pytest.mark.parametrize('indices', [[0], [1], [0, 2], [3], [1, 4], 1, 3])
def test_pruning_leaves_the_features_as_they_were(indices: Any, prune_head: bool) -> None:
    model = create().eval()
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        before = model.forward_intermediates(x, indices=indices, intermediates_only=True)
        parameters = sum(p.numel() for p in model.parameters())
        taken = model.prune_intermediate_layers(indices, prune_head=prune_head)
        final, after = model.forward_intermediates(x, indices=taken)
        for one, other in zip(after, before, strict=True):
            assert torch.equal(one, other)
        last = max(taken)
        assert final.shape[1] == model.num_features == [64, 128, 256, 512, 512][last]
        assert torch.equal(final, before[-1])
        assert torch.equal(model.forward_features(x), final)
        if prune_head or last < 4:
            assert model.num_classes == 0
            assert sum(p.numel() for p in model.parameters()) < parameters
            assert torch.equal(model(x), final)
        else:
            assert model(x).shape == (1, 1000)


@pytest.mark.parametrize('last', [0, 1, 2, 3, 4])
def test_stopping_early_gives_the_same_level(last: int) -> None:
    model = create().eval()
    x = torch.randn(1, 3, 64, 64)
    every = model.forward_intermediates(x, intermediates_only=True)
    final, (level,) = model.forward_intermediates(x, indices=[last], stop_early=True)
    assert torch.equal(level, every[last])
    assert torch.equal(final, level)


# ---- devices and data types ----

@pytest.mark.parametrize('kwargs', [{}, {'features_only': True}, {'output_stride': 8, 'geometry': 'aligned'}])
def test_a_model_made_on_the_meta_device_allocates_nothing_and_can_be_filled(kwargs: Dict[str, Any]) -> None:
    with torch.device('meta'):
        model = create(**kwargs)
    assert {t.device.type for t in tensors(model).values()} == {'meta'}
    real = create(**kwargs).eval()
    model = model.to_empty(device='cpu').eval()
    model.load_state_dict(real.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for one, other in zip(model(x), real(x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize('kwargs', [{}, {'features_only': True}])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_device_and_dtype_are_obeyed_throughout(dtype: torch.dtype, kwargs: Dict[str, Any]) -> None:
    on_meta = create(device='meta', dtype=dtype, **kwargs)
    assert {t.device.type for t in tensors(on_meta).values()} == {'meta'}
    model = create(device='cpu', dtype=dtype, **kwargs)
    for made in (on_meta, model):
        assert {t.dtype for t in tensors(made).values() if t.is_floating_point()} == {dtype}
    outputs = model.eval()(torch.randn(2, 3, 64, 64, dtype=dtype))
    for output in [outputs] if isinstance(outputs, torch.Tensor) else outputs:
        assert output.dtype == dtype
        assert output.isfinite().all()


def test_a_new_head_lives_where_the_model_does() -> None:
    model = create(dtype=torch.bfloat16)
    model.reset_classifier(7)
    assert model.conv10.weight.dtype == torch.bfloat16
    on_meta = create(device='meta')
    on_meta.reset_classifier(7)
    assert on_meta.conv10.weight.device.type == 'meta'


def test_pretrained_weights_load_in_bfloat16() -> None:
    model = create(pretrained=True, dtype=torch.bfloat16)
    full = create(pretrained=True)
    assert torch.equal(model.conv10.weight, full.conv10.weight.bfloat16())


def photograph_like(size: int = 227) -> torch.Tensor:
    """Smooth and deterministic: random pixels are nothing that pretrained weights have seen."""
    y, x = torch.meshgrid(torch.linspace(0, 9, size), torch.linspace(0, 9, size), indexing='ij')
    return torch.stack([torch.sin(x) * torch.cos(y), torch.cos(x + y), torch.sin(x - 2 * y)])[None]


@pytest.mark.parametrize('autocast', [False, True])
def test_bfloat16_keeps_the_logits_to_its_own_precision(autocast: bool) -> None:
    model = create(pretrained=True).eval()
    x = photograph_like()
    with torch.inference_mode():
        expected = model(x)[0]
        if autocast:
            with torch.autocast('cpu', dtype=torch.bfloat16):
                logits = model(x)[0].float()
        else:
            logits = model.bfloat16()(x.bfloat16())[0].float()
    assert logits.isfinite().all()
    # Eight bits of mantissa: 0.4 % a step, through 27 convolutions.
    assert (logits - expected).norm() < 0.03 * expected.norm()
    assert expected.argmax() in logits.topk(3).indices


@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('output_stride', [8, 32])
def test_channels_last_computes_the_same_and_stays_channels_last(geometry: str, output_stride: int) -> None:
    model = create(geometry=geometry, output_stride=output_stride).eval().double()
    x = torch.randn(2, 3, 97, 131, dtype=torch.float64)
    with torch.inference_mode():
        expected = model.forward_intermediates(x, intermediates_only=True)
        logits = model(x)
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        levels = model.forward_intermediates(x, intermediates_only=True)
        for one, other in zip(levels, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
            assert one.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x), logits, rtol=1e-9, atol=1e-9)


# ---- small batches ----

@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('size', [227, 64, 32])
def test_a_single_picture_trains(geometry: str, size: int) -> None:
    """At 32 x 32 one value per channel is left for the batch norms, whose variance is undefined."""
    model = create(geometry=geometry, num_classes=3, logit_relu=False).train()
    logits = model(torch.randn(1, 3, size, size))
    logits.square().mean().backward()
    assert logits.isfinite().all()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, b in model.named_buffers() if not b.isfinite().all()] == []


# ---- what tools do to a model ----

def test_timm_can_freeze_and_unfreeze_the_batch_norms() -> None:
    model = create().eval()
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    freeze(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(x), expected)
    unfreeze(model)
    norms = {'res_squeezenet': 2 + 1 + 2, 'res_squeezenet_lite': 2 * 3}  # res5a and res5b, by convolution
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == norms[MODEL]
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model.eval()(x), expected)


def test_reparameterize_model_leaves_the_function_alone() -> None:
    model = create().eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(reparameterize_model(model)(x), model(x))


@pytest.mark.parametrize('copy_of', [
    copy.deepcopy, pytest.param(lambda model: pickle.loads(pickle.dumps(model)), id='pickle')])
def test_a_copy_computes_the_same(copy_of: Any) -> None:
    model = create().eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(copy_of(model)(x), model(x))


def test_a_checkpoint_of_ones_own_loads_by_path(tmp_path: Path) -> None:
    model = create(num_classes=9).eval()
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'mine.pth')
    restored = create(num_classes=9, checkpoint_path=str(tmp_path / 'mine.pth')).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(restored(x), model(x))


def test_loading_the_pretrained_weights_leaves_the_global_random_state_alone() -> None:
    create(pretrained=True)
    torch.manual_seed(1)
    create()
    expected = torch.rand(1)
    torch.manual_seed(1)
    create(pretrained=True)
    assert torch.equal(torch.rand(1), expected)


def test_pretrained_is_the_same_model_every_time() -> None:
    states: List[Dict[str, torch.Tensor]] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(create(pretrained=True).state_dict())
    assert [key for key, value in states[0].items() if not torch.equal(states[1][key], value)] == []


def test_random_start_keeps_the_scale_of_the_features() -> None:
    """He initialisation: a trunk without batch norm neither fades nor explodes, whatever the depth."""
    for seed in range(3):
        torch.manual_seed(seed)
        levels = create().eval().forward_intermediates(torch.randn(2, 3, 227, 227), intermediates_only=True)
        scales = [level.square().mean().sqrt().item() for level in levels]
        assert all(math.isfinite(s) and 0.1 < s < 30 for s in scales), scales


def test_creating_and_loading_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        create(pretrained=True)
        create(pretrained=True, features_only=True)
        ResSqueezeNet()

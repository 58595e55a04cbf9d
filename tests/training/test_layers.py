"""What is frozen stays as it is, and what is trained learns at its own rate."""
import copy

import pytest
import timm
import torch
import torch.nn as nn

from rsq_backbone.errors import UserError
from rsq_backbone.training.layers import (
    freeze_stages,
    is_frozen,
    keep_statistics,
    parameter_groups,
    scale_classifier,
    stages,
)


def train_a_little(model, learning_rate=0.1):
    optimizer = torch.optim.SGD(
        parameter_groups(model, learning_rate, 10, 1, 1, 0.1), lr=learning_rate, momentum=0.9)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


@pytest.mark.parametrize(('name', 'trained', 'frozen', 'unfrozen'), [
    ('res_squeezenet', 1, ('stem.', 'stages.0.', 'stages.1.', 'stages.2.'), ('stages.3.', 'conv10.')),
    ('res_squeezenet', 3, ('stem.', 'stages.0.'), ('stages.1.', 'stages.2.', 'stages.3.', 'conv10.')),
    ('resnet18', 2, ('conv1.', 'bn1.', 'layer1.', 'layer2.'), ('layer3.', 'layer4.', 'fc.')),
    ('resnet18', 0, ('conv1.', 'bn1.', 'layer1.', 'layer2.', 'layer3.', 'layer4.'), ('fc.',)),
])
def test_frozen_parameters_and_statistics_are_bit_identical_after_training(name, trained, frozen, unfrozen):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    freeze_stages(model, trained)
    before = copy.deepcopy(model.state_dict())
    train_a_little(model)
    for key, value in model.state_dict().items():
        assert key.startswith(frozen) != key.startswith(unfrozen)
        assert torch.equal(value, before[key]) == key.startswith(frozen), key


def test_frozen_modules_stay_in_evaluation_mode_through_train_of_the_model_and_of_its_parents():
    model = timm.create_model('resnet18', num_classes=3)
    freeze_stages(model, trained=1)
    parent = nn.Sequential(nn.Sequential(model))
    for root in (model, parent, copy.deepcopy(parent)):
        root.train()
        frozen = [m for name, m in root.named_modules() if 'layer2' in name or name.endswith(('.bn1', 'conv1'))]
        frozen = [m for m in frozen if is_frozen(m)]
        assert len(frozen) > 10
        assert not any(m.training for m in frozen)
        assert all(m.training for name, m in root.named_modules() if 'layer4' in name)
        root.eval()
        assert not any(m.training for m in root.modules())


def test_batch_norms_that_keep_their_statistics_still_learn():
    model = timm.create_model('res_squeezenet', num_classes=3)
    keep_statistics(model)
    before = copy.deepcopy(model.state_dict())
    train_a_little(model, learning_rate=1e-3)
    after = model.state_dict()
    statistics = [key for key in after if 'running' in key or 'num_batches' in key]
    assert len(statistics) == 15  # five batch norms
    assert all(torch.equal(after[key], before[key]) for key in statistics)
    assert not torch.equal(after['stages.3.res5a.bn1.weight'], before['stages.3.res5a.bn1.weight'])


def test_the_paper_s_frozen_trunk_is_all_but_the_residual_stage_and_conv10():
    model = timm.create_model('res_squeezenet', num_classes=9)
    freeze_stages(model, trained=1)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 9_704_448 + 4_617


def test_more_stages_than_there_are_means_all_of_them():
    model = timm.create_model('res_squeezenet', num_classes=3)
    freeze_stages(model, trained=50)
    assert all(p.requires_grad for p in model.parameters())


def rates(model, *settings):
    """{parameter name: (learning rate, weight decay)}"""
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], g['lr'], g['weight_decay']) for g in parameter_groups(model, *settings)
             for p in g['params']]
    assert len(found) == len({name for name, *_ in found})
    return {name: values for name, *values in found}


def test_the_paper_s_rates_are_ten_to_one_and_go_with_the_features_size_and_only_weights_of_layers_decay():
    """Features of half the size that the rates are for."""
    model = timm.create_model('res_squeezenet', num_classes=9)
    freeze_stages(model, trained=1)
    found = rates(model, 3e-4, 10, 0.25, 1, 1e-4)
    expected = {'conv10.weight': (12e-3, 1e-4), 'conv10.bias': (3e-3, 0)}
    for block, norms in (('res5a', ('bn1', 'bn2', 'shortcut.bn')), ('res5b', ('bn1', 'bn2'))):
        for norm in norms:
            expected |= {f'stages.3.{block}.{norm}.{kind}': (3e-4, 0) for kind in ('weight', 'bias')}
        expected |= {f'stages.3.{block}.conv{i}.weight': (3e-4, 1e-4) for i in (1, 2)}
    expected['stages.3.res5a.shortcut.conv.weight'] = (3e-4, 1e-4)
    assert {name: pytest.approx(values) for name, values in expected.items()} == found


def test_a_last_layer_made_for_the_features_size_gives_and_learns_the_same_logits_at_any_size():
    """SGD on the last layer alone: features three times as large, its weights a third as large, a ninth of the rate."""
    torch.manual_seed(0)
    x, labels = torch.rand(16, 64), torch.randint(0, 3, (16,))
    logits = []
    for size in (1.0, 9.0):
        torch.manual_seed(1)
        model = timm.create_model('test_vit', num_classes=3)
        head = model.get_classifier()
        assert head.in_features == x.shape[1]
        nn.init.normal_(head.weight)
        scale_classifier(model, size)
        optimizer = torch.optim.SGD(parameter_groups(model, 0.1, 10, size, 1, 0), momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(x * size ** 0.5), labels).backward()
            optimizer.step()
        logits.append(head(x * size ** 0.5))
    assert torch.allclose(*logits, atol=1e-5)


def test_each_earlier_stage_learns_by_the_factor_slower():
    found = rates(timm.create_model('res_squeezenet', num_classes=9), 1e-3, 10, 1, 0.5, 0)
    by_stage = {'conv10': 1e-2, 'stages.3': 1e-3, 'stages.2': 5e-4, 'stages.1': 2.5e-4, 'stages.0': 1.25e-4,
                'stem': 6.25e-5}
    assert len(found) == 2 * (1 + 8 * 3 + 1) + 5 * 3  # convolutions with a bias; residual convolutions and their norms
    for name, (rate, _) in found.items():
        assert rate == pytest.approx(next(r for stage, r in by_stage.items() if name.startswith(stage))), name


@pytest.mark.parametrize('name', [
    'resnet18', 'mobilenetv3_small_050', 'efficientvit_b0', 'vit_tiny_patch16_224', 'convnext_atto', 'levit_128s',
    'repvit_m0_9', 'densenet121'])
def test_every_trained_parameter_of_any_model_has_one_rate_and_frozen_ones_have_none(name):
    model = timm.create_model(name, num_classes=3)
    freeze_stages(model, trained=1)
    assert set(rates(model, 1, 10, 1, 1, 0)) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert any(not p.requires_grad for p in model.parameters())


def test_stages_run_from_the_stem_to_the_classifier():
    first, *_, last = stages(timm.create_model('res_squeezenet', num_classes=3))
    assert set(first) == {'stem.conv1.weight', 'stem.conv1.bias'}
    assert {'conv10.weight', 'conv10.bias'} <= set(last)


@pytest.mark.parametrize('name', ['pit_xs_224', 'rdnet_tiny'])
def test_a_model_that_does_not_tell_its_stages_is_refused_for_freezing_and_trained_as_a_whole(name):
    """timm's PiT has no group_matcher at all, RDNet's knows no coarse stages."""
    model = timm.create_model(name, num_classes=3)
    with pytest.raises(UserError, match='group_matcher') as raised:
        freeze_stages(model, trained=1)
    assert '\n' not in str(raised.value)
    assert set(rates(model, 1, 10, 1, 1, 0)) == {n for n, _ in model.named_parameters()}

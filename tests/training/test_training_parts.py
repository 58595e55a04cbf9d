"""Freezing, cutting at the frozen part, and the order of batches."""
import pytest
import timm
import torch
import torch.nn as nn

from rsq_backbone.training.augmentation import AUGMENTATIONS, Augmentation
from rsq_backbone.training.frozen_features import cut_at_frozen
from rsq_backbone.training.layers import freeze_stages, keep_statistics, parameter_groups
from rsq_backbone.training.pictures import EpochBatches


def test_frozen_parts_stay_in_evaluation_mode_through_train():
    model = timm.create_model('resnet18', num_classes=3)
    freeze_stages(model, trained=1)
    model.train()
    assert not any(m.training for m in model.layer1.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in model.layer4.modules() if isinstance(m, nn.BatchNorm2d))
    assert {n.split('.')[0] for n, p in model.named_parameters() if p.requires_grad} == {'layer4', 'fc'}


def test_the_paper_s_frozen_trunk_is_all_but_the_residual_stage_and_conv10():
    model = timm.create_model('res_squeezenet', num_classes=9)
    freeze_stages(model, trained=1)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 9_704_448 + 4_617


def test_learning_rates_by_layer():
    model = timm.create_model('res_squeezenet', num_classes=9)
    rates = {
        id(p): g['lr'] for g in parameter_groups(model, 1e-3, 10, 0.5, 1e-4) for p in g['params']}
    named = dict(model.named_parameters())
    expected = {
        'conv10.weight': 1e-2, 'stages.3.res5a.conv1.weight': 1e-3, 'stages.2.fire9.squeeze.bias': 5e-4,
        'stages.1.fire4.squeeze.weight': 2.5e-4, 'stages.0.fire2.squeeze.weight': 1.25e-4,
        'stem.conv1.weight': 6.25e-5}
    assert {name: rates[id(named[name])] for name in expected} == pytest.approx(expected)


def test_batch_norms_that_keep_their_statistics_still_learn():
    model = timm.create_model('res_squeezenet', num_classes=3)
    keep_statistics(model)
    before = model.stages[3].res5a.bn1.running_mean.clone()
    model.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert torch.equal(model.stages[3].res5a.bn1.running_mean, before)
    assert model.stages[3].res5a.bn1.weight.grad is not None


@pytest.mark.parametrize('name', ['res_squeezenet', 'resnet18', 'mobilenetv2_100', 'mobilenetv3_small_100'])
def test_the_two_parts_of_a_cut_network_compute_what_the_whole_does(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, drop_rate=0)
    freeze_stages(model, trained=1)
    cut = cut_at_frozen(model)
    assert cut is not None
    x = torch.randn(2, 3, 96, 96)
    for mode in (False, True):
        model.train(mode)
        cut.trained.training = mode
        with torch.no_grad():
            assert torch.equal(cut.trained(cut.frozen(x)), model(x))


def test_nothing_is_cut_where_nothing_is_frozen():
    assert cut_at_frozen(timm.create_model('res_squeezenet', num_classes=3)) is None


def test_dropout_in_training_is_not_taken_for_a_fixed_part():
    model = timm.create_model('res_squeezenet', num_classes=3)
    freeze_stages(model, trained=0)
    cut = cut_at_frozen(model)
    assert cut is not None
    assert any(isinstance(m, nn.Dropout) for m in cut.trained.in_training.modules())


def test_the_paper_s_686_pictures_make_408_iterations_in_six_epochs():
    epochs = [list(EpochBatches(range(686), 10, seed=0, epoch=e)) for e in range(6)]
    assert sum(map(len, epochs)) == 408
    for epoch in epochs:
        seen = [index for batch in epoch for _, index in batch]
        assert len(seen) == len(set(seen)) == 680
    assert epochs[0] != epochs[1]


def test_two_processes_share_the_batches_of_one():
    whole = list(EpochBatches(range(50), 8, seed=1, epoch=2))
    shares = [list(EpochBatches(range(50), 8, seed=1, epoch=2, rank=r, processes=2)) for r in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]


@pytest.mark.parametrize('name', list(AUGMENTATIONS))
def test_augmentation_depends_on_its_seed_alone(name, pictures):
    import numpy as np
    from PIL import Image

    picture = np.asarray(Image.open(pictures / 'red' / '0.png'))
    augment = Augmentation(name)
    first = augment(picture, 0, 3, 7)
    augment(picture, 1, 1, 1)
    assert np.array_equal(first, augment(picture, 0, 3, 7))
    assert first.shape == picture.shape
    assert first.dtype == np.uint8

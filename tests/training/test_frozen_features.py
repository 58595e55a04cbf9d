"""A cut network computes what the whole does, in both modes, or is not cut at all."""
import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import DropBlock2d, DropPath, PatchDropout

from rsq_backbone.training.frozen_features import cut_at_frozen
from rsq_backbone.training.layers import freeze, freeze_stages


def assert_same(cut, model, x):
    """The parts give exactly what the whole gives, randomness included."""
    for mode in (False, True, False):
        model.train(mode)
        cut.trained.training = mode
        torch.manual_seed(0)
        with torch.no_grad():
            features = cut.frozen(x)
            assert isinstance(features, torch.Tensor)
            torch.manual_seed(1)
            parts = cut.trained(features.clone())
            torch.manual_seed(1)
            assert torch.equal(parts, model(x)), f'training={mode}'


@pytest.mark.parametrize('trained', [0, 1])
@pytest.mark.parametrize('name', [
    'res_squeezenet', 'resnet18', 'mobilenetv2_100', 'mobilenetv3_small_050', 'test_byobnet', 'test_convnext',
    'test_efficientnet', 'test_mambaout', 'test_nfnet', 'test_resnet'])
def test_the_two_parts_of_a_cut_network_compute_what_the_whole_does(name, trained):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, drop_rate=0.5)
    freeze_stages(model, trained)
    cut = cut_at_frozen(model)
    assert cut is not None
    assert_same(cut, model, torch.randn(2, 3, 96, 96))


@pytest.mark.slow
@pytest.mark.parametrize('name', [
    'beit_base_patch16_224', 'botnet26t_256', 'convit_tiny', 'densenet121', 'efficientformerv2_s0', 'fastvit_t8',
    'gmlp_s16_224', 'levit_128s', 'mobilevit_xxs', 'pvt_v2_b0', 'regnety_002', 'repvit_m0_9', 'rexnet_100',
    'starnet_s1', 'swin_s3_tiny_224', 'test_vit_relpos', 'tiny_vit_5m_224', 'visformer_tiny', 'xception41'])
def test_the_two_parts_of_other_families_compute_what_the_whole_does(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    freeze_stages(model, trained=1)
    cut = cut_at_frozen(model)
    assert cut is not None
    assert_same(cut, model, torch.randn(2, *model.pretrained_cfg['input_size']))


@pytest.mark.parametrize(('trained', 'shape'), [(1, (1, 512, 14, 14)), (0, (1, 512, 7, 7))])
def test_res_squeezenet_is_cut_right_before_what_is_trained(trained, shape):
    model = timm.create_model('res_squeezenet', num_classes=3)
    freeze_stages(model, trained)
    features = cut_at_frozen(model).frozen(torch.randn(1, 3, 227, 227))
    assert features.shape == shape
    assert not features.requires_grad


def test_the_trained_part_shares_what_it_learns_with_the_network():
    model = timm.create_model('test_resnet', num_classes=3)
    freeze_stages(model, trained=1)
    cut = cut_at_frozen(model)
    x = torch.randn(4, 3, 96, 96)
    model.train()
    cut.trained.training = True
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = model(x).detach()
    F.cross_entropy(cut.trained(cut.frozen(x)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert not torch.equal(before, model(x))
    assert_same(cut, model, x)


def test_looking_for_a_cut_leaves_the_network_as_it_was():
    for mode in (True, False):
        model = timm.create_model('test_resnet', num_classes=3).train(mode)
        freeze_stages(model, trained=1)
        modes = [m.training for m in model.modules()]
        state = {key: value.clone() for key, value in model.state_dict().items()}
        assert cut_at_frozen(model) is not None
        assert modes == [m.training for m in model.modules()]
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('name', ['res_squeezenet', 'test_vit', 'resnet18'])
def test_nothing_is_cut_where_nothing_is_frozen(name):
    assert cut_at_frozen(timm.create_model(name, num_classes=3)) is None


class Net(nn.Module):
    """Frozen a and b, trained c; how they are put together is the sub-class's."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8 * 16), nn.Linear(8 * 16, 8), nn.Linear(8, 3)
        freeze(self, {'a.weight', 'a.bias', 'b.weight', 'b.bias'})


class Input(Net):
    def forward(self, x):
        return self.c(self.b(self.a(x))) + x.mean()


class DataDependent(Net):
    def forward(self, x):
        return self.c(self.b(self.a(x) if x.sum() > 0 else self.a(-x)))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x), x


class Tuple(nn.Module):
    """A frozen module that hands on two tensors as one value."""

    def __init__(self):
        super().__init__()
        self.pair, self.c = Pair(), nn.Linear(8, 3)
        freeze(self, {'pair.layer.weight', 'pair.layer.bias'})

    def forward(self, x):
        pair = self.pair(x)
        return self.c(pair[0]) * pair[1].mean()


@pytest.mark.parametrize('network', [Input, DataDependent])
def test_what_no_single_tensor_carries_is_not_cut(network):
    assert cut_at_frozen(network()) is None


def test_a_value_that_is_no_tensor_is_not_taken_for_features():
    """timm's hrnet_w18_small, mvitv2_tiny and efficientvim_m1 hand on such values between their stages."""
    model = Tuple()
    cut = cut_at_frozen(model)
    if cut is not None:
        assert_same(cut, model, torch.randn(4, 8))


class Crossing(Net):
    def forward(self, x):
        a = self.a(x)
        return self.c(self.b(a)) * a.mean()


def test_a_shortcut_around_a_frozen_module_moves_the_cut_before_it():
    model = Crossing()
    cut = cut_at_frozen(model)
    x = torch.randn(4, 8)
    assert_same(cut, model, x)
    assert torch.equal(cut.frozen(x), model.a(x))


class Between(Net):
    """Something random between two frozen layers."""

    def __init__(self, between):
        super().__init__()
        self.between = between

    def forward(self, x):
        x = self.a(x).reshape(-1, 8, 4, 4)
        x = self.between(x) if isinstance(self.between, nn.Module) else self.between(x, 0.5, self.training)
        return self.c(self.b(x.flatten(1)))


class Tokens(Net):
    def __init__(self):
        super().__init__()
        self.between = PatchDropout(0.5, num_prefix_tokens=0)
        self.b = self.a  # frozen, too

    def forward(self, x):
        x = self.between(self.a(x).reshape(-1, 16, 8))
        return self.c(self.b(x.mean(1)).reshape(-1, 8, 16).mean(2))


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x) if self.training else x


RANDOM = {
    'nn.Dropout': lambda: Between(nn.Dropout(0.5)),
    'nn.Dropout2d': lambda: Between(nn.Dropout2d(0.5)),
    'nn.RReLU': lambda: Between(nn.RReLU()),
    'in a Sequential': lambda: Between(nn.Sequential(nn.Identity(), nn.Dropout(0.5))),
    'F.dropout': lambda: Between(F.dropout),
    "timm's DropPath": lambda: Between(DropPath(0.5)),
    "timm's DropBlock2d": lambda: Between(DropBlock2d(0.5, block_size=2)),
    "timm's PatchDropout": Tokens,
    "a user's module": lambda: Between(Noise()),
}


@pytest.mark.parametrize('kind', RANDOM)
def test_randomness_between_frozen_layers_is_drawn_anew_in_each_step(kind):
    """Kept features would freeze one draw, or none, for all of training."""
    model = RANDOM[kind]()
    cut = cut_at_frozen(model)
    x = torch.randn(4, 8)
    torch.manual_seed(0)
    assert not torch.equal(model.train()(x), model(x))  # else this test shows nothing
    if cut is not None:
        assert_same(cut, model, x)


class OnlyInTraining(Net):
    def forward(self, x):
        x = self.b(self.a(x))
        if self.training:
            x = x + 1
        return self.c(x * 2)


def test_what_is_done_in_training_only_is_not_left_out():
    model = OnlyInTraining()
    cut = cut_at_frozen(model)
    if cut is not None:
        assert_same(cut, model, torch.randn(4, 8))

import math

import pytest
import timm
import torch
import torch.nn as nn
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

from rsq_backbone.analysis import analyze
from rsq_backbone.errors import UserError


@pytest.fixture(scope='module')
def analysis():
    return analyze(timm.create_model('res_squeezenet'), (3, 227, 227))


def test_totals_are_the_papers(analysis):
    assert analysis.parameters == 10_939_944
    assert round(analysis.macs / 1e9, 3) == 0.788


def test_layers_are_those_of_the_papers_figure(analysis):
    """MATLAB counts 62 layers to fire9's concatenation, 9 in res5a, 6 in res5b without a last ReLU, and four to pool10.

    The flattening after it is PyTorch's own; softmax and classification output belong to the loss here.
    """
    names = [layer.name for layer in analysis.layers]
    assert names.index('stages.2.fire9.cat') + 1 == 62
    assert sum(name.startswith('stages.3.res5a') for name in names) == 9
    assert sum(name.startswith('stages.3.res5b') for name in names) == 6
    assert names[-5:] == ['drop9', 'conv10', 'relu_conv10', 'global_pool.pool', 'global_pool.flatten']
    assert len(names) == 62 + 9 + 6 + 4 + 1
    last = analysis.layers[names.index('stages.3.res5b.add')]
    assert (last.type, last.output_shape) == ('Addition', (512, 7, 7))
    assert analysis.layers[names.index('conv10')].output_shape == (1000, 7, 7)


def test_each_layers_learnables_add_up_to_its_parameters_and_the_total(analysis):
    for layer in analysis.layers:
        assert layer.parameters == sum(math.prod(shape) for shape in layer.learnables.values())
    assert sum(layer.parameters for layer in analysis.layers) == analysis.parameters


@pytest.mark.parametrize('name', ['res_squeezenet', 'resnet18', 'mobilenetv3_small_100', 'lcnet_100'])
def test_multiply_accumulates_equal_fvcores(name):
    model = timm.create_model(name).eval()
    counted = FlopCountAnalysis(model, torch.randn(1, 3, 96, 96)).unsupported_ops_warnings(False)
    operators = counted.by_operator()
    found = analyze(model, (3, 96, 96))
    assert found.macs == operators['conv'] + operators['linear']
    activations = ActivationCountAnalysis(model, torch.randn(1, 3, 96, 96)).unsupported_ops_warnings(False)
    assert found.activations == activations.total()


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'mobilevit_xxs'])
def test_fused_attention_counts_as_the_matrix_products_that_it_replaces(name):
    """fvcore sees these where timm's switch for fused attention is off."""
    model = timm.create_model(name).eval()
    size = model.default_cfg['input_size']
    for module in model.modules():
        if hasattr(module, 'fused_attn'):
            module.fused_attn = False
    x = torch.randn(1, *size)
    macs = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).by_operator()
    activations = ActivationCountAnalysis(model, x).unsupported_ops_warnings(False).total()
    for fused in (False, True):
        for module in model.modules():
            if hasattr(module, 'fused_attn'):
                module.fused_attn = fused
        found = analyze(model, size)
        assert found.macs == macs['conv'] + macs['linear'] + macs['matmul']
        assert found.activations == activations


def test_a_name_is_built_and_run_at_its_own_size():
    found = analyze('vit_tiny_patch16_224')
    assert (found.model, found.input_size) == ('vit_tiny_patch16_224', (3, 224, 224))
    assert 1.25e9 < found.macs < 1.26e9  # 1.26 G in the DeiT paper's table 1 (Touvron et al. 2021), rounded up
    assert analyze(nn.Conv2d(3, 2, 3), (3, 5, 5), 'mine').model == 'mine'
    with pytest.raises(UserError, match='unknown model'):
        analyze('no_such_model')


def test_warns_of_relu_on_the_logits_and_of_missing_norms(analysis):
    assert any('relu_conv10' in w and 'logit_relu=False' in w for w in analysis.warnings)
    assert any(w.startswith('26 of 31 convolutions have no normalisation') for w in analysis.warnings)
    assert len(analysis.warnings) == 2
    without = analyze(timm.create_model('res_squeezenet', logit_relu=False), (3, 227, 227))
    assert not any('relu' in w for w in without.warnings)


def test_warns_of_borders_that_are_never_read():
    paper = analyze(timm.create_model('res_squeezenet'), (3, 224, 225)).warnings
    assert 'stem.conv1 never reads the last 1 row of its input (224 x 225).' in paper
    aligned = analyze(timm.create_model('res_squeezenet', geometry='aligned'), (3, 224, 225)).warnings
    assert not any('never reads' in w for w in aligned)


def test_warns_of_maps_too_small_to_train_on_with_one_picture():
    warnings = analyze(timm.create_model('res_squeezenet'), (3, 32, 32)).warnings
    assert any(w.startswith('stages.3.res5a.shortcut.bn and 4 more batch norms see maps of 1 x 1') for w in warnings)


class Faulty(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(3, 4, 1)
        self.forgotten = nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x) / 0


def test_warns_of_unused_parameters_and_output_that_is_not_finite():
    warnings = analyze(Faulty(), (3, 8, 8)).warnings
    assert warnings == (
        '2 parameters are never used: forgotten.weight, forgotten.bias.',
        'The output holds values that are not finite.',
    )


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(('model', 'size', 'says'), [
    (Branching(), (3, 8, 8), 'Branching cannot be traced'),
    (Faulty(), (5, 8, 8), 'refuses an input of 5 x 8 x 8'),
])
def test_what_cannot_be_analyzed_is_refused_in_one_line(model, size, says):
    with pytest.raises(UserError, match=says) as raised:
        analyze(model, size)
    assert '\n' not in str(raised.value)


def test_model_is_left_as_it_was():
    model = timm.create_model('res_squeezenet').train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    analyze(model, (3, 64, 64))
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

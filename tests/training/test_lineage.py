"""A configuration that is saved with trained weights does not speak of the weights before them."""
import json

import pytest
import timm
from timm.models import save_for_hf

from rsq_backbone.training.lineage import describe_training
from rsq_backbone.training.recipes import RECIPES


@pytest.mark.parametrize('name', ['res_squeezenet', 'res_squeezenet_lite', 'res_squeezenet.tv_in1k'])
def test_what_timm_saves_of_a_network_that_others_trained_is_true_of_it(name, tmp_path):
    save_for_hf(timm.create_model(name, num_classes=2), tmp_path, safe_serialization=True)
    cfg = json.loads((tmp_path / 'config.json').read_text())['pretrained_cfg']
    assert 'notes' not in cfg
    assert cfg['description'].startswith('Starts from SqueezeNet 1.1 as ')


@pytest.mark.parametrize(('recipe', 'notes', 'description'), [
    ('linear', ('slow',), 'A logistic regression, made by rsq-backbone, on the unchanged features of a.b.'),
    ('laptop', None, 'Fine-tuned by the recipe laptop of rsq-backbone from a.b.'),
    ('paper', None, 'Fine-tuned by the recipe paper of rsq-backbone from a.b.'),
])
def test_notes_of_others_stay_while_their_weights_do(recipe, notes, description):
    cfg = {'architecture': 'a', 'tag': 'b', 'license': 'mit', 'notes': ('slow',)}
    describe_training(cfg, RECIPES[recipe], pretrained=True)
    assert (cfg.get('notes'), cfg['description'], cfg['license']) == (notes, description, 'mit')
    assert 'tag' not in cfg

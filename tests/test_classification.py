import numpy as np
import pytest
import timm
import torch
from PIL import Image

from rsq_backbone.classification import classify
from rsq_backbone.errors import UserError
from rsq_backbone.images import ImageError


@pytest.fixture(scope='module')
def model():
    return timm.create_model('res_squeezenet', pretrained=True).eval()


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, size in enumerate(((300, 200), (8, 8), (1000, 40), (227, 227))):
        paths.append(tmp_path / f'{i}.png')
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(paths[-1])
    return paths


def test_pictures_of_mixed_sizes_in_one_batch_give_what_each_gives_alone(model, pictures):
    together = classify(pictures, model, topk=3)
    for result, path in zip(together, pictures, strict=True):
        alone = classify([path], model, topk=3)[0]
        assert (result.path, result.width, result.height) == (alone.path, alone.width, alone.height)
        for a, b in zip(result.predictions, alone.predictions, strict=True):
            assert (a.class_index, a.class_name) == (b.class_index, b.class_name)
            assert a.probability == pytest.approx(b.probability, rel=1e-4)


def test_probabilities_are_a_softmax_over_all_classes_best_first(model, pictures):
    probabilities = [p.probability for p in classify(pictures[:1], model, topk=1000)[0].predictions]
    assert sum(probabilities) == pytest.approx(1, rel=1e-4)
    assert probabilities == sorted(probabilities, reverse=True)


def test_class_names_come_from_the_models_configuration(pictures):
    overlay = dict(label_names=('mask', 'nucleus'), label_descriptions=dict(nucleus='a nucleus'), num_classes=2)
    model = timm.create_model('res_squeezenet', num_classes=2, pretrained_cfg_overlay=overlay).eval()
    names = {p.class_name for p in classify(pictures[:1], model, topk=2)[0].predictions}
    assert names == {'mask', 'a nucleus'}


@pytest.mark.parametrize('topk', [0, 1001])
def test_topk_out_of_range_is_refused(model, pictures, topk):
    with pytest.raises(UserError, match=r'topk should be 1 \.\. 1000'):
        classify(pictures, model, topk=topk)


def test_a_backbone_without_classes_is_refused(pictures):
    with pytest.raises(UserError, match='num_classes > 0'):
        classify(pictures, timm.create_model('res_squeezenet', num_classes=0))


def test_a_bad_picture_is_named(model, pictures, tmp_path):
    with pytest.raises(ImageError, match=r'missing\.png'):
        classify([*pictures, tmp_path / 'missing.png'], model)


def test_gradients_are_not_kept(model, pictures):
    classify(pictures[:1], model)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from rsq_backbone.classification import class_probabilities, classify
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


@pytest.mark.parametrize('given', ['path', 'list'])
def test_a_training_model_classifies_as_in_evaluation_mode_and_is_left_as_it_was(model, pictures, given):
    training = timm.create_model('res_squeezenet', pretrained=True)
    training.stages[3].eval()  # as timm.utils.freeze leaves what is frozen
    modes = {name: module.training for name, module in training.named_modules()}
    state = {name: tensor.clone() for name, tensor in training.state_dict().items()}
    images = pictures[0] if given == 'path' else pictures[:1]
    assert classify(images, training) == classify(pictures[:1], model)
    assert class_probabilities(pictures, training).tolist() == class_probabilities(pictures, model).tolist()
    assert {name: module.training for name, module in training.named_modules()} == modes
    assert any(modes.values())
    assert all(torch.equal(tensor, state[name]) for name, tensor in training.state_dict().items())


def test_takes_names_of_models_and_single_images(model, pictures):
    found = classify(str(pictures[0]), 'res_squeezenet')
    assert len(found) == 1
    # From its name it is built in channels_last memory, which adds in another order.
    for a, b in zip(found[0].predictions, classify([pictures[0]], model)[0].predictions, strict=True):
        assert (a.class_name, a.probability) == (b.class_name, pytest.approx(b.probability, rel=1e-4))
    assert classify(Image.open(pictures[0]), model)[0].predictions == classify(pictures[0], model)[0].predictions
    assert classify(pictures[0]) == found


@pytest.mark.parametrize(('wrong', 'told'), [
    ('res_squeezenett', 'did you mean res_squeezenet'), (None, 'not NoneType'), (timm.create_model, 'not function')])
def test_says_what_a_model_is(pictures, wrong, told):
    with pytest.raises(UserError, match=told):
        classify(pictures, wrong)


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

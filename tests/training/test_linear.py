"""The linear probe is scikit-learn's logistic regression, and a network can be made to compute it."""
import copy
import csv

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rsq_backbone.errors import UserError
from rsq_backbone.training.linear import LinearClassifier, LinearStart, fit_linear, pooled_features


def data(classes=4, n=60, features=30):
    """Features of different scales and offsets, as a network without norms has them; classes overlap."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    x = rng.normal(size=(n, features)) + 0.4 * rng.normal(size=(classes, features))[labels]
    return (x * rng.uniform(0.1, 30, features) + rng.normal(0, 50, features)).astype(np.float32), labels


def judge():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def logits(linear, x):
    return ((x - linear.mean) / linear.deviation) @ linear.weight.T + linear.bias


def softmax(x):
    return torch.from_numpy(x).softmax(1).numpy()


@pytest.mark.parametrize('classes', [2, 3, 4])
def test_it_is_scikit_learn_s_logistic_regression_on_standardised_features(classes):
    x, labels = data(classes)
    linear = fit_linear(x, labels, classes)
    expected = judge().fit(x, labels)
    np.testing.assert_allclose(softmax(logits(linear, x)), expected.predict_proba(x), atol=1e-3)  # solvers stop early
    np.testing.assert_array_equal(linear.predict(x), expected.predict(x))
    assert (linear.predict(x) == labels).mean() > 0.5


def test_features_that_never_change_count_for_nothing():
    x, labels = data()
    for column, value in ((3, 0), (4, 1e4), (5, -0.3)):
        x[:, column] = value
    linear = fit_linear(x, labels, 4)
    np.testing.assert_allclose(softmax(logits(linear, x)), judge().fit(x, labels).predict_proba(x), atol=1e-3)
    other = x.copy()
    other[:, 3:6] += 1000
    np.testing.assert_array_equal(logits(linear, other), logits(linear, x))


@pytest.mark.parametrize('missing', [0, 2, 3])
def test_a_class_without_training_pictures_is_never_predicted_and_disturbs_no_other(missing):
    x, labels = data()
    there = labels != missing
    linear = fit_linear(x[there], labels[there], 4)
    expected = judge().fit(x[there], labels[there])
    np.testing.assert_array_equal(linear.predict(x), expected.predict(x))
    others = [label for label in range(4) if label != missing]
    probabilities = softmax(logits(linear, x))
    np.testing.assert_allclose(probabilities[:, others], expected.predict_proba(x), atol=1e-3)
    assert probabilities[:, missing].max() < 1e-6


def test_two_of_many_classes_are_enough():
    x, labels = data(2)
    linear = fit_linear(x, labels * 3 + 1, 6)  # 1 and 4 of 0 .. 5
    expected = judge().fit(x, labels)
    np.testing.assert_array_equal(linear.predict(x), expected.predict(x) * 3 + 1)


@pytest.mark.parametrize('name', [
    'res_squeezenet', 'resnet18', 'mobilenetv3_small_050', 'ghostnet_050', 'efficientvit_b0', 'densenet121', 'test_vit',
    'test_convnext', 'rexnet_100', 'tiny_vit_5m_224'])
def test_a_network_with_the_linear_start_computes_the_logistic_regression_before_and_after_folding(name):
    torch.manual_seed(0)
    options = {'logit_relu': False} if name == 'res_squeezenet' else {}
    model = timm.create_model(name, drop_rate=0.5, **options).eval()
    model.reset_classifier(4)
    keys = set(model.state_dict())
    x = torch.randn(3, 3, 224, 224) if 'vit_5m' in name else torch.randn(3, 3, 160, 160)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        features = pooled_features(model)(x).double().numpy()
        # As in use: features far from zero, some of which never change.
        linear = LinearClassifier(
            features.mean(0), np.where(np.arange(features.shape[1]) % 7, features.std(0) + 0.1, np.inf),
            rng.normal(size=(4, features.shape[1])), rng.normal(size=4))
        expected = logits(linear, features)
        start = LinearStart(model, linear)
        np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-3)
        start.fold()
        np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-3)
    assert set(model.state_dict()) == keys
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_folding_keeps_what_was_learned_since():
    model = timm.create_model('test_resnet', num_classes=4).eval()
    linear = LinearClassifier(np.full(96, 3.0), np.full(96, 0.5), np.ones((4, 96)), np.zeros(4))
    start = LinearStart(model, linear)
    with torch.no_grad():
        model.fc.weight += torch.randn_like(model.fc.weight)
        model.fc.bias += torch.randn_like(model.fc.bias)
        x = torch.randn(2, 3, 96, 96)
        before = model(x)
        start.fold()
        torch.testing.assert_close(model(x), before, atol=1e-3, rtol=1e-4)


def test_features_are_those_that_the_last_layer_sees():
    """Compared with what a hook on the last layer catches; conv10 sees a map, which its average follows."""
    for name, classifier in (('res_squeezenet', 'conv10'), ('resnet18', 'fc'), ('mobilenetv3_small_050', 'classifier')):
        model = timm.create_model(name).eval()
        seen = []
        layer = model.get_submodule(classifier)
        layer.register_forward_pre_hook(lambda layer, inputs, seen=seen: seen.append(inputs[0]))
        x = torch.randn(2, 3, 96, 96)
        with torch.no_grad():
            found = pooled_features(copy.deepcopy(model))(x)
            model(x)
        torch.testing.assert_close(found, seen[-1].mean((2, 3)) if seen[-1].ndim == 4 else seen[-1])


def independent_floor(run, model, classifier):
    """Predictions for the validation pictures by scikit-learn, on features that a hook catches in a fresh model."""
    with (run / 'split.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    names = sorted({row['label'] for row in rows})
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ('mean', 'std'))
    interpolation = Image.Resampling[model.pretrained_cfg['interpolation'].upper()]
    caught = []
    model.get_submodule(classifier).register_forward_pre_hook(lambda layer, inputs: caught.append(inputs[0]))
    for row in rows:
        picture = Image.open(row['path']).convert('RGB').resize((64, 64), interpolation)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
        with torch.no_grad():
            model.eval()(((x - mean) / std)[None])
    features = np.stack([(f.mean((2, 3)) if f.ndim == 4 else f)[0].numpy() for f in caught])
    labels = np.array([names.index(row['label']) for row in rows])
    learned = np.array([row['part'] != 'validation' for row in rows])
    guesses = judge().fit(features[learned], labels[learned]).predict(features[~learned])
    return names, labels[~learned], guesses, [row['path'] for row in rows if row['part'] == 'validation']


def test_the_floor_of_a_run_is_what_scikit_learn_finds_on_features_computed_independently(train, runs, confusable):
    result = train('linear', source=confusable, model='res_squeezenet', pretrained=True)
    names, labels, guesses, paths = independent_floor(
        runs / 'run', timm.create_model('res_squeezenet', pretrained=True), 'conv10')
    assert 0.3 < accuracy_score(labels, guesses) < 1
    assert result.linear.accuracy == pytest.approx(accuracy_score(labels, guesses))
    assert np.array_equal(result.linear.confusion_matrix, confusion_matrix(labels, guesses))

    # The recipe's own model is that classifier.
    assert result.metrics == result.linear
    with (runs / 'run' / 'predictions.csv').open(newline='') as file:
        predicted = {row['path']: row['predicted_class'] for row in csv.DictReader(file)}
    assert predicted == {path: names[guess] for path, guess in zip(paths, guesses, strict=True)}


def test_the_floor_does_not_depend_on_the_recipe(train, runs, confusable, small):
    recipe = small('laptop', epochs=1, batch_size=16, trained_stages=0, drop_rate=0.5, held_out=0.2)
    result = train(recipe, source=confusable, model='res_squeezenet', pretrained=True)
    _, labels, guesses, _ = independent_floor(
        runs / 'run', timm.create_model('res_squeezenet', pretrained=True), 'conv10')
    assert np.array_equal(result.linear.confusion_matrix, confusion_matrix(labels, guesses))


@pytest.mark.parametrize('model', ['resnet18', 'test_vit', 'test_convnext', 'mobilenetv3_small_050'])
def test_the_linear_recipe_saves_the_floor_of_any_model(model, train, confusable):
    size = {'input_size': None} if model == 'test_vit' else {}
    result = train('linear', source=confusable, model=model, **size)
    assert result.metrics == result.linear
    assert result.metrics.accuracy < 1
    assert (result.epochs, result.iterations, result.chosen_epoch, result.monitor) == ((), (), 0, None)


@pytest.mark.parametrize('model', ['repvit_m0_9', 'levit_128s'])
def test_models_that_end_in_heads_of_several_layers_are_refused(model, train):
    with pytest.raises(UserError, match='one linear layer') as raised:
        train('linear', model=model, input_size=None)
    assert '\n' not in str(raised.value)


def test_the_linear_recipe_needs_no_stages(train):
    result = train('linear', model='pit_xs_224', input_size=None)
    assert result.metrics == result.linear

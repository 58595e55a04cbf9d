"""Runs from beginning to end, compared with each other and with what can be worked out by hand."""
import copy
import csv
import math
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.data import create_transform, resolve_data_config

from rsq_backbone.errors import UserError
from rsq_backbone.training import array_cache, finetuning

FROZEN = 'computing frozen features, pictures'
READING = 'reading pictures'


def weights(run):
    return load_file(run / 'model.safetensors')


def predictions(run):
    with (run / 'predictions.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def assert_identical(run, other):
    mine, theirs = weights(run), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert predictions(run) == predictions(other)


@pytest.fixture
def network_before(monkeypatch):
    """The networks' states and the names of their frozen parameters when training begins."""
    states = []
    fit = finetuning.fit

    def spy(task, *args):
        state = copy.deepcopy(task.network.state_dict())
        states.append((state, {name for name, p in task.network.named_parameters() if not p.requires_grad}))
        return fit(task, *args)

    monkeypatch.setattr(finetuning, 'fit', spy)
    return states


def test_the_paper_s_recipe_changes_the_residual_stage_and_conv10_and_nothing_else(train, small, runs):
    # At the paper's rate so small a set soon silences the ReLU on the logits, and nothing learns any more.
    train(small('paper', learning_rate=1e-4), model='res_squeezenet', pretrained=True)
    start = timm.create_model('res_squeezenet', pretrained=True, num_classes=3).state_dict()
    after = weights(runs / 'run')
    assert after.keys() == start.keys()
    for key, value in after.items():
        frozen = key.startswith(('stem.', 'stages.0.', 'stages.1.', 'stages.2.'))
        if frozen or '.bn1.weight' not in key:  # whose steps are too small to change a one
            assert torch.equal(value, start[key]) == frozen, key
    assert after['stages.3.res5a.bn1.num_batches_tracked'] == 8  # two epochs of four batches


@pytest.mark.parametrize(('recipe', 'cached'), [('paper', True), ('paper', False), ('laptop', False)])
def test_frozen_parameters_and_statistics_stay_bit_identical(
        recipe, cached, train, small, runs, network_before):
    """resnet18 has batch norms in its frozen part; `laptop` shows it augmented pictures in each epoch."""
    train(small(recipe, trained_stages=2), model='resnet18', feature_cache=cached)
    (before, frozen), = network_before
    after = weights(runs / 'run')
    assert frozen >= {'conv1.weight', 'bn1.weight', 'layer1.0.conv1.weight', 'layer2.1.bn2.bias'}
    statistics = {key for key in after if 'running' in key or 'num_batches' in key}
    fixed = statistics if recipe == 'laptop' else {
        key for key in statistics if key.startswith(('bn1.', 'layer1.', 'layer2.'))}
    assert all(torch.equal(after[key], before[key]) for key in frozen | fixed)
    changed = {key for key in after if key.startswith(('layer3.', 'layer4.', 'fc.')) and after[key].ndim > 1}
    assert not any(torch.equal(after[key], before[key]) for key in changed | statistics - fixed)


def test_two_runs_with_the_same_seed_are_bit_identical_and_with_another_are_not(train, small, runs):
    for recipe in ('paper', 'laptop'):
        for name, options in (('a', {}), ('b', {}), ('other', {'seed': 1})):
            train(small(recipe), f'{recipe}-{name}', **options)
        assert_identical(runs / f'{recipe}-a', runs / f'{recipe}-b')
        a, other = weights(runs / f'{recipe}-a'), weights(runs / f'{recipe}-other')
        assert not torch.equal(a['fc.weight'], other['fc.weight'])


def test_runs_without_the_cache_and_from_a_fresh_or_damaged_one_are_bit_identical(train, small, runs, own_cache):
    recipe = small('paper')
    for name in ('a', 'b'):
        train(recipe, f'uncached-{name}', feature_cache=False)
    assert_identical(runs / 'uncached-a', runs / 'uncached-b')

    assert train(recipe, 'first').feature_cache == 'used'
    files = list((own_cache / 'arrays').glob('*.npy'))
    # Pictures, their frozen features, and pooled ones, which the runs without the cache made of pictures.
    assert len(files) == 4
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
    train(recipe, 'damaged')
    assert_identical(runs / 'first', runs / 'damaged')


def test_training_on_kept_features_is_training_on_pictures(train, small, runs):
    """Features are kept as float16, whose relative error of up to 2^-11 is all that may come between."""
    recipe = small('paper', learning_rate=1e-4, epochs=3)
    kept = train(recipe, 'kept', model='res_squeezenet', pretrained=True)
    plain = train(recipe, 'plain', model='res_squeezenet', pretrained=True, feature_cache=False)
    assert kept.feature_cache == 'used'
    assert plain.feature_cache == 'not used: switched off'
    assert kept.iterations[0].loss == pytest.approx(plain.iterations[0].loss, rel=2**-9)
    start = timm.create_model('res_squeezenet', pretrained=True, num_classes=3).state_dict()
    mine, theirs = weights(runs / 'kept'), weights(runs / 'plain')
    for key in ('stages.3.res5a.conv1.weight', 'stages.3.res5b.conv2.weight', 'stages.3.res5a.bn1.running_mean'):
        assert (mine[key] - theirs[key]).norm() < 0.02 * (theirs[key] - start[key]).norm(), key
    for a, b in zip(predictions(runs / 'kept'), predictions(runs / 'plain'), strict=True):
        assert a['predicted_class'] == b['predicted_class']
        assert float(a['probability']) == pytest.approx(float(b['probability']), abs=0.01)


@pytest.fixture
def steps(train):
    """Train and give the pieces of work that were done."""

    def steps(*args, **options):
        seen = []
        train(*args, progress=lambda what, done, total: seen.append(what), **options)
        return set(seen)

    return steps


def test_a_second_seed_computes_nothing_anew(steps, small):
    bundled = dict(model='res_squeezenet', pretrained=True)
    assert {READING, FROZEN, 'computing pooled features, pictures'} <= steps(small('paper', epochs=1), 'a', **bundled)
    assert steps(small('paper', epochs=1), 'b', seed=1, **bundled) == {
        'checking pictures', 'training, batches', 'evaluating, pictures'}


def test_features_of_another_network_input_or_picture_are_computed_anew(steps, small, pictures):
    assert FROZEN in steps(small('paper'), 'a')
    assert FROZEN not in steps(small('paper'), 'again')
    assert FROZEN in steps(small('paper'), 'random weights', seed=1)
    assert FROZEN in steps(small('paper', trained_stages=2), 'other layers')
    assert {FROZEN, READING} <= steps(small('paper'), 'size', input_size=96)
    assert {FROZEN, READING} <= steps(small('paper', crop_mode='center'), 'crop')
    Image.new('RGB', (64, 64), (9, 9, 9)).save(pictures / 'red' / '0.png')
    assert {FROZEN, READING} <= steps(small('paper'), 'changed')


@pytest.mark.parametrize(('changes', 'says'), [
    ({'augmentation': 'light'}, 'augmentation'),
    ({'trained_stages': None}, 'nothing is frozen'),
])
def test_a_run_says_why_features_are_not_kept(changes, says, train, small):
    assert says in train(small('paper', epochs=1, **changes)).feature_cache


@pytest.mark.parametrize('recipe', ['paper', 'laptop', 'linear'])
def test_without_room_in_the_cache_a_run_is_slower_but_the_same(
        recipe, train, small, runs, own_cache, monkeypatch):
    chosen = 'linear' if recipe == 'linear' else small(recipe, epochs=1)
    train(chosen, 'kept', feature_cache=False)
    monkeypatch.setattr(array_cache, 'LIMIT_BYTES', 0)
    monkeypatch.setenv('RSQ_CACHE', str(own_cache.with_name('another')))
    train(chosen, 'loose')
    assert_identical(runs / 'kept', runs / 'loose')
    assert not list(own_cache.with_name('another').rglob('*.npy'))


def test_a_cache_folder_that_cannot_be_made_does_not_stop_a_run(train, small, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('RSQ_CACHE', str(tmp_path / 'file' / 'cache'))
    assert 'not used' in train(small('paper', epochs=1)).feature_cache


def pooled_features(runs):
    """Of the training images by the pretrained network, and their labels; computed by plain code."""
    model = timm.create_model('res_squeezenet', pretrained=True).eval()
    names = ('blue', 'green', 'red')
    with (runs / 'run' / 'split.csv').open(newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['part'] == 'train']
    x = torch.from_numpy(np.stack([
        np.array(Image.open(row['path']).resize((64, 64), Image.Resampling.BICUBIC)) for row in rows])).float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        features = model.forward_features(x.permute(0, 3, 1, 2)).mean((2, 3)).numpy()
    return features, np.array([names.index(row['label']) for row in rows])


def learned(confusable, runs, recipe, train):
    """Train on everything in one batch; gives the result, and scikit-learn's probabilities and labels of the batch."""
    result = train(recipe, source=confusable, model='res_squeezenet', pretrained=True)
    features, labels = pooled_features(runs)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(features, labels)
    return result, judge.predict_proba(features), labels


@pytest.mark.parametrize('balance', [0, 0.5, 1])
def test_the_first_loss_is_that_of_the_linear_floor_with_classes_weighed_as_the_recipe_says(
        balance, train, small, runs, confusable):
    recipe = small('laptop', epochs=1, batch_size=31, trained_stages=0, augmentation='none', label_smoothing=0.1,
                   balance=balance)
    result, p, labels = learned(confusable, runs, recipe, train)
    assert np.bincount(labels).tolist() == [14, 7, 10]
    weight = np.array([14.0, 7, 10]) ** -balance
    weight /= (weight * [14, 7, 10]).sum() / 31  # a mean of one over the pictures
    # Of the target, 0.9 is the true class and 0.1 is spread over all three.
    losses = -0.9 * np.log(p[np.arange(31), labels]) - 0.1 * np.log(p).mean(1)
    assert result.iterations[0].loss == pytest.approx((losses * weight[labels]).mean(), rel=5e-3)
    assert result.iterations[0].accuracy == pytest.approx((p.argmax(1) == labels).mean())


def test_a_constant_rate_stays_and_one_cycle_ends_at_nothing(train, small):
    paper = train(small('paper', epochs=3), 'paper')
    rate = paper.recipe['learning_rate'] * paper.recipe['classifier_factor'] / min(1, paper.recipe['feature_size'])
    assert [epoch.learning_rate for epoch in paper.epochs] == pytest.approx([rate] * 3)
    laptop = train(small('laptop', epochs=3, learning_rate=1e-3, classifier_factor=2), 'laptop')
    # Twelve steps, the first 1.2 of them warm-up; then half a cosine.
    expected = [2e-3 * (0.5 + 0.5 * math.cos(math.pi * (step / 12 - 0.1) / 0.9)) for step in (4, 8, 12)]
    assert [epoch.learning_rate for epoch in laptop.epochs] == pytest.approx(expected, abs=1e-12)
    assert laptop.epochs[-1].learning_rate == pytest.approx(0, abs=1e-12)


def test_a_last_layer_that_starts_at_random_learns_at_a_rate_that_goes_with_the_size_of_its_features(
        train, small, runs, confusable):
    """Ten times 3e-4 for features with a mean square of 1, and the inverse of their mean square for others."""
    result = train(small('paper', epochs=1), source=confusable, model='res_squeezenet', pretrained=True)
    features, _ = pooled_features(runs)
    expected = 3e-4 * 10 / (features ** 2).mean()
    assert expected > 0.01
    assert result.epochs[0].learning_rate == pytest.approx(expected, rel=1e-3)
    assert result.recipe['feature_size'] == pytest.approx((features ** 2).mean(), rel=1e-3)
    laptop = train(small('laptop', epochs=1), 'laptop', source=confusable, model='res_squeezenet', pretrained=True)
    # Its features are standardized.
    assert (laptop.recipe['classifier_factor'], laptop.recipe['feature_size']) == (1, 1)


def test_the_history_has_every_batch_and_epochs_are_their_means(train, small):
    result = train(small('paper', epochs=3))
    assert [epoch.number for epoch in result.epochs] == [1, 2, 3]
    assert len(result.iterations) == 12  # 18 pictures in batches of four
    for i, epoch in enumerate(result.epochs):
        own = result.iterations[4 * i:4 * i + 4]
        assert epoch.train_loss == pytest.approx(sum(it.loss for it in own) / 4)
        assert epoch.train_accuracy == pytest.approx(sum(it.accuracy for it in own) / 4)
        assert epoch.monitor_accuracy in [n / 6 for n in range(7)] or epoch.monitor_accuracy == pytest.approx(
            round(epoch.monitor_accuracy * 6) / 6)
    assert result.chosen_epoch == 3
    assert result.monitor == 'validation'


def loss_of(run, part):
    """Cross-entropy and accuracy of the saved model on a part of its pictures, by timm's own pipeline."""
    model = timm.create_model(f'local-dir:{run}', pretrained=True).eval()
    transform = create_transform(**resolve_data_config(model=model))
    with (run / 'split.csv').open(newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['part'] == part]
    x = torch.stack([transform(Image.open(row['path']).convert('RGB')) for row in rows])
    y = torch.tensor([model.pretrained_cfg['label_names'].index(row['label']) for row in rows])
    with torch.no_grad():
        logits = model(x)
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def test_the_saved_weights_are_those_of_the_epoch_that_did_best_on_held_out_pictures(
        train, small, runs, confusable):
    recipe = small('laptop', epochs=6, held_out=0.3, learning_rate=0.03, schedule='constant', augmentation='none')
    result = train(recipe, source=confusable)
    losses = [epoch.monitor_loss for epoch in result.epochs]
    assert result.monitor == 'held out'
    assert result.chosen_epoch == 1 + losses.index(min(losses))
    assert result.chosen_epoch != 6  # else this test shows nothing
    chosen = result.epochs[result.chosen_epoch - 1]
    loss, accuracy = loss_of(runs / 'run', 'held_out')
    assert loss == pytest.approx(chosen.monitor_loss, rel=1e-3)
    assert accuracy == pytest.approx(chosen.monitor_accuracy)


@pytest.mark.parametrize('recipe', ['paper', 'laptop'])
def test_without_held_out_pictures_the_last_epoch_is_kept_and_validation_only_watched(
        recipe, train, small, runs, confusable):
    result = train(small(recipe, epochs=2), source=confusable)
    loss, accuracy = loss_of(runs / 'run', 'validation')
    assert loss == pytest.approx(result.epochs[-1].monitor_loss, rel=1e-3)
    assert accuracy == pytest.approx(result.epochs[-1].monitor_accuracy)
    assert accuracy == pytest.approx(result.metrics.accuracy)


def test_validation_pictures_never_choose_the_epoch(train, small, tmp_path, draw_pictures):
    """Of classes with two pictures one is trained on and one judged by; there is none to hold out."""
    source = draw_pictures(tmp_path / 'few', {'blue': 2, 'green': 2, 'red': 2})
    try:
        result = train(small('laptop', held_out=0.25, batch_size=2), source=source)
    except UserError:
        return
    assert result.data.held_out_counts == (0, 0, 0)
    assert result.monitor != 'held out'
    assert result.chosen_epoch == 2


def test_a_run_can_be_started_from_any_thread(train, small):
    outcome = []

    def work():
        try:
            outcome.append(train(small('paper', epochs=1)))
        except BaseException as e:
            outcome.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not isinstance(outcome[0], BaseException), repr(outcome[0])


@pytest.mark.parametrize('changes', [
    {'optimizer': 'adam'}, {'schedule': 'cosine'}, {'crop_mode': 'stretch'}, {'augmentation': 'wild'}])
def test_a_recipe_with_a_value_that_does_not_exist_is_refused(changes, train, small):
    with pytest.raises((UserError, ValueError)):  # from the recipe itself or from the run
        train(small('paper', **changes))


def test_a_recipe_that_trains_everything_takes_models_that_do_not_tell_their_stages(train, small):
    """As the error about such a model advises."""
    recipe = small('laptop', epochs=1, batch_size=9, trained_stages=None)
    assert len(train(recipe, model='pit_ti_224', input_size=None).iterations) == 2


@pytest.mark.slow
@pytest.mark.parametrize('model', ['hrnet_w18_small', 'mvitv2_tiny', 'efficientvim_m1'])
def test_models_that_hand_on_several_tensors_are_trained(model, train, small):
    """Cut at an earlier place where there is a single tensor, or not at all."""
    recipe = small('paper', epochs=1, batch_size=9)
    assert len(train(recipe, model=model, input_size=None).iterations) == 2


def test_a_model_of_fixed_input_size_says_so(train, small):
    with pytest.raises(UserError, match='input'):
        train(small('paper'), model='vit_tiny_patch16_224', input_size=64)


@pytest.mark.parametrize('model', ['mobilenetv3_small_050', 'test_vit', 'test_convnext', 'test_nfnet', 'test_mambaout'])
@pytest.mark.parametrize('recipe', ['paper', 'laptop'])
def test_any_timm_model_can_be_trained(model, recipe, train, small, runs):
    result = train(small(recipe, epochs=1), model=model, input_size=None if model == 'test_vit' else 64)
    assert len(result.iterations) == 4
    model = timm.create_model(f'local-dir:{runs / "run"}', pretrained=True)
    assert model.num_classes == 3


def test_the_default_name_tells_source_model_recipe_and_seed(pictures, tmp_path):
    options = dict(model='test_resnet', pretrained=False, input_size=64, output=tmp_path / 'runs')
    assert finetuning.finetune(str(pictures), 'linear', **options).name == 'pictures-test_resnet-linear'
    assert finetuning.finetune(f'{pictures}/', 'linear', seed=3, **options).name == 'pictures-test_resnet-linear-seed3'
    assert Path(tmp_path / 'runs' / 'pictures-test_resnet-linear-seed3' / 'metrics.json').exists()


def test_folders_that_differ_behind_a_dot_get_different_names(tmp_path, draw_pictures):
    options = dict(model='test_resnet', pretrained=False, input_size=64, output=tmp_path / 'runs')
    names = [finetuning.finetune(str(draw_pictures(tmp_path / name, {'a': 4, 'b': 4})), 'linear', **options).name
             for name in ('2024.05', '2024.06')]
    assert names == ['2024.05-test_resnet-linear', '2024.06-test_resnet-linear']

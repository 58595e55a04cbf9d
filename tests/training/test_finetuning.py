"""A run from beginning to end, on small pictures."""
import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, jaccard_score
from timm.data import create_transform, resolve_data_config

from rsq_backbone import evaluate
from rsq_backbone.errors import UserError
from rsq_backbone.results import TrainingResult
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import RECIPES

PAPER = dataclasses.replace(RECIPES['paper'], epochs=2, batch_size=4)
LAPTOP = dataclasses.replace(RECIPES['laptop'], epochs=2, batch_size=4)
PARTS = {'paper': PAPER, 'laptop': LAPTOP}


def weights(run: Path) -> dict:
    return load_file(run / 'model.safetensors')


def predictions(run: Path) -> list:
    with (run / 'predictions.csv').open() as file:
        return list(csv.DictReader(file))


def test_a_run_folder_is_a_timm_checkpoint_with_classes_and_preprocessing(pictures, tmp_path):
    result = finetune(str(pictures), LAPTOP, input_size=64, output=tmp_path, name='run')
    run = tmp_path / 'run'
    model = timm.create_model(f'local-dir:{run}', pretrained=True).eval()
    assert model.pretrained_cfg['label_names'] == ['blue', 'green', 'red']
    transform = create_transform(**resolve_data_config(model=model))
    for row in predictions(run):
        with torch.no_grad():
            p = model(transform(Image.open(row['path']).convert('RGB'))[None]).softmax(1)[0]
        assert float(p.max()) == pytest.approx(float(row['probability']), abs=1e-4)
    true, guessed = zip(*((r['true_class'], r['predicted_class']) for r in predictions(run)), strict=True)
    assert result.metrics.accuracy == pytest.approx(accuracy_score(true, guessed))
    assert result.metrics.mean_iou == pytest.approx(jaccard_score(true, guessed, average='macro'))
    assert TrainingResult.from_json(json.loads((run / 'metrics.json').read_text())) == result
    for name in ('report.html', 'curves.png', 'confusion.png', 'mistakes.png', 'split.csv'):
        assert (run / name).stat().st_size > 100
    assert not (run / 'checkpoints').exists()


def test_what_the_paper_freezes_does_not_change_and_the_rest_does(pictures, tmp_path):
    finetune(str(pictures), PAPER, input_size=64, output=tmp_path, name='run')
    start = timm.create_model('res_squeezenet', pretrained=True, num_classes=3).state_dict()
    after = weights(tmp_path / 'run')
    frozen = [key for key in after if key.startswith(('stem', 'stages.0', 'stages.1', 'stages.2'))]
    assert len(frozen) == 2 + 8 * 6
    assert all(torch.equal(after[key], start[key]) for key in frozen)
    # What lies before a scale of zero hardly moves in a few steps; these must.
    for key in ('stages.3.res5a.shortcut.conv.weight', 'stages.3.res5a.bn2.weight', 'stages.3.res5b.bn2.running_var'):
        assert not torch.equal(after[key], start[key]), key


def test_training_from_kept_features_gives_what_training_from_pictures_gives(pictures, tmp_path):
    recipe = dataclasses.replace(PAPER, drop_rate=0)
    runs = [finetune(str(pictures), recipe, input_size=64, output=tmp_path, name=str(kept), feature_cache=kept)
            for kept in (True, False)]
    assert runs[0].feature_cache == 'used'
    assert runs[1].feature_cache.startswith('not used')
    # Features are kept as float16, whose relative error is 2^-11.
    for a, b in zip(runs[0].iterations, runs[1].iterations, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=0.02, abs=0.01)


def test_the_linear_recipe_saves_the_floor(pictures, tmp_path):
    result = finetune(str(pictures), 'linear', input_size=64, output=tmp_path, name='run')
    assert result.metrics == result.linear
    assert result.epochs == ()


def test_augmentation_and_unfrozen_networks_are_trained_uncached_and_say_so(pictures, tmp_path):
    result = finetune(str(pictures), LAPTOP, input_size=64, output=tmp_path, name='run')
    assert 'augmentation' in result.feature_cache


def test_evaluation_leaves_out_what_was_trained_on_even_under_another_name(pictures, tmp_path):
    result = finetune(str(pictures), 'linear', input_size=64, output=tmp_path, name='run')
    (pictures / 'red').rename(pictures / 'moved')
    (pictures / 'moved').rename(pictures / 'red')
    for file in sorted(pictures.rglob('*.png')):
        file.rename(file.with_name(f'renamed-{file.name}'))
    evaluation = evaluate(tmp_path / 'run', str(pictures))
    assert evaluation.metrics.n == result.metrics.n
    assert evaluation.metrics.accuracy == result.metrics.accuracy
    assert evaluate(tmp_path / 'run', str(pictures), include_training=True).metrics.n == 24


def test_a_taken_name_is_refused_and_only_a_run_is_overwritten(pictures, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'thesis.txt').write_text('mine')
    for options in ({}, {'overwrite': True}, {'resume': True}):
        with pytest.raises(UserError):
            finetune(str(pictures), 'linear', input_size=64, output=tmp_path, name='run', **options)
    assert (tmp_path / 'run' / 'thesis.txt').read_text() == 'mine'


def test_a_diverging_loss_is_one_line_that_says_how_to_mend(pictures, tmp_path):
    recipe = dataclasses.replace(PAPER, learning_rate=1e20)
    with pytest.raises(UserError, match='lower --learning-rate'):
        finetune(str(pictures), recipe, input_size=64, output=tmp_path, name='run')
    assert not (tmp_path / 'run' / 'metrics.json').exists()
    assert not (tmp_path / 'run' / 'model.safetensors').exists()


_KILLED = '''
import dataclasses, os, signal, sys
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import RECIPES
source, output, recipe, what, at = sys.argv[1:]
def progress(name, done, total):
    if name == what and done == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
finetune(source, dataclasses.replace(RECIPES[recipe], epochs=2, batch_size=4), input_size=64, output=output, name='run',
         progress=progress)
'''


@pytest.mark.parametrize(('recipe', 'what', 'at'), [
    ('paper', 'training, batches', 6),
    ('laptop', 'training, batches', 6),
    ('paper', 'computing frozen features, pictures', 16),
])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(recipe, what, at, pictures, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', _KILLED, str(pictures), str(tmp_path / 'killed'), recipe, what, str(at)],
        capture_output=True, text=True, timeout=200, env=dict(os.environ, RSQ_CACHE=str(tmp_path / 'other-cache')))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / 'killed' / 'run' / 'metrics.json').exists()
    options = dict(recipe=PARTS[recipe], input_size=64, name='run')
    finetune(str(pictures), output=tmp_path / 'killed', resume=True, **options)
    finetune(str(pictures), output=tmp_path / 'whole', **options)
    resumed, whole = weights(tmp_path / 'killed' / 'run'), weights(tmp_path / 'whole' / 'run')
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_a_run_is_not_resumed_with_other_settings(pictures, tmp_path):
    finetune(str(pictures), 'linear', input_size=64, output=tmp_path, name='run')
    with pytest.raises(UserError, match='seed'):
        finetune(str(pictures), 'linear', input_size=64, output=tmp_path, name='run', seed=1, resume=True)


def test_a_damaged_cache_is_computed_anew(pictures, tmp_path, own_cache):
    first = finetune(str(pictures), PAPER, input_size=64, output=tmp_path, name='a')
    for file in (own_cache / 'arrays').glob('*.npy'):
        file.write_bytes(file.read_bytes()[:200])
    again = finetune(str(pictures), PAPER, input_size=64, output=tmp_path, name='b')
    assert [i.loss for i in again.iterations] == [i.loss for i in first.iterations]
    assert np.isfinite([i.loss for i in again.iterations]).all()

"""A run that was killed at any moment ends, once resumed, as it would have ended undisturbed."""
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rsq_backbone.errors import UserError
from rsq_backbone.training import finetuning
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import RECIPES

RECIPES_USED = {
    'sgd': dataclasses.replace(RECIPES['paper'], epochs=3, batch_size=4, learning_rate=1e-3),
    'one-cycle': dataclasses.replace(RECIPES['laptop'], epochs=3, batch_size=4, drop_rate=0.3),
    'best epoch': dataclasses.replace(
        RECIPES['laptop'], epochs=3, batch_size=4, held_out=0.3, learning_rate=3e-3, augmentation='none'),
    'linear': RECIPES['linear'],
}
# recipe; and either a piece of work and how much of it is done, or the function that is called, when the kill comes.
# Eighteen pictures make four batches of four an epoch; of 'best epoch', twelve and three.
MOMENTS = {
    'while checking': ('sgd', 'checking pictures', 12),
    'while reading': ('sgd', 'reading pictures', 12),
    'while the floor is computed': ('sgd', 'computing pooled features, pictures', 16),
    'while features are computed': ('sgd', 'computing frozen features, pictures', 16),
    'in the first epoch': ('sgd', 'training, batches', 2),
    'in the second epoch': ('sgd', 'training, batches', 6),
    'while the second checkpoint is written': ('sgd', 'os:fsync', 6),
    'before the second checkpoint': ('sgd', 'training, batches', 8),
    'before the last checkpoint': ('sgd', 'training, batches', 12),
    'between two epochs': ('sgd', 'rsq_backbone.training.task:ClassificationTask.on_train_epoch_start', 2),
    'in the second epoch, one-cycle': ('one-cycle', 'training, batches', 7),
    'in the last epoch, one-cycle': ('one-cycle', 'training, batches', 11),
    'in the last epoch, best epoch kept': ('best epoch', 'training, batches', 8),
    'while judging': ('sgd', 'evaluating, pictures', 6),
    'while judging, best epoch kept': ('best epoch', 'evaluating, pictures', 6),
    'while weights are written': ('sgd', 'safetensors.torch:save_file', 1),
    'before predictions are written': ('sgd', 'rsq_backbone.training.run_folder:RunFolder.save_predictions', 1),
    'before the report is written': ('one-cycle', 'rsq_backbone.training.finetuning:write_report', 1),
    'before metrics are written': ('linear', 'rsq_backbone.training.run_folder:RunFolder.finish', 1),
}
SLOW = {'while checking', 'while reading', 'while the floor is computed', 'before the second checkpoint',
        'in the second epoch, one-cycle', 'while judging', 'while judging, best epoch kept',
        'before predictions are written', 'before metrics are written'}
NOTHING_TRAINED = {'while checking', 'while reading', 'while the floor is computed', 'while features are computed',
                   'in the first epoch', 'before metrics are written'}

# Imports once, then forks for each moment before anything was computed: a run of its own, killed by its own hand.
_KILLED = '''
import importlib, json, os, signal, sys
import albumentations, matplotlib.figure, sklearn.linear_model
from rsq_backbone.training import finetuning
from rsq_backbone.training.recipes import Recipe

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def kill_in(what, count):
    module, _, path = what.partition(':')
    *owners, name = path.split('.')
    owner = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), []
    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) < count:
            return original(*args, **kwargs)
        if name == 'save_file':
            with open(args[1], 'wb') as file:
                file.write(b'half of it')
        kill()
    setattr(owner, name, call)

for plot in ('draw_confusion', 'draw_curves', 'draw_mistakes'):
    setattr(finetuning, plot, lambda *args: None)
for job in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        try:
            what, at = job['what'], job['at']
            if ':' in what:
                kill_in(what, at)
            os.environ['RSQ_CACHE'] = job['cache']
            finetuning.finetune(
                recipe=Recipe(**job['recipe']), **job['options'],
                progress=lambda name, done, total: kill() if (name, done) == (what, at) else None)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''


def options(source, output):
    return dict(source=str(source), model='test_resnet', pretrained=False, input_size=64, output=str(output),
                name='run')


@pytest.fixture(scope='module', autouse=True)
def without_plots():
    """They take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        for plot in ('draw_confusion', 'draw_curves', 'draw_mistakes'):
            patch.setattr(finetuning, plot, lambda *args: None)
        yield


@pytest.fixture(scope='module')
def source(tmp_path_factory, draw_pictures):
    return draw_pictures(tmp_path_factory.mktemp('source') / 'pictures', {'blue': 8, 'green': 8, 'red': 8}, spread=60)


@pytest.fixture(scope='module')
def killed(request, tmp_path_factory, source):
    """{moment: the output folder of a run that was killed then}, for the moments of the tests that are selected"""
    root = tmp_path_factory.mktemp('killed')
    wanted = {item.callspec.params['moment'] for item in request.session.items
              if item.path == request.path and hasattr(item, 'callspec') and 'moment' in item.callspec.params}
    moments = [moment for moment in MOMENTS if moment in wanted]
    jobs = []
    for number, moment in enumerate(moments):
        recipe, what, at = MOMENTS[moment]
        jobs.append(dict(
            what=what, at=at, recipe=dataclasses.asdict(RECIPES_USED[recipe]), cache=str(root / f'cache{number}'),
            options=options(source, root / str(number))))
    done = subprocess.run(
        [sys.executable, '-c', _KILLED], input=json.dumps(jobs), capture_output=True, text=True, timeout=250,
        check=False)
    statuses = dict(zip(moments, done.stdout.split(), strict=True))
    assert set(statuses.values()) <= {'-9'}, (statuses, done.stderr)
    return {moment: root / str(number) for number, moment in enumerate(moments)}


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, source, without_plots):
    root = tmp_path_factory.mktemp('undisturbed')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('RSQ_CACHE', str(root / 'cache'))
        return {name: (root / name / 'run', finetune(recipe=recipe, **options(source, root / name)))
                for name, recipe in RECIPES_USED.items()}


def assert_ends_as(run, result, whole, expected):
    mine, theirs = (load_file(folder / 'model.safetensors') for folder in (run, whole))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert (run / 'predictions.csv').read_bytes() == (whole / 'predictions.csv').read_bytes()
    assert result.iterations == expected.iterations
    assert [dataclasses.replace(e, seconds=0) for e in result.epochs] == [
        dataclasses.replace(e, seconds=0) for e in expected.epochs]
    assert (result.chosen_epoch, result.metrics, result.linear) == (
        expected.chosen_epoch, expected.metrics, expected.linear)
    assert not (run / 'checkpoints').exists()


def resume(recipe, source, output, monkeypatch):
    """Gives the result and the numbers of the batches that were trained."""
    monkeypatch.setenv('RSQ_CACHE', str(output.with_name(f'cache{output.name}')))
    batches = []
    result = finetune(
        recipe=RECIPES_USED[recipe], **options(source, output), resume=True,
        progress=lambda what, done, total: batches.append(done) if what == 'training, batches' else None)
    return result, batches


@pytest.mark.parametrize('moment', [
    pytest.param(moment, marks=[pytest.mark.slow] if moment in SLOW else []) for moment in MOMENTS])
def test_a_killed_run_looks_unfinished_and_resumed_ends_as_the_undisturbed_one(
        moment, killed, undisturbed, source, monkeypatch):
    recipe = MOMENTS[moment][0]
    output = killed[moment]
    run = output / 'run'
    assert not (run / 'metrics.json').exists()
    if (run / 'model.safetensors').exists():
        with safe_open(run / 'model.safetensors', 'pt') as file:
            assert len(file.keys()) > 10
    assert (run / 'checkpoints' / 'last.ckpt').exists() != (moment in NOTHING_TRAINED)
    # It becomes a run only once everything that could keep it from starting has been tried.
    if (run / 'settings.json').exists():
        with pytest.raises(UserError, match='--resume'):
            finetune(recipe=RECIPES_USED[recipe], **options(source, output))
    else:
        assert moment in NOTHING_TRAINED
    result, batches = resume(recipe, source, output, monkeypatch)
    assert_ends_as(run, result, *undisturbed[recipe])
    if recipe == 'sgd' and moment not in NOTHING_TRAINED:
        assert 1 not in batches  # whole epochs are not trained again


@pytest.mark.parametrize('moment', ['while weights are written'])
def test_leftovers_of_a_killed_writer_do_not_stay_in_the_run(moment, killed, source, monkeypatch):
    resume(MOMENTS[moment][0], source, killed[moment], monkeypatch)
    assert not [file.name for file in (killed[moment] / 'run').iterdir() if file.name.startswith('.')]


def test_the_best_epoch_of_these_runs_is_not_the_last(undisturbed):
    """Else keeping it through a kill would not be tested."""
    assert undisturbed['best epoch'][1].chosen_epoch < 3


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else 'folder' for path in folder.iterdir()}


def test_a_finished_run_is_given_back_as_it_is(undisturbed, source, tmp_path):
    run, result = undisturbed['sgd']
    shutil.copytree(run, tmp_path / 'runs' / 'run')
    before = contents(tmp_path / 'runs' / 'run')
    pieces = []
    again = finetune(
        recipe=RECIPES_USED['sgd'], **options(source, tmp_path / 'runs'), resume=True,
        progress=lambda what, *_: pieces.append(what))
    assert again == result
    assert pieces == []
    assert contents(tmp_path / 'runs' / 'run') == before


def test_resuming_where_there_is_nothing_begins(undisturbed, source, tmp_path):
    result = finetune(recipe=RECIPES_USED['sgd'], **options(source, tmp_path), resume=True)
    assert_ends_as(tmp_path / 'run', result, *undisturbed['sgd'])


class Stop(Exception):
    pass


@pytest.fixture
def own_source(source, tmp_path):
    return shutil.copytree(source, tmp_path / 'source')


@pytest.fixture
def stopped(own_source, tmp_path):
    """The output folder of a run that was stopped in its second epoch."""

    def stop(what, done, total):
        if (what, done) == ('training, batches', 6):
            raise Stop

    with pytest.raises(Stop):
        finetune(recipe=RECIPES_USED['sgd'], **options(own_source, tmp_path / 'runs'), progress=stop)
    return tmp_path / 'runs'


@pytest.mark.parametrize(('changes', 'says'), [
    ({'seed': 1}, 'seed'),
    ({'input_size': 96}, 'input_size'),
    ({'model': 'test_efficientnet'}, 'model'),
    ({'train_share': 0.5}, 'train_share'),
    ({'recipe': dataclasses.replace(RECIPES_USED['sgd'], learning_rate=1e-2)}, 'recipe'),
    ({'recipe': dataclasses.replace(RECIPES_USED['sgd'], epochs=4)}, 'recipe'),
])
def test_a_run_is_not_resumed_with_other_settings(stopped, own_source, changes, says):
    before = (stopped / 'run' / 'settings.json').read_bytes()
    with pytest.raises(UserError, match=rf'\({says}\)') as raised:
        finetune(**{'recipe': RECIPES_USED['sgd'], **options(own_source, stopped), 'resume': True, **changes})
    assert '\n' not in str(raised.value)
    assert (stopped / 'run' / 'settings.json').read_bytes() == before
    assert (stopped / 'run' / 'checkpoints' / 'last.ckpt').exists()


def test_a_run_is_not_resumed_on_other_pictures(stopped, own_source):
    """Fewer pictures move the border of the split: some that were trained on would be judged by."""
    for i in (0, 1, 2):
        (own_source / 'red' / f'{i}.png').unlink()
    with pytest.raises(UserError):
        finetune(recipe=RECIPES_USED['sgd'], **options(own_source, stopped), resume=True)


def checkpoint(output):
    return output / 'run' / 'checkpoints' / 'last.ckpt'


@pytest.mark.parametrize('share', [0, 0.001, 0.5, 0.999])
def test_a_checkpoint_that_was_cut_off_is_one_line(stopped, own_source, share):
    data = checkpoint(stopped).read_bytes()
    checkpoint(stopped).write_bytes(data[:int(share * len(data))])
    with pytest.raises(UserError) as raised:
        finetune(recipe=RECIPES_USED['sgd'], **options(own_source, stopped), resume=True)
    assert 'last.ckpt' in str(raised.value)
    assert '\n' not in str(raised.value)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize('change', ['a pickle of other things', 'other weights', 'no history', 'no dictionary'])
def test_a_checkpoint_of_another_kind_is_one_line_and_never_executed(stopped, own_source, tmp_path, change):
    state = torch.load(io.BytesIO(checkpoint(stopped).read_bytes()), weights_only=True)
    if change == 'a pickle of other things':
        state['callbacks'] = Evil(tmp_path / 'executed')
    elif change == 'other weights':
        del state['state_dict']['network.fc.weight']
    elif change == 'no history':
        del state['history']
    else:
        state = [1]
    torch.save(state, checkpoint(stopped))
    with pytest.raises(UserError) as raised:
        finetune(recipe=RECIPES_USED['sgd'], **options(own_source, stopped), resume=True)
    assert '\n' not in str(raised.value)
    assert not (tmp_path / 'executed').exists()

"""rsq finetune, evaluate and predict, as a user types them."""
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config

TINY = ('--model', 'test_resnet', '--no-pretrained', '--input-size', 64)
RUN_FILES = {
    'model.safetensors', 'config.json', 'metrics.json', 'settings.json', 'split.csv', 'predictions.csv', 'report.html',
    'curves.png', 'confusion.png', 'mistakes.png'}


@pytest.fixture(scope='module')
def finished(tmp_path_factory, draw_pictures):
    """A run folder of three classes that its model tells apart by colour, and the folder of its pictures."""
    from rsq_backbone.training.finetuning import finetune

    root = tmp_path_factory.mktemp('finished')
    pictures = draw_pictures(root / 'pictures', {'blue': 10, 'green': 10, 'red': 10}, spread=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('RSQ_CACHE', str(root / 'cache'))
        finetune(str(pictures), 'linear', input_size=64, output=root, name='run')
    return root / 'run', pictures


@pytest.fixture
def more(tmp_path, draw_pictures):
    """Pictures that the run of `finished` never saw."""
    return draw_pictures(tmp_path / 'more', {'blue': 5, 'green': 4, 'red': 3}, spread=60, seed=1)


def probabilities(run, paths):
    """By timm alone."""
    model = timm.create_model(f'local-dir:{run}', pretrained=True).eval()
    transform = create_transform(**resolve_data_config(model=model))
    with torch.no_grad():
        values = model(torch.stack([transform(Image.open(path).convert('RGB')) for path in paths])).softmax(1).numpy()
    return values, model.pretrained_cfg['label_names']


def test_what_finetune_prints_last_can_be_pasted(rsq, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = rsq('finetune', pictures, *TINY, '--recipe', 'linear', '--output', "it's mine", '--name', 'my run')
    assert code == 0
    hints = dict(line.split(': ', 1) for line in out.splitlines()[-3:])
    assert [Path(page).is_file() for page in shlex.split(hints['look at it'])] == [True]
    shutil.copy(next(pictures.rglob('*.png')), 'photo.jpg')
    shell = {**os.environ, 'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])}
    done = subprocess.run(hints['use it'], shell=True, env=shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'photo.jpg' in done.stdout
    code = f'{hints["in Python"].strip()}; print(model.num_classes, model.training)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout == '3 False\n', done.stderr


def test_finetune_trains_and_prints_the_result_beside_its_floor(rsq, pictures, tmp_path):
    code, out, err = rsq(
        'finetune', pictures, *TINY, '--epochs', 1, '--batch-size', 4, '--output', tmp_path / 'runs', '--name', 'mine')
    assert (code, err) == (0, '')
    run = tmp_path / 'runs' / 'mine'
    assert {file.name for file in run.iterdir()} == RUN_FILES
    metrics = json.loads((run / 'metrics.json').read_text())
    lines = {line.strip().partition('  ')[0]: line for line in out.splitlines()}
    for row, values in (('recipe laptop', metrics['metrics']), ('linear probe', metrics['linear'])):
        assert f'{100 * values["accuracy"]:.1f} %' in lines[row]
        assert f'{values["mean_iou"]:.3f}' in lines[row]
    for name in ('blue', 'green', 'red'):
        assert lines[name].split()[1] == '2'  # validation pictures
    assert f'{run}/report.html' in out
    assert f"timm.create_model('local-dir:{run}', pretrained=True).eval()" in out


def test_finetune_json_is_metrics_json(rsq, pictures, tmp_path):
    code, out, _ = rsq('finetune', pictures, *TINY, '--recipe', 'linear', '--output', tmp_path / 'runs', '--json')
    assert code == 0
    assert json.loads(out) == json.loads(
        (tmp_path / 'runs' / 'pictures-test_resnet-linear' / 'metrics.json').read_text())


def test_options_of_finetune_replace_the_recipe_s(rsq, pictures, tmp_path):
    _, out, _ = rsq(
        'finetune', pictures, *TINY, '--recipe', 'paper', '--epochs', 2, '--batch-size', 6, '--learning-rate', 0.01,
        '--augmentation', 'light', '--precision', 'bf16-mixed', '--train-share', 0.5, '--seed', 3, '--output',
        tmp_path / 'runs', '--json')
    result = json.loads(out)
    recipe = result['recipe']
    assert [recipe[key] for key in ('name', 'epochs', 'batch_size', 'learning_rate', 'augmentation', 'precision')] == [
        'paper', 2, 6, 0.01, 'light', 'bf16-mixed']
    assert result['seed'] == 3
    assert result['data']['train_counts'] == [4, 4, 4]
    assert len(result['iterations']) == 2 * 2


def test_a_run_whose_logits_have_died_is_warned_of(rsq, pictures, tmp_path):
    """At ten thousand times the paper's rate its ReLU on the logits does not outlive the first steps."""
    code, out, _ = rsq(
        'finetune', pictures, '--recipe', 'paper', '--learning-rate', 3, '--batch-size', 4, '--epochs', 1,
        '--input-size', 64, '--output', tmp_path / 'runs')
    assert code == 0
    assert 'warning: every picture is taken for' in out
    assert 'recipe laptop' in out


def test_without_data_finetune_takes_the_drawn_food(rsq, tmp_path, monkeypatch):
    from rsq_backbone.datasets import synthetic

    drawn = []
    load = synthetic.load_synthetic
    monkeypatch.setattr(synthetic, 'load_synthetic', lambda progress: drawn.append(load(3, 64)) or drawn[0])
    code, out, _ = rsq('finetune', '--recipe', 'linear', *TINY, '--output', tmp_path / 'runs', '--json')
    assert code == 0
    assert json.loads(out)['data']['source'] == 'synthetic'
    assert len(json.loads(out)['data']['classes']) == 9


def test_show_augmentations_draws_training_pictures_and_trains_nothing(rsq, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = rsq('finetune', pictures, *TINY, '--show-augmentations')
    assert (code, out) == (0, 'augmentations.png\n')
    with Image.open('augmentations.png') as grid:
        assert min(grid.size) > 6 * 64  # six pictures, six views of each
    assert not Path('runs').exists()


@pytest.mark.parametrize(('options', 'says'), [
    (['missing'], 'missing'),
    (['pictures', '--recipe', 'best'], 'laptop, paper, linear'),
    (['pictures', '--model', 'test_resnett'], 'test_resnet'),
    (['pictures', *TINY, '--precision', '8-bit'], '8-bit'),
    (['pictures', *TINY, '--augmentation', 'wild'], 'light'),
    (['pictures', *TINY, '--accelerator', 'abacus'], 'abacus'),
    (['pictures', *TINY, '--devices', '2', '--strategy', 'ddp', '--accelerator', 'cpu', '--batch-size', '5'],
     '--batch-size'),
    (['pictures', *TINY, '--output', 'file'], '--output'),
])
def test_what_finetune_cannot_do_is_one_line_and_exit_code_2(refused, pictures, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    assert says in refused('finetune', *options)
    assert not list(tmp_path.glob('runs/*/metrics.json'))


def test_a_second_run_of_the_same_name_needs_overwrite(rsq, refused, pictures, tmp_path):
    args = ('finetune', pictures, *TINY, '--recipe', 'linear', '--output', tmp_path / 'runs')
    assert rsq(*args)[0] == 0
    assert '--overwrite' in refused(*args)
    assert rsq(*args, '--overwrite')[0] == 0
    assert rsq(*args, '--resume')[0] == 0


def test_evaluate_gives_what_timm_and_counting_give(rsq, finished, more, tmp_path):
    run, _ = finished
    code, out, err = rsq('evaluate', run, more, '--output', tmp_path / 'evaluation', '--json')
    assert (code, err) == (0, '')
    evaluation = json.loads(out)
    paths = sorted(more.rglob('*.png'))
    values, names = probabilities(run, paths)
    confusion = np.zeros((3, 3), int)
    for path, row in zip(paths, values, strict=True):
        confusion[names.index(path.parent.name), row.argmax()] += 1
    assert 0 < np.trace(confusion) < 12  # else this shows little
    assert evaluation['metrics']['confusion_matrix'] == confusion.tolist()
    assert evaluation['metrics']['accuracy'] == pytest.approx(np.trace(confusion) / 12)
    found = {p['path']: p for p in evaluation['predictions']}
    for path, row in zip(paths, values, strict=True):
        assert found[str(path)]['probability'] == pytest.approx(row.max(), abs=1e-4)
        assert found[str(path)]['true_probability'] == pytest.approx(row[names.index(path.parent.name)], abs=1e-4)
    assert json.loads((tmp_path / 'evaluation' / 'evaluation.json').read_text()) == evaluation
    for name in ('confusion', 'mistakes'):
        with Image.open(tmp_path / 'evaluation' / f'{name}.png') as picture:
            assert len(set(picture.convert('L').tobytes())) > 10


def test_evaluate_leaves_out_what_was_trained_on_wherever_it_lies_now(rsq, finished, more, tmp_path):
    run, pictures = finished
    with (run / 'split.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    trained = [row['path'] for row in rows if row['part'] == 'train']
    assert len(trained) == 21
    shutil.copy(trained[0], more / 'red' / 'renamed.png')
    code, out, _ = rsq('evaluate', run, more)
    assert code == 0
    assert '1 of 13 pictures were trained on and are left out' in out
    assert '12 pictures: accuracy' in out
    assert '13 pictures: accuracy' in rsq('evaluate', run, more, '--include-training')[1]
    # Of the run's own pictures those remain that it was judged by, with the same result.
    evaluation = json.loads(rsq('evaluate', run, pictures, '--json')[1])
    assert evaluation['metrics'] == json.loads((run / 'metrics.json').read_text())['metrics']


def test_evaluate_counts_classes_by_name_also_where_some_are_missing(rsq, finished, more):
    shutil.rmtree(more / 'blue')
    code, out, _ = rsq('evaluate', finished[0], more, '--json')
    assert code == 0
    rows = json.loads(out)['metrics']['confusion_matrix']
    assert [sum(row) for row in rows] == [0, 4, 3]


def test_evaluate_on_what_the_model_cannot_know_is_one_line(refused, finished, more, tmp_path):
    run, _ = finished
    (more / 'red').rename(more / 'mauve')
    assert 'mauve' in refused('evaluate', run, more)
    assert 'rsq finetune' in refused('evaluate', more, more)
    only_trained = tmp_path / 'trained'
    with (run / 'split.csv').open(newline='') as file:
        for row in csv.DictReader(file):
            if row['part'] == 'train':
                (only_trained / row['label']).mkdir(parents=True, exist_ok=True)
                shutil.copy(row['path'], only_trained / row['label'])
    assert 'trained on every picture' in refused('evaluate', run, only_trained)


def test_predict_writes_a_csv_of_the_classes_that_timm_gives(rsq, finished, more, tmp_path):
    run, _ = finished
    code, out, err = rsq(
        'predict', run, *sorted(more.iterdir()), '--topk', 2, '--csv', tmp_path / 'classes.csv')
    assert (code, err) == (0, '')
    assert '12 pictures' in out
    with (tmp_path / 'classes.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    paths = sorted(more.rglob('*.png'))
    values, names = probabilities(run, paths)
    assert [(row['path'], row['rank']) for row in rows] == [(str(path), rank) for path in paths for rank in '12']
    for i, row in enumerate(rows):
        place = np.argsort(-values[i // 2])[i % 2]
        assert row['class'] == names[place]
        assert float(row['probability']) == pytest.approx(values[i // 2][place], abs=1e-4)


def test_predict_prints_classes_and_goes_on_past_bad_pictures(rsq, finished, more, tmp_path):
    run, _ = finished
    (tmp_path / 'cut.png').write_bytes((more / 'red' / '0.png').read_bytes()[:500])
    code, out, err = rsq('predict', run, tmp_path / 'cut.png', more / 'red' / '0.png', '--topk', 9)
    assert code == 2
    assert err.startswith('rsq: ')
    assert 'cut.png' in err
    assert f'{more / "red" / "0.png"} (64 x 64)' in out
    assert all(name in out for name in ('blue', 'green', 'red'))
    results = json.loads(rsq('predict', run, more / 'red' / '0.png', '--topk', 3, '--json')[1])
    assert sum(p['probability'] for p in results[0]['predictions']) == pytest.approx(1)


def test_predict_of_nothing_with_nothing_or_into_nothing_is_one_line(refused, finished, more, tmp_path):
    run, _ = finished
    (tmp_path / 'empty').mkdir()
    assert 'empty' in refused('predict', run, tmp_path / 'empty')
    assert 'rsq finetune' in refused('predict', tmp_path / 'empty', more)
    assert 'missing' in refused('predict', run, more / 'red', '--csv', tmp_path / 'missing' / 'classes.csv')


def start(args, tmp_path):
    rsq = tmp_path / 'rsq.py'  # a file, which Lightning can start again for a second process
    rsq.write_text('from rsq_backbone.cli import main\n\nmain()\n')
    return subprocess.Popen(
        [sys.executable, str(rsq), *map(str, args)], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, 'RSQ_CACHE': str(tmp_path / 'cache')})


def test_ctrl_c_is_one_line_and_resuming_ends_as_if_nothing_had_happened(rsq, pictures, tmp_path):
    args = ['finetune', pictures, *TINY, '--epochs', 60, '--batch-size', 4, '--output', tmp_path / 'runs']
    process = start([*args, '--name', 'stopped'], tmp_path)
    checkpoint = tmp_path / 'runs' / 'stopped' / 'checkpoints' / 'last.ckpt'
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ''), err
    assert err.splitlines()[-1] == (
        'rsq: interrupted; the same command with --resume goes on from the last whole epoch')
    assert checkpoint.exists()
    assert not (tmp_path / 'runs' / 'stopped' / 'metrics.json').exists()

    assert rsq(*args, '--name', 'stopped', '--resume')[0] == 0
    assert rsq(*args, '--name', 'whole')[0] == 0
    stopped, whole = (load_file(tmp_path / 'runs' / name / 'model.safetensors') for name in ('stopped', 'whole'))
    assert stopped.keys() == whole.keys()
    assert all(torch.equal(stopped[key], whole[key]) for key in whole)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(pictures, tmp_path):
    """Each takes half of every batch and the gradients are averaged, so only the order of sums differs."""
    args = ['finetune', pictures, *TINY, '--epochs', 3, '--batch-size', 6, '--precision', '32-true', '--accelerator',
            'cpu', '--output', tmp_path / 'runs']
    for name, hardware in (('one', ['--devices', 1]), ('two', ['--devices', 2, '--strategy', 'ddp'])):
        process = start([*args, *hardware, '--name', name], tmp_path)
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert 'recipe laptop' in out
    results = {name: json.loads((tmp_path / 'runs' / name / 'metrics.json').read_text()) for name in ('one', 'two')}
    losses = {name: [i['loss'] for i in result['iterations']] for name, result in results.items()}
    assert len(losses['one']) == 9
    assert losses['two'] == pytest.approx(losses['one'], rel=1e-4)
    assert [e['monitor_loss'] for e in results['two']['epochs']] == pytest.approx(
        [e['monitor_loss'] for e in results['one']['epochs']], rel=1e-4)
    one, two = (load_file(tmp_path / 'runs' / name / 'model.safetensors') for name in ('one', 'two'))
    start_of = timm.create_model('test_resnet', num_classes=3).state_dict()
    assert one.keys() == two.keys() == start_of.keys()
    moved = [key for key in one if not torch.equal(one[key], start_of[key])]
    assert len(moved) > 10
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-5, msg=key)

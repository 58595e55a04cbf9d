"""A trained segmentation network, from its run folder."""
import json
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any, Dict, Tuple

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn

import rsq_backbone  # noqa: F401  registers
import seg_demos.segnet_model  # noqa: F401  registers
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.model_loading import load_smp_folder

__all__ = ['Trained', 'load']

_MAKE_ONE = 'python -m seg_demos.unet DATA trains one'


@dataclass(frozen=True)
class Trained:
    network: nn.Module  # pictures (N, 3, H, W) -> logits (N, classes, H, W); in evaluation mode, channels_last
    classes: Tuple[str, ...]  # their names
    config: Dict[str, Any]  # `mean` and `std` of the input, three shares of white each
    stride: int  # pictures are padded to, and tiles begin at, multiples of it


def load(folder: Path) -> Trained:
    """The network of a run, without the network that hubs are on, and from safetensors only.

    Raises:
        UserError: if the folder is no finished run of a segmentation demo, or is damaged.
    """
    config = _read_config(folder)
    classes = tuple(config['_classes'])
    try:
        network: Any = load_smp_folder(folder, config)
        stride = lcm(32, network.encoder.output_stride)
        with torch.inference_mode():
            shape = network(torch.zeros(1, 3, stride, stride)).shape
        if shape != (1, len(classes), stride, stride):
            raise ValueError(f'{len(classes)} class names do not fit an output of {tuple(shape)}')
    except Exception as e:  # a folder from anywhere may make smp, timm and safetensors raise anything
        raise UserError(
            f'the network in {folder} cannot be loaded ({one_line(e)}); copy the folder again, or train it again with '
            '--overwrite.') from e
    network.to(memory_format=torch.channels_last)
    return Trained(network, classes, {'mean': tuple(config['_mean']), 'std': tuple(config['_std'])}, stride)


def _read_config(folder: Path) -> Dict[str, Any]:
    for name in ('config.json', 'model.safetensors'):
        if not (folder / name).is_file():
            raise UserError(f'{folder} is no finished run of a segmentation demo ({name} is missing); {_MAKE_ONE}.')
    file = folder / 'config.json'
    try:
        config = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f'{file} is damaged ({one_line(e)}); copy the folder again.') from e
    if isinstance(config, dict) and 'architecture' in config:
        raise UserError(f'{folder} holds a classifier, which rsq predict reads; {_MAKE_ONE} that segments.')
    if not isinstance(config, dict) or not _is_complete(config):
        raise UserError(f'{file} describes no segmentation network with names for its classes; {_MAKE_ONE}.')
    return config


def _is_complete(config: Dict[str, Any]) -> bool:
    names = config.get('_classes')
    architectures = {architecture.__name__ for architecture in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    return (
        config.get('_model_class') in architectures and isinstance(config.get('encoder_name'), str)
        and isinstance(names, list) and all(isinstance(name, str) for name in names)
        and 2 <= len(set(names)) == len(names) <= 255
        and all(_are_shares(config.get(key)) for key in ('_mean', '_std')) and all(config['_std']))


def _are_shares(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(
        isinstance(value, (int, float)) and 0 <= value <= 1 for value in values)

"""What the configuration of a trained network says about where its weights come from."""
from typing import Any, Dict, Optional

from rsq_backbone.training.recipes import Recipe

__all__ = ['describe_import', 'describe_training']


def describe_training(cfg: Dict[str, Any], recipe: Recipe, pretrained: bool) -> None:
    """Make a network's `pretrained_cfg`, which speaks of the weights it began with, true of those it has now.

    License and origin stay where the weights descend from others.

    Args:
        cfg: Changed in place.
        recipe: That it was trained by.
        pretrained: Whether it began with trained weights.
    """
    notes = cfg.get('notes')
    if not pretrained:
        _forget(cfg)
        cfg['description'] = f'Trained from random weights by the recipe {recipe.name} of rsq-backbone.'
    elif recipe.epochs:
        cfg['description'] = f'Fine-tuned by the recipe {recipe.name} of rsq-backbone from {_start(cfg)}'
    else:
        cfg['description'] = (
            f'A logistic regression, made by rsq-backbone, on the unchanged features of {_start(cfg)}')
        if notes:
            cfg['notes'] = notes


def describe_import(
        cfg: Dict[str, Any], file: str, written: Optional[Dict[str, Any]], pretrained: Optional[bool]) -> None:
    """The same of weights that were trained elsewhere.

    Args:
        cfg: Changed in place; so far it speaks of the weights that timm has for the architecture.
        file: Name of the checkpoint.
        written: What whoever trained them wrote, if anything.
        pretrained: Whether the training began with the weights that timm has; None where that is not known.
    """
    if written is not None:
        _forget(cfg)
        cfg.update(written)
    elif pretrained:
        cfg['description'] = f'Imported from {file}, which timm trained from {_start(cfg)}'
    else:
        _forget(cfg)
        began = '.' if pretrained is None else ', which timm trained from random weights.'
        cfg['description'] = f'Imported from {file}{began}'


def _start(cfg: Dict[str, Any]) -> str:
    """Take out what is true of the weights that it began with only, and say it as a sentence ends."""
    tag = cfg.pop('tag', None)  # names weights that timm knows, and these are others
    start = f'{cfg["architecture"]}.{tag}' if tag else f'trained weights of {cfg["architecture"]}'
    origin = cfg.pop('description', None)
    cfg.pop('notes', None)
    return f'{start} ({origin.rstrip(".")}).' if origin else f'{start}.'


def _forget(cfg: Dict[str, Any]) -> None:
    """Take out whatever speaks of weights of others."""
    for key in ('tag', 'license', 'description', 'origin_url', 'notes'):
        cfg.pop(key, None)

"""What the configuration of a trained network says about its weights."""
from typing import Any, Dict

from rsq_backbone.training.recipes import Recipe

__all__ = ['describe_training']


def describe_training(cfg: Dict[str, Any], recipe: Recipe, pretrained: bool) -> None:
    """Make a network's `pretrained_cfg`, which speaks of the weights it began with, true of those it has now.

    License and origin stay where the weights descend from others.

    Args:
        cfg: Changed in place.
        recipe: That it was trained by.
        pretrained: Whether it began with trained weights.
    """
    tag = cfg.pop('tag', None)  # names weights that timm knows, and these are others
    start = f'{cfg["architecture"]}.{tag}' if tag else f'trained weights of {cfg["architecture"]}'
    origin = cfg.pop('description', None)
    notes = cfg.pop('notes', None)
    if not pretrained:
        for key in ('license', 'origin_url'):
            cfg.pop(key, None)
        cfg['description'] = f'Trained from random weights by the recipe {recipe.name} of rsq-backbone.'
        return
    if recipe.epochs:
        made = f'Fine-tuned from {start} by the recipe {recipe.name} of rsq-backbone.'
    else:
        made = f'A logistic regression, made by rsq-backbone, on the features of {start}, which are unchanged.'
        if notes:
            cfg['notes'] = notes
    cfg['description'] = f'{made} About {start}: {origin}' if origin else made

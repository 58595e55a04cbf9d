"""Which part of a network is frozen, and which learning rate each of the others gets."""
from types import MethodType
from typing import Any, Dict, List, Set, Tuple

import torch
import torch.nn as nn
from timm.models import group_parameters

from rsq_backbone.errors import UserError, one_line

__all__ = [
    'classifier_parameters', 'freeze', 'freeze_stages', 'is_frozen', 'keep_statistics', 'parameter_groups',
    'scale_classifier', 'stages',
]

def stages(model: nn.Module) -> List[List[str]]:
    """Parameter names of a timm model, from the stem through its stages to the classifier, as it groups them itself.

    Raises:
        UserError: if the model does not tell (it has no `group_matcher`).
    """
    if not hasattr(model, 'group_matcher'):
        raise UserError(f'{type(model).__name__} has no group_matcher, so its stages are not known; '
                        'use a model that has, or a recipe that trains all of it.')
    try:
        groups = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    except AssertionError as e:
        raise UserError(f'the group_matcher of {type(model).__name__} does not tell its stages: {one_line(e)}') from e
    return [groups[key] for key in sorted(groups)]


def classifier_parameters(model: nn.Module) -> Set[str]:
    """Names of the last layer's parameters."""
    classifier = model.get_classifier()  # type: ignore[operator]
    # Several where a model was distilled.
    layers = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    own = {id(p) for layer in layers for p in layer.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in own}


def scale_classifier(model: nn.Module, feature_size: float) -> None:
    """Give the weights of a fresh last layer the size that its first logits do not depend on the features' size.

    Args:
        model: Its last layer is changed.
        feature_size: Mean square of that layer's input; its own initialization is for 1.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in classifier_parameters(model):
            if parameters[name].ndim > 1:
                parameters[name].mul_(feature_size ** -0.5)


def freeze_stages(model: nn.Module, trained: int) -> None:
    """Freeze all but the last layer and the `trained` stages before it."""
    body = _body(model) if trained else [[name for name, _ in model.named_parameters()]]
    frozen = {name for names in body[:max(len(body) - trained, 0)] for name in names}
    freeze(model, frozen - classifier_parameters(model))


def _body(model: nn.Module) -> List[List[str]]:
    """The stages without the last layer."""
    classifier = classifier_parameters(model)
    without = [[name for name in names if name not in classifier] for names in stages(model)]
    return [names for names in without if names]


def freeze(model: nn.Module, parameters: Set[str]) -> None:
    """No gradient for these parameters, and evaluation mode for every module that holds nothing else.

    The modules stay in evaluation mode through `model.train()`: batch norms keep their statistics, dropout is off.
    """
    for name, parameter in model.named_parameters():
        if name in parameters:
            parameter.requires_grad = False
    for module in model.modules():
        if is_frozen(module):
            _keep_in_evaluation_mode(module)


def keep_statistics(model: nn.Module) -> None:
    """Every batch norm goes on with the statistics that it has, also through `model.train()`; it still learns."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            _keep_in_evaluation_mode(module)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _keep_in_evaluation_mode(module: nn.Module) -> None:
    module.eval()
    # An attribute of the instance: `train()` of a parent calls it for its children.
    module.train = MethodType(_stay_in_evaluation_mode, module)  # type: ignore[method-assign]


def _stay_in_evaluation_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def parameter_groups(
        model: nn.Module, learning_rate: float, classifier_factor: float, feature_size: float, stage_factor: float,
        weight_decay: float,
) -> List[Dict[str, Any]]:
    """Optimizer groups of everything that is trained.

    The last layer learns at `classifier_factor` times the learning rate, the last stage at the learning rate itself,
    and each stage before it at `stage_factor` times that of the one after it. Biases and norms do not decay, as usual.

    `feature_size` is the mean square of the last layer's input. A step of SGD on its weights changes the logits
    by the rate times this mean square, so their rate is divided by it; the bias, whose input is one, keeps its own.
    """
    factors = {name: 1.0 for name, _ in model.named_parameters()}
    if stage_factor != 1:  # else it does not matter if a model does not tell its stages
        for distance, names in enumerate(reversed(_body(model))):
            factors.update(dict.fromkeys(names, stage_factor ** distance))
    parameters = dict(model.named_parameters())
    factors.update({
        name: classifier_factor / (feature_size if parameters[name].ndim > 1 else 1)
        for name in classifier_parameters(model)})
    groups: Dict[Tuple[float, bool], List[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((factors[name], parameter.ndim > 1), []).append(parameter)
    return [
        {'params': parameters, 'lr': learning_rate * factor, 'weight_decay': weight_decay if decays else 0.0}
        for (factor, decays), parameters in groups.items()]

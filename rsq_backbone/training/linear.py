"""Logistic regression on pooled features: the floor that every recipe has to beat, and where a last layer may start."""
import warnings
from dataclasses import dataclass
from typing import Any, List, Tuple

import numpy as np
import torch
import torch.nn as nn

from rsq_backbone.errors import UserError

__all__ = ['LinearClassifier', 'LinearStart', 'fit_linear', 'pooled_features', 'pooled_input']

# Inverse strength of the L2 penalty on standardised features; some hundred features of some hundred pictures need a
# strong one.
_C = 0.01


@dataclass(frozen=True)
class LinearClassifier:
    """logits = ((features - mean) / deviation) @ weight.T + bias"""

    mean: np.ndarray  # (C,)
    deviation: np.ndarray  # (C,), infinite where a feature is constant and says nothing
    weight: np.ndarray  # (classes, C)
    bias: np.ndarray  # (classes,)

    @property
    def feature_rms(self) -> float:
        """Root mean square of the features that it was fitted to; features that are constant count by their mean."""
        variance = np.where(np.isfinite(self.deviation), self.deviation, 0) ** 2
        return float(np.sqrt((self.mean ** 2 + variance).mean()))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Features (N, C) -> class indices (N,)."""
        return (((features - self.mean) / self.deviation) @ self.weight.T + self.bias).argmax(1)


def fit_linear(features: np.ndarray, labels: np.ndarray, num_classes: int) -> LinearClassifier:
    """Fit on features (N, C) and labels 0 .. num_classes - 1; a class without pictures is never predicted."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    deviation = np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # the floor may be a hair off its optimum
        fitted = LogisticRegression(C=_C, max_iter=1000).fit((features - mean) / deviation, labels)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # given as one row, the difference of the two classes
        coefficients, intercepts = (np.concatenate([-half, half]) for half in (coefficients / 2, intercepts / 2))
    weight = np.zeros((num_classes, features.shape[1]))
    bias = np.full(num_classes, -20.0)
    weight[fitted.classes_], bias[fitted.classes_] = coefficients, intercepts
    return LinearClassifier(mean, deviation, weight, bias)


def pooled_features(model: nn.Module) -> nn.Module:
    """Input -> what the last layer would see (N, C), averaged over positions where that is a map."""
    return _Pooled(model)


class _Pooled(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _pooled(self.model.forward_head(self.model.forward_features(x), pre_logits=True))  # type: ignore[operator]


def pooled_input(model: nn.Module, layer: nn.Module) -> nn.Module:
    """Input of `model` -> what its part `layer`, which is called once, then sees, averaged as by `pooled_features`."""
    return _PooledInput(model, layer)


class _PooledInput(nn.Module):
    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen: List[torch.Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
        try:
            self.model(x)
        finally:
            hook.remove()
        return _pooled(seen[0])


def _pooled(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3)) if x.ndim == 4 else x


class LinearStart:
    """A model's last layer, made the logistic regression and trained on standardised features.

    Features of a network without norms may be tens in size, and steps that suit the other layers would throw the last
    one far off. While it is trained its input is therefore standardised; `fold` puts that into the layer's own weights,
    so that the model is an ordinary one afterwards.

    Raises:
        UserError: if the model does not end in one linear layer with a bias.
    """

    def __init__(self, model: nn.Module, linear: LinearClassifier) -> None:
        self._layer = model.get_classifier()  # type: ignore[operator]
        if not isinstance(self._layer, (nn.Linear, nn.Conv2d)) or self._layer.bias is None:
            raise UserError(
                f'{type(model).__name__} does not end in one linear layer, so it cannot start as a logistic '
                'regression; use --recipe paper.')
        self._mean, self._scale = (
            torch.from_numpy(values).float() for values in (linear.mean, 1 / linear.deviation))
        with torch.no_grad():
            self._layer.weight.copy_(torch.from_numpy(linear.weight).view_as(self._layer.weight))
            self._layer.bias.copy_(torch.from_numpy(linear.bias))
        self._hook = self._layer.register_forward_pre_hook(self._standardise)

    def _standardise(self, layer: nn.Module, inputs: Tuple[Any, ...]) -> torch.Tensor:
        x = inputs[0]
        shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
        return (x - self._mean.to(x.device).view(shape)) * self._scale.to(x.device).view(shape)

    def fold(self) -> None:
        self._hook.remove()
        with torch.no_grad():
            weight = self._layer.weight.flatten(1) * self._scale.to(self._layer.weight.device)
            self._layer.bias.sub_(weight @ self._mean.to(weight.device))
            self._layer.weight.copy_(weight.view_as(self._layer.weight))

"""What a fine-tuning run found, as the table, metrics.json, the plots and the report all read it."""
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from rsq_backbone.errors import UserError
from rsq_backbone.metrics import ClassificationMetrics, PairedDifference

__all__ = [
    'FORMAT', 'Data', 'Epoch', 'Iteration', 'PicturePrediction', 'TrainingResult', 'compared_with_linear',
    'nothing_learned', 'with_history', 'with_tuples',
]

FORMAT = 1  # of metrics.json; raised when a key changes its meaning


@dataclass(frozen=True)
class Iteration:
    """One batch, before its step."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    number: int  # from 1
    learning_rate: float  # of the last layer, at the epoch's end
    train_loss: float  # means over the epoch's batches
    train_accuracy: float
    monitor_loss: Optional[float]  # on the pictures named by TrainingResult.monitor, after the epoch
    monitor_accuracy: Optional[float]
    seconds: float
    monitor_mean_iou: Optional[float] = None  # of segmentation


@dataclass(frozen=True)
class PicturePrediction:
    path: str
    true_class: str
    predicted_class: str
    probability: float  # of the predicted class, softmax over all
    true_probability: float  # of the true class


@dataclass(frozen=True)
class Data:
    source: str  # as the user named it
    name: str
    classes: Tuple[str, ...]
    train_counts: Tuple[int, ...]  # pictures a class, the held-out ones included
    held_out_counts: Tuple[int, ...]  # of them kept from training, to choose the epoch by; zeros without
    validation_counts: Tuple[int, ...]
    left_out: Tuple[str, ...]  # one line for each picture that could not be used, and why
    notes: Tuple[str, ...]  # one line for each thing that was handled or looks suspicious

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> 'Data':
        return cls(**with_tuples(plain))


@dataclass(frozen=True)
class TrainingResult:
    """Everything that metrics.json says; its keys are these names."""

    format: int
    name: str
    data: Data
    model: str  # timm name
    parameters: int
    file_bytes: int  # of model.safetensors
    recipe: Dict[str, Any]
    seed: int
    metrics: ClassificationMetrics  # on the validation pictures, which nothing was chosen by
    linear: ClassificationMetrics  # the linear probe: logistic regression on the pretrained network's pooled features
    # Of `metrics` and `linear`, on the same pictures; None where the recipe trains nothing beyond the linear probe.
    difference: Optional[PairedDifference]
    monitor: Optional[str]  # 'validation' (only watched), 'held out' (the best epoch was chosen by it) or None
    chosen_epoch: int  # whose weights were kept
    epochs: Tuple[Epoch, ...]
    iterations: Tuple[Iteration, ...]
    seconds: Dict[str, float]  # by part of the work, and 'total'
    feature_cache: str  # 'used', or why it was not
    command: Tuple[str, ...]
    versions: Dict[str, str]
    machine: Dict[str, Any]

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> 'TrainingResult':
        """The result that a metrics.json holds.

        Raises:
            UserError: if it is of another format.
        """
        return cls(**{
            **with_history(plain),
            'data': Data.from_json(plain['data']),
            'metrics': ClassificationMetrics.from_json(plain['metrics']),
            'linear': ClassificationMetrics.from_json(plain['linear']),
            'difference': plain['difference'] and PairedDifference.from_json(plain['difference']),
        })


def with_history(plain: Dict[str, Any]) -> Dict[str, Any]:
    """What metrics.json of any task says, with what all of them have in common made typed.

    Raises:
        UserError: if it is of another format.
    """
    if plain.get('format') != FORMAT:
        raise UserError(f'metrics.json has format {plain.get("format")!r}, this version reads {FORMAT}.')
    return {
        **plain,
        'epochs': tuple(Epoch(**e) for e in plain['epochs']),
        'iterations': tuple(Iteration(**i) for i in plain['iterations']),
        'command': tuple(plain['command']),
    }


def with_tuples(plain: Dict[str, Any]) -> Dict[str, Any]:
    """JSON has lists only."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}


def nothing_learned(result: TrainingResult) -> Optional[str]:
    """Where every picture is taken for the same class: that, and what to do about it."""
    if result.metrics.only_prediction is None:
        return None
    other = 'Use ' if result.recipe['name'] == 'laptop' else 'Use the recipe laptop, '
    return (
        f'every picture is taken for {result.metrics.only_prediction!r}: nothing was learned. {other}another seed or a '
        "lower learning rate; where the paper's ReLU on the logits has died, no epoch more will help.")


def compared_with_linear(result: TrainingResult) -> Optional[str]:
    """Whether the recipe was worth its time, and what to do where it was not; None for the linear probe itself."""
    difference = result.difference
    if difference is None:
        return None
    low, high = difference.accuracy_interval.low, difference.accuracy_interval.high
    figures = (
        f'{100 * difference.accuracy:+.1f} points of accuracy [{100 * low:+.1f}, {100 * high:+.1f}] and '
        f'{difference.mean_iou:+.3f} mean IoU [{difference.mean_iou_interval.low:+.3f}, '
        f'{difference.mean_iou_interval.high:+.3f}] on the same images (n = {result.metrics.n}; 95 %, paired)')
    name = result.recipe['name']
    if low > 0:
        return f'{name} is better than the linear probe: {figures}.'
    advice = (
        f'The recipe linear takes seconds instead of {result.seconds["total"]:.0f}; more images or stronger '
        'augmentation may change that.')
    verdict = 'worse' if high < 0 else 'not shown to be better'
    return f'{name} is {verdict} than the linear probe: {figures}. {advice}'

"""The confusion matrix and what follows from it, with 95 % intervals."""
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple

import numpy as np

__all__ = [
    'ClassMetrics', 'ClassificationMetrics', 'Interval', 'PairedDifference', 'SegmentationMetrics',
    'classification_metrics', 'confusion_matrix', 'mean_iou', 'paired_difference', 'segmentation_metrics',
]

_RESAMPLES = 2000
_DRAWN = 1 << 20  # pictures of all resamples that are looked at together


@dataclass(frozen=True)
class Interval:
    """95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """One class against all others. What would divide by zero is None."""

    name: str
    support: int  # cases that are of this class
    precision: Optional[float]  # None: never predicted
    recall: Optional[float]  # None: no support
    f1: Optional[float]  # None: neither occurs nor is predicted
    iou: Optional[float]  # None: neither occurs nor is predicted


@dataclass(frozen=True)
class ClassificationMetrics:
    """All fields are shares, 0 .. 1, but the counts `n` and `confusion_matrix`.

    Means are over the classes for which the value is defined: a class that neither occurs nor is predicted says nothing
    about the classifier. (scikit-learn's default counts it as zero.)
    """

    n: int  # cases
    accuracy: float  # the paper's eq. 4 for any number of classes: trace / total
    accuracy_interval: Interval  # Wilson
    mean_iou: float  # the paper's eq. 3: mean over classes of TP / (TP + FP + FN)
    mean_iou_interval: Interval  # percentile bootstrap; of no width where nothing is wrong
    balanced_accuracy: float  # mean recall
    macro_f1: float  # mean F1
    classes: Tuple[ClassMetrics, ...]
    confusion_matrix: Tuple[Tuple[int, ...], ...]  # rows true, columns predicted

    @property
    def only_prediction(self) -> Optional[str]:
        """The class that all cases were taken for, None if there were several; such a classifier learned nothing."""
        return _only_prediction(self.classes, self.confusion_matrix) if self.n > 1 else None

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> 'ClassificationMetrics':
        """The metrics that `dataclasses.asdict` and JSON made plain."""
        return cls(**{
            **plain,
            'accuracy_interval': Interval(**plain['accuracy_interval']),
            'mean_iou_interval': Interval(**plain['mean_iou_interval']),
            'classes': tuple(ClassMetrics(**c) for c in plain['classes']),
            'confusion_matrix': tuple(map(tuple, plain['confusion_matrix'])),
        })


@dataclass(frozen=True)
class SegmentationMetrics:
    """Pixels counted over all pictures. All fields are shares, 0 .. 1, but the counts.

    Means are over the classes for which the value is defined: a class that no pixel is of and none is taken for says
    nothing about the network; one that is only predicted counts as 0. Intervals are by bootstrap over pictures, since
    the pixels of one picture say the same thing many times; of a single picture they are that picture's value.
    """

    n: int  # pictures with pixels that count
    pixels: int  # that count; ignored ones do not
    pixel_accuracy: float
    pixel_accuracy_interval: Interval
    mean_iou: float  # the paper's eq. 3 with pixels as cases
    mean_iou_interval: Interval
    mean_dice: float
    classes: Tuple[ClassMetrics, ...]  # support in pixels; f1 is the Dice coefficient
    confusion_matrix: Tuple[Tuple[int, ...], ...]  # rows true, columns predicted

    @property
    def only_prediction(self) -> Optional[str]:
        """The class that all pixels were taken for though others occur; None where something was learned."""
        others = sum(one.support > 0 for one in self.classes) > 1
        return _only_prediction(self.classes, self.confusion_matrix) if others else None

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> 'SegmentationMetrics':
        """The metrics that `dataclasses.asdict` and JSON made plain."""
        return cls(**{
            **plain,
            'pixel_accuracy_interval': Interval(**plain['pixel_accuracy_interval']),
            'mean_iou_interval': Interval(**plain['mean_iou_interval']),
            'classes': tuple(ClassMetrics(**c) for c in plain['classes']),
            'confusion_matrix': tuple(map(tuple, plain['confusion_matrix'])),
        })


@dataclass(frozen=True)
class PairedDifference:
    """How much better one classifier is than another one on the same cases."""

    accuracy: float
    accuracy_interval: Interval  # Bonett and Price 2012
    mean_iou: float
    mean_iou_interval: Interval  # percentile bootstrap over the cases

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> 'PairedDifference':
        return cls(**{
            **plain,
            'accuracy_interval': Interval(**plain['accuracy_interval']),
            'mean_iou_interval': Interval(**plain['mean_iou_interval']),
        })


def paired_difference(
        targets: Any, predictions: Any, others: Any, num_classes: int, seed: int = 0) -> PairedDifference:
    """Compare two classifiers on the same cases.

    Args:
        targets: True class indices, (N,).
        predictions: Of the classifier, (N,).
        others: Of the one that it is compared with, (N,).
        num_classes: Classes are 0 .. num_classes - 1.
        seed: Of the bootstrap's draws.
    """
    targets, predictions, others = (np.asarray(values) for values in (targets, predictions, others))
    # Cases of the same three classes count alike, so that it is enough to draw how many of each kind there are.
    kinds, counts = np.unique(np.stack([targets, predictions, others]), axis=1, return_counts=True)
    random = np.random.default_rng(seed)
    n = len(targets)

    def mean_iou_difference(drawn: np.ndarray) -> float:
        one, other = (_mean_iou(kinds[0], guesses, drawn, num_classes) for guesses in kinds[1:])
        return one - other

    mean_ious = [mean_iou_difference(random.multinomial(n, counts / n)) for _ in range(_RESAMPLES)]
    only_one, only_other = (int(counts[(right == kinds[0]) & (wrong != kinds[0])].sum()) for right, wrong in (
        (kinds[1], kinds[2]), (kinds[2], kinds[1])))
    return PairedDifference(
        (only_one - only_other) / n, _bonett_price(only_one, only_other, n),
        mean_iou_difference(counts), Interval(*(float(q) for q in np.quantile(mean_ious, [0.025, 0.975]))))


def _bonett_price(only_one: int, only_other: int, n: int) -> Interval:
    """Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on
    Paired Data": right for few cases too, where a bootstrap may have no width.
    """
    one, other = (only_one + 1) / (n + 2), (only_other + 1) / (n + 2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((one + other - (one - other) ** 2) / (n + 2))
    return Interval(max(one - other - half, -1.0), min(one - other + half, 1.0))


def _mean_iou(targets: np.ndarray, predictions: np.ndarray, counts: np.ndarray, classes: int) -> float:
    right, support, predicted = (
        np.bincount(values, weights, classes).astype(np.float64)
        for values, weights in ((targets, counts * (targets == predictions)), (targets, counts), (predictions, counts)))
    return float(np.nanmean(_iou(right, support, predicted)))


def _only_prediction(classes: Sequence[ClassMetrics], confusion: Sequence[Sequence[int]]) -> Optional[str]:
    predicted = np.flatnonzero(np.sum(confusion, axis=0))
    return classes[predicted[0]].name if len(predicted) == 1 else None


def confusion_matrix(targets: Any, predictions: Any, num_classes: int) -> np.ndarray:
    """Count cases by true class (row) and predicted class (column).

    Args:
        targets: Class indices, an array or sequence of any shape.
        predictions: Class indices, of the same shape.
        num_classes: Classes are 0 .. num_classes - 1.

    Returns:
        int64, (num_classes, num_classes).

    Raises:
        ValueError: for indices out of range or not whole numbers, and for unequal shapes.
    """
    rows = _indices(targets, num_classes, 'targets')
    columns = _indices(predictions, num_classes, 'predictions')
    if rows.shape != columns.shape:
        raise ValueError(f'targets and predictions should be of one shape, got {rows.shape} and {columns.shape}.')
    cells = np.bincount((rows * num_classes + columns).ravel(), minlength=num_classes ** 2)
    return cells.astype(np.int64).reshape(num_classes, num_classes)


def _indices(values: Any, num_classes: int, what: str) -> np.ndarray:
    indices = np.asarray(values)
    if not indices.size:  # an empty list has no dtype of its own
        return indices.astype(np.int64)
    if indices.dtype.kind not in 'bui':
        raise ValueError(f'{what} should be whole numbers, got {indices.dtype}.')
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f'{what} should be 0 .. {num_classes - 1}, got {low} .. {high}.')
    return indices.astype(np.int64)  # small types would overflow when cells are numbered


def classification_metrics(
        confusion: np.ndarray, class_names: Sequence[str], seed: int = 0) -> ClassificationMetrics:
    """Derive all metrics from a confusion matrix.

    The intervals say what other cases of the same kind would give, and take cases for independent of each other, as
    pictures are. The pixels of one picture are not: from a matrix of pixels both intervals come out far too narrow.

    Args:
        confusion: Counts, (classes, classes): rows true, columns predicted.
        class_names: One a class.
        seed: Of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: if the matrix is not square, empty, negative, or has another number of classes than names.
    """
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape != (len(class_names), len(class_names)):
        raise ValueError(f'{len(class_names)} class names need a square matrix of that size, got {confusion.shape}.')
    confusion = _counts(confusion, 'the confusion matrix')
    n = int(confusion.sum())
    if n == 0:
        raise ValueError('the confusion matrix holds no cases.')

    classes = _class_metrics(confusion, class_names)
    correct = int(np.trace(confusion))
    return ClassificationMetrics(
        n=n,
        accuracy=correct / n,
        accuracy_interval=wilson_interval(correct, n),
        mean_iou=_mean(c.iou for c in classes),
        mean_iou_interval=_bootstrap_mean_iou(confusion, seed),
        balanced_accuracy=_mean(c.recall for c in classes),
        macro_f1=_mean(c.f1 for c in classes),
        classes=classes,
        confusion_matrix=tuple(map(tuple, confusion.tolist())),
    )


def mean_iou(confusion: np.ndarray) -> float:
    """Of the classes for which it is defined; the metrics' own, without their intervals.

    Args:
        confusion: Counts, (classes, classes): rows true, columns predicted.
    """
    iou = _iou(np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    return _mean(map(_defined, iou))


def segmentation_metrics(confusions: np.ndarray, class_names: Sequence[str], seed: int = 0) -> SegmentationMetrics:
    """Derive all metrics from the confusion matrices of pictures.

    Args:
        confusions: Pixels, (pictures, classes, classes): rows true, columns predicted.
        class_names: One a class.
        seed: Of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: if the matrices are not square, empty, negative, or have another number of classes than names.
    """
    confusions = np.asarray(confusions)
    if confusions.ndim != 3 or confusions.shape[1:] != (len(class_names), len(class_names)):
        raise ValueError(f'{len(class_names)} class names need square matrices of that size, got {confusions.shape}.')
    confusions = _counts(confusions, 'the confusion matrices')
    confusions = confusions[confusions.any((1, 2))]
    confusion = confusions.sum(0)
    pixels = int(confusion.sum())
    if pixels == 0:
        raise ValueError('the confusion matrices hold no pixels.')
    classes = _class_metrics(confusion, class_names)
    accuracy_interval, mean_iou_interval = _bootstrap_pictures(confusions, seed)
    return SegmentationMetrics(
        n=len(confusions),
        pixels=pixels,
        pixel_accuracy=int(np.trace(confusion)) / pixels,
        pixel_accuracy_interval=accuracy_interval,
        mean_iou=_mean(c.iou for c in classes),
        mean_iou_interval=mean_iou_interval,
        mean_dice=_mean(c.f1 for c in classes),
        classes=classes,
        confusion_matrix=tuple(map(tuple, confusion.tolist())),
    )


def _counts(matrices: np.ndarray, what: str) -> np.ndarray:
    if matrices.dtype.kind not in 'ui' or matrices.min(initial=0) < 0:
        raise ValueError(f'{what} should hold counts.')
    return matrices.astype(np.int64)


def _class_metrics(confusion: np.ndarray, class_names: Sequence[str]) -> Tuple[ClassMetrics, ...]:
    right = np.diagonal(confusion)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(right, predicted), _ratio(right, support)
    f1, iou = _ratio(2 * right, support + predicted), _iou(right, support, predicted)
    return tuple(
        ClassMetrics(name, int(support[i]), *(_defined(values[i]) for values in (precision, recall, f1, iou)))
        for i, name in enumerate(class_names))


def _mean(values: Iterable[Optional[float]]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _iou(right: np.ndarray, support: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return _ratio(right, support + predicted - right)


def _defined(value: float) -> Optional[float]:
    return None if math.isnan(value) else float(value)


def wilson_interval(correct: int, n: int) -> Interval:
    """Wilson's score interval of a share (1927); unlike the normal one it holds for few cases and near 0 and 1."""
    z = NormalDist().inv_cdf(0.975)
    share = correct / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n)))


def _bootstrap_mean_iou(confusion: np.ndarray, seed: int) -> Interval:
    """Percentile bootstrap over cases.

    Drawing n cases with replacement and counting them is drawing a matrix from the multinomial distribution with the
    observed shares of its cells, so the cases themselves are not needed.
    """
    n, classes = int(confusion.sum()), len(confusion)
    rows, columns = np.nonzero(confusion)
    shares = confusion[rows, columns] / n
    random = np.random.default_rng(seed)
    right, support, predicted = np.zeros((3, _RESAMPLES, classes))
    # One at a time: together, the matrices of a thousand classes would not fit into memory.
    for i in range(_RESAMPLES):
        drawn = random.multinomial(n, shares)
        support[i] = np.bincount(rows, drawn, classes)
        predicted[i] = np.bincount(columns, drawn, classes)
        right[i] = np.bincount(rows, drawn * (rows == columns), classes)
    low, high = np.quantile(np.nanmean(_iou(right, support, predicted), axis=1), [0.025, 0.975])
    return Interval(float(low), float(high))


def _bootstrap_pictures(confusions: np.ndarray, seed: int) -> Tuple[Interval, Interval]:
    """Percentile bootstrap over pictures: of the pixel accuracy and of the mean IoU."""
    n = len(confusions)
    each = [np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(2), confusions.sum(1)]
    random = np.random.default_rng(seed)
    accuracies, mean_ious = np.empty((2, _RESAMPLES))
    # A few at a time: together, the draws of ten thousand pictures would fill hundreds of megabytes.
    step = max(1, _DRAWN // n)
    for start in range(0, _RESAMPLES, step):
        size = min(step, _RESAMPLES - start)
        drawn = random.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        right, support, predicted = (drawn @ pixels for pixels in each)
        accuracies[start:start + size] = right.sum(1) / support.sum(1)
        mean_ious[start:start + size] = np.nanmean(_iou(right, support, predicted), axis=1)
    low, high = np.quantile([accuracies, mean_ious], [0.025, 0.975], axis=1)
    return Interval(float(low[0]), float(high[0])), Interval(float(low[1]), float(high[1]))

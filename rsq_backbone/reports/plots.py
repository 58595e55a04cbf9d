"""Pictures of a fine-tuning run, as PNG files."""
import math
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Union

import numpy as np
from PIL import ImageOps

from rsq_backbone.images import ImageError, read_image
from rsq_backbone.metrics import ClassificationMetrics, SegmentationMetrics
from rsq_backbone.reports.curves import Outcome, draw_training
from rsq_backbone.reports.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    compact,
    draw_message,
    drawing,
    percent,
    percent_within,
    short,
)
from rsq_backbone.results import PicturePrediction, TrainingResult

__all__ = ['draw_confusion', 'draw_curves', 'draw_mistakes', 'draw_pictures']

MAX_MISTAKES = 20
MAX_CLASSES_WITH_TEXT = 40  # in the cells; more would need letters too small to read


def draw_curves(result: TrainingResult, path: Path) -> None:
    """Accuracy and loss of a fine-tuning beside what it and the linear probe came to."""
    fine_tuned, linear = (
        Outcome(
            metrics.accuracy, f'{name}, validation\n{percent_within(metrics.accuracy, metrics.accuracy_interval)}',
            colour, line)
        for name, metrics, colour, line in (
            ('fine-tuned', result.metrics, GREEN, '-'), ('linear probe', result.linear, PURPLE, '-.')))
    draw_training(
        result.iterations, result.epochs, result.chosen_epoch, result.monitor, (linear, fine_tuned),
        f'{short(result.name, 60)}: {short(result.model, 60)}', path)


def draw_confusion(metrics: Union[ClassificationMetrics, SegmentationMetrics], path: Path) -> None:
    """The confusion matrix of pictures or of pixels, with recall at the right and precision below.

    It is coloured by shares of the true class.
    """
    from matplotlib.colors import to_rgb

    digits = 1 if isinstance(metrics, SegmentationMetrics) else 0  # of a million pixels, 0.4 % are no trifle
    counts = np.array(metrics.confusion_matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    with_text = classes <= MAX_CLASSES_WITH_TEXT
    cell = min(max(7.5 / classes, 0.42 if with_text else 0.17), 1.1, 25 / classes)  # inches
    size = min(10.0, max(6.5, 40 * cell))  # points
    labelled = range(0, classes, math.ceil(0.11 / cell))  # where all names would run into each other, every so many
    names = [short(metrics.classes[i].name, 32) for i in labelled]
    name_inches = 0.009 * size * max(map(len, names))
    wide = cell >= 0.6
    flat = wide and name_inches < 0.9 * cell

    side = classes * cell
    height = side + (0.2 if flat else 0.75 * name_inches if wide else name_inches) + (1.2 if wide else 1.6)
    with drawing(path, max(side + name_inches + 2, 7), height) as figure:
        axes = figure.subplots()
        full = np.where(np.eye(classes, dtype=bool)[..., None], to_rgb('#08519c'), to_rgb('#c04000'))
        colours = 1 - shares[..., None] ** 0.7 * (1 - full)  # the power lets a few mistakes be seen
        axes.imshow(np.round(255 * colours).astype(np.uint8), interpolation='nearest')
        if with_text:
            for row, column in zip(*np.nonzero(counts), strict=True):
                dark = colours[row, column] @ (0.299, 0.587, 0.114) < 0.55
                axes.text(
                    column, row, f'{compact(counts[row, column])}\n{100 * shares[row, column]:.{digits}f} %',
                    ha='center', va='center', fontsize=min(size, 20 * cell), color='white' if dark else BLACK)
        axes.spines[:].set(visible=True, color=GREY)
        edge = classes - 0.5
        between = np.arange(classes - 1) + 0.5
        axes.hlines(between, -0.5, edge, color='#dddddd', linewidth=0.5)
        axes.vlines(between, -0.5, edge, color='#dddddd', linewidth=0.5)
        axes.set(xlim=(-0.5, edge), ylim=(edge, -0.5))
        axes.set_yticks(labelled, names, fontsize=size)
        axes.set_xticks(
            labelled, names, fontsize=size, rotation=0 if flat else 45 if wide else 90,
            ha='center' if flat or not wide else 'right', rotation_mode='anchor' if wide and not flat else 'default')
        axes.tick_params(axis='x', length=0, pad=(1.6 if wide else 4.8) * size + 8)
        axes.tick_params(axis='y', length=0, pad=6)
        axes.set_ylabel('true class')
        axes.set_xlabel('predicted class')

        note: Dict[str, Any] = dict(textcoords='offset points', fontsize=size, color=BLUE)
        axes.annotate('recall', (edge, -0.5), (8, 5), **note)
        axes.annotate('precision', (-0.5, edge), (-6, -8), ha='right', va='top', **note)
        for i in labelled:
            one = metrics.classes[i]
            axes.annotate(f'{percent(one.recall)} of {compact(one.support)}', (edge, i), (8, 0), va='center', **note)
            axes.annotate(
                percent(one.precision), (i, edge), (0, -8), ha='center', va='top', rotation=0 if wide else 90, **note)
        figure.suptitle(_headline(metrics), fontsize=11)


def _headline(metrics: Union[ClassificationMetrics, SegmentationMetrics]) -> str:
    low, high = metrics.mean_iou_interval.low, metrics.mean_iou_interval.high
    mean_iou = f'mean IoU {metrics.mean_iou:.3f} [{low:.3f}, {high:.3f}]'
    if isinstance(metrics, SegmentationMetrics):
        accuracy = percent_within(metrics.pixel_accuracy, metrics.pixel_accuracy_interval)
        return (f'pixel accuracy {accuracy}, {mean_iou}\n'
                f'n = {compact(metrics.n)} pictures, {compact(metrics.pixels)} pixels')
    accuracy = percent_within(metrics.accuracy, metrics.accuracy_interval)
    return f'accuracy {accuracy}, {mean_iou}, n = {compact(metrics.n)}'


def draw_mistakes(mistakes: Sequence[PicturePrediction], path: Path) -> None:
    """The worst of all wrongly classified pictures: those whose wrong class the network was surest of.

    A picture that cannot be read any more leaves an empty tile that says so.
    """
    if not mistakes:
        draw_message('No mistakes', 'Every picture was classified as it is labelled.', path)
        return
    worst = sorted(mistakes, key=lambda mistake: -mistake.probability)[:MAX_MISTAKES]
    captions = [
        f'{short(m.true_class, 20)} ({percent(m.true_probability)})\n'
        f'→ {short(m.predicted_class, 20)} ({percent(m.probability)})\n'
        f'{short(Path(m.path).name, 28)}' for m in worst]
    number = '1 mistake' if len(mistakes) == 1 else f'{len(mistakes)} mistakes'
    if len(mistakes) > len(worst):
        number = f'{len(worst)} of {number}, the surest first'
    heading = f'{number}: true class → predicted class, with the probabilities given to them'
    _draw_grid([_thumbnail(m.path) for m in worst], captions, path, 5, heading)


def _thumbnail(path: str) -> Optional[np.ndarray]:
    """(240, 240, 3), letterboxed; None where the picture cannot be read."""
    try:
        return np.asarray(ImageOps.pad(read_image(Path(path)), (240, 240), color='#eeeeee'))
    except ImageError:
        return None


def draw_pictures(pictures: Sequence[np.ndarray], titles: Sequence[str], path: Path, columns: int) -> None:
    """A grid of titled pictures, row by row.

    Args:
        pictures: RGB, uint8, (H, W, 3) of any size each.
        titles: One a picture; may be empty.
        path: PNG file to write.
        columns: Pictures side by side.
    """
    _draw_grid(pictures, [short(title, 30) for title in titles], path, columns)


def _draw_grid(
        pictures: Sequence[Optional[np.ndarray]], captions: Sequence[str], path: Path, columns: int, heading: str = '',
) -> None:
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    lines = 1 + max(caption.count('\n') for caption in captions)
    tallest = max(1.0 if picture is None else picture.shape[0] / picture.shape[1] for picture in pictures)
    height = rows * (2 * min(tallest, 1) + 0.05 + 0.16 * lines) + (0.5 if heading else 0)
    with drawing(path, max(2.1 * columns, 0.085 * len(heading)), height) as figure:
        all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in all_axes:
            axes.set_axis_off()
        for axes, picture, caption in zip(all_axes[:len(pictures)], pictures, captions, strict=True):
            if picture is None:
                picture = np.full((240, 240, 3), 238, np.uint8)
                axes.text(120, 120, 'this picture cannot\nbe read any more', ha='center', va='center', color=GREY)
            axes.imshow(picture)
            axes.set_title(caption, fontsize=8, loc='left')
        figure.suptitle(heading, fontsize=11)

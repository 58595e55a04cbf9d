"""Pictures of a segmentation run, as PNG files."""
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image

from rsq_backbone.images import ImageError
from rsq_backbone.reports.curves import Outcome, draw_training
from rsq_backbone.reports.drawing import BLACK, DOTS_PER_INCH, GREEN, GREY, drawing, percent_within, short
from seg_demos.crops import read_pair
from seg_demos.mask_sources import MaskedImage
from seg_demos.masks import IGNORED, MaskCoding
from seg_demos.overlays import HATCHING, MISSED, OTHER_CLASS, TOO_MUCH, error_map, overlay, palette
from seg_demos.results import PictureScore, SegmentationResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['best_and_worst', 'draw_curves', 'draw_overlays']

MAX_SHOWN = 6  # pictures, half of them the best
MAX_LEGEND = 24  # classes
_TILE = 360  # longer side in pixels

Predict = Callable[[np.ndarray], np.ndarray]


def draw_curves(result: SegmentationResult, path: Path) -> None:
    """Pixel accuracy, mean IoU and loss of the training beside what the network came to."""
    metrics = result.metrics
    low, high = metrics.mean_iou_interval.low, metrics.mean_iou_interval.high
    dice = result.recipe['dice']  # its weight
    watched, of = result.data.monitored_pictures, result.data.validation_pictures
    draw_training(
        result.iterations, result.epochs, len(result.epochs),
        'validation' if watched == of else f'{watched} of {of} validation',
        (Outcome(
            metrics.pixel_accuracy, 'pixel accuracy, validation\n'
            f'{percent_within(metrics.pixel_accuracy, metrics.pixel_accuracy_interval)}', BLACK),
         Outcome(metrics.mean_iou, f'mean IoU, validation\n{metrics.mean_iou:.3f} [{low:.3f}, {high:.3f}]', GREEN)),
        f'{short(result.name, 60)}: {short(result.architecture, 30)} on {short(result.encoder, 40)}', path,
        accuracy='pixel accuracy, mean IoU',
        loss='cross-entropy' if not dice else 'cross-entropy + Dice' if dice == 1 else f'cross-entropy + {dice:g} Dice')


def best_and_worst(scores: Sequence[PictureScore]) -> Tuple[Tuple[PictureScore, ...], Tuple[PictureScore, ...]]:
    """The pictures of the highest and of the lowest mean IoU, both from high to low, none of them twice."""
    ranked = sorted(scores, key=lambda score: -score.mean_iou)
    shown = min(MAX_SHOWN, len(ranked))
    best = (shown + 1) // 2
    return tuple(ranked[:best]), tuple(ranked[len(ranked) - (shown - best):])


def draw_overlays(result: SegmentationResult, coding: MaskCoding, predict: Predict, path: Path) -> None:
    """Picture, truth, prediction and errors side by side, of the pictures on which the network did best and worst.

    A picture that cannot be read any more leaves an empty row that says so.

    Args:
        result: Its scores say which pictures.
        coding: Of their masks.
        predict: RGB (H, W, 3) uint8 -> classes (H, W) uint8.
        path: PNG file to write.
    """
    best, worst = best_and_worst(result.pictures)
    total = len(result.pictures)
    some = len(best) + len(worst) < total
    if some:
        heading = f'the {len(best)} best and the {len(worst)} worst of {total} validation pictures, by mean IoU'
    else:
        heading = f'all {total} validation pictures, by mean IoU' if total > 1 else 'the only validation picture'
    named = Counter(Path(score.picture).name for score in result.pictures)
    rows = []
    for rank, scores in (('best: ', best), ('worst: ', worst)):
        for score in scores:
            picture = Path(score.picture)
            name = picture.name if named[picture.name] == 1 else f'{picture.parent.name}/{picture.name}'
            caption = f'{rank if some else ""}{short(name, 70)}, mean IoU {score.mean_iou:.3f}'
            rows.append(_row(score, caption, coding, predict))
    classes = sorted(set().union(*(row.classes for row in rows)))
    _draw_sheet(rows, _class_legend(coding.classes, classes), _error_legend(coding.classes), heading, path)


@dataclass(frozen=True)
class _Row:
    caption: str
    tiles: Optional[Tuple[np.ndarray, ...]]  # RGB, of one size; None where the picture cannot be read
    classes: Set[int]  # that are to be seen, IGNORED included


def _row(score: PictureScore, caption: str, coding: MaskCoding, predict: Predict) -> _Row:
    """Small tiles of a picture, so that only one large picture is held at a time."""
    try:
        picture, truth = read_pair(MaskedImage(Path(score.picture), Path(score.mask)), coding)
    except ImageError:
        return _Row(caption, None, set())
    prediction = predict(picture)
    scale = _TILE / max(truth.shape)
    size = max(1, round(truth.shape[1] * scale)), max(1, round(truth.shape[0] * scale))
    image = Image.fromarray(picture).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    picture = np.asarray(image)
    truth, prediction = (
        np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in (truth, prediction))
    tiles = (picture, overlay(picture, truth), overlay(picture, prediction), error_map(picture, truth, prediction))
    return _Row(caption, tiles, set(np.unique(truth).tolist()) | set(np.unique(prediction).tolist()))


RGB = Tuple[float, float, float]  # shares
Entry = Tuple[str, RGB, str]  # label, colour and hatching of a patch


def _class_legend(names: Sequence[str], classes: Sequence[int]) -> List[Entry]:
    """Of these classes, the ignored pixels last."""
    shown = [i for i in classes if i != IGNORED]
    colours = palette(len(names))
    entries: List[Entry] = [
        (short(names[i], 30), _rgb(colours[i]), '') if i else (f'{short(names[0], 20)} (no tint)', (1, 1, 1), '')
        for i in shown[:MAX_LEGEND]]
    if len(shown) > MAX_LEGEND:
        entries.append((f'and {len(shown) - MAX_LEGEND} more', (1, 1, 1), ''))
    if IGNORED in classes:
        entries.append(('ignored', _rgb(HATCHING[0]), '////'))
    return entries


def _error_legend(names: Sequence[str]) -> List[Entry]:
    ground = short(names[0], 20)
    entries: List[Entry] = [
        (f'missed: taken for {ground}', _rgb(MISSED), ''), (f'too much: is {ground}', _rgb(TOO_MUCH), '')]
    if len(names) > 2:
        entries.append(('taken for another class', _rgb(OTHER_CLASS), ''))
    return entries


def _rgb(colour: Tuple[int, int, int]) -> RGB:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _draw_sheet(
        rows: Sequence[_Row], classes: Sequence[Entry], errors: Sequence[Entry], heading: str, path: Path) -> None:
    """Tiles at their own size in pixels, as matplotlib's resampling would blur the outlines."""
    edge, gap, caption, line = 16, 8, 32, 28  # pixels
    columns = ('picture', 'truth', 'prediction', 'errors')
    heights = [60 if row.tiles is None else len(row.tiles[0]) for row in rows]
    legend = 48
    top = legend + line * max(-(-len(classes) // 3), len(errors)) + 36
    width = 2 * edge + 4 * _TILE + 3 * gap
    height = top + sum(heights) + len(rows) * (caption + gap) + edge
    with drawing(path, width / DOTS_PER_INCH, height / DOTS_PER_INCH, layout=None) as figure:

        def write(text: str, x: float, y: float, size: float, colour: str = BLACK, **style: Any) -> None:
            figure.text(x / width, 1 - y / height, text, fontsize=size, color=colour, va='center', **style)

        write(heading, width / 2, 24, 14, ha='center')
        for i, name in enumerate(columns):
            write(name, edge + i * (_TILE + gap) + _TILE / 2, top - 16, 12, GREY, ha='center')
        y = float(top)
        for row, tall in zip(rows, heights, strict=True):
            write(row.caption, edge, y + caption / 2, 11)
            y += caption
            for i, tile in enumerate(row.tiles or ()):
                wide = tile.shape[1]
                left = edge + i * (_TILE + gap) + (_TILE - wide) // 2
                axes = figure.add_axes((left / width, 1 - (y + tall) / height, wide / width, tall / height))
                axes.set_axis_off()
                axes.imshow(tile, interpolation='nearest', aspect='auto')
            if row.tiles is None:
                _empty(figure, edge / width, 1 - (y + tall) / height, 1 - 2 * edge / width, tall / height)
            y += tall + gap
        _legend(figure, classes, edge / width, 1 - legend / height, 3)
        _legend(figure, errors, (edge + 3 * (_TILE + gap)) / width, 1 - legend / height, 1)


def _empty(figure: 'Figure', left: float, bottom: float, wide: float, tall: float) -> None:
    axes = figure.add_axes((left, bottom, wide, tall), facecolor='#eeeeee')
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.text(
        0.5, 0.5, 'this picture or its mask cannot be read any more', ha='center', va='center', color=GREY,
        transform=axes.transAxes)


def _legend(figure: 'Figure', entries: Sequence[Entry], left: float, top: float, columns: int) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, edgecolor=GREY, hatch=hatching, label=label) for label, colour, hatching in entries]
    figure.legend(
        handles=patches, loc='upper left', bbox_to_anchor=(left, top), ncols=columns, fontsize=10.5, frameon=False,
        borderpad=0, borderaxespad=0)

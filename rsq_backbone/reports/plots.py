"""Pictures of a fine-tuning run, as PNG files."""
import math
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional, Sequence

import numpy as np
from PIL import ImageOps

from rsq_backbone.files import whole_file
from rsq_backbone.images import ImageError, read_image
from rsq_backbone.metrics import ClassificationMetrics
from rsq_backbone.results import PicturePrediction, TrainingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ['draw_confusion', 'draw_curves', 'draw_mistakes', 'draw_pictures']

# After Okabe and Ito, whose colours stay apart for the colour-blind; accuracy is blue and loss orange as in MATLAB.
BLUE, ORANGE, GREEN, PURPLE = '#0072b2', '#d55e00', '#00795a', '#aa4a8a'
BLACK, GREY = '#222222', '#707070'

# matplotlib's own font has no Chinese, Japanese, Korean or Indian letters; these do, on the systems that have them.
FALLBACK_FONTS = (
    'Noto Sans CJK SC', 'Noto Sans CJK JP', 'Noto Sans SC', 'Microsoft YaHei', 'Malgun Gothic', 'Yu Gothic',
    'PingFang SC', 'Hiragino Sans', 'Apple SD Gothic Neo', 'WenQuanYi Micro Hei', 'Nirmala UI', 'Noto Sans Devanagari')

MAX_MISTAKES = 20
MAX_CLASSES_WITH_TEXT = 40  # in the cells; more would need letters too small to read


@contextmanager
def _drawing(path: Path, width: float, height: float) -> Iterator['Figure']:
    """A figure of that many inches, written to `path` at the end of the block."""
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    installed = set(font_manager.get_font_names())
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a style that the user has set was not made for these
        matplotlib.rcParams.update({
            'font.family': ['DejaVu Sans', *(font for font in FALLBACK_FONTS if font in installed)],
            'text.parse_math': False,  # names may hold dollar signs
            'axes.spines.top': False,
            'axes.spines.right': False,
        })
        warnings.filterwarnings('ignore', message='Glyph .* missing')  # drawn as boxes
        figure = Figure(figsize=(width, height), dpi=120, layout='constrained')
        yield figure
        with whole_file(path) as temporary:
            figure.savefig(temporary)


def _short(name: str, limit: int) -> str:
    """On one line, without control characters, and with the middle left out where it is long."""
    name = ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in name)
    if len(name) <= limit:
        return name
    return f'{name[:(limit - 1) // 2]}…{name[len(name) - limit // 2:]}'


def _percent(share: Optional[float]) -> str:
    return '-' if share is None else f'{100 * share:.1f} %'


def _accuracy(metrics: ClassificationMetrics) -> str:
    low, high = metrics.accuracy_interval.low, metrics.accuracy_interval.high
    return f'{_percent(metrics.accuracy)} [{100 * low:.1f}, {100 * high:.1f}]'


def draw_curves(result: TrainingResult, path: Path) -> None:
    """Accuracy (above) and loss (below) of training, like the paper's Figure 10."""
    iterations, epochs = len(result.iterations), len(result.epochs)
    if not epochs:
        _draw_message('Nothing was trained', 'The recipe has no epochs.', path)
        return
    per_epoch = iterations / epochs
    ends = [(i + 1) * per_epoch for i in range(epochs)]
    with _drawing(path, 11, 7) as figure:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 2])
        _draw_iterations(upper, [100 * i.accuracy for i in result.iterations], per_epoch, BLUE)
        _draw_iterations(lower, [i.loss for i in result.iterations], per_epoch, ORANGE)
        if result.monitor:
            pictures = 'held-out' if result.monitor == 'held out' else result.monitor
            style: Dict[str, Any] = dict(
                color=BLACK, linestyle='--', linewidth=1.2, marker='o', markersize=5, clip_on=False,
                label=f'{pictures} pictures, after each epoch')
            accuracies = [np.nan if e.monitor_accuracy is None else 100 * e.monitor_accuracy for e in result.epochs]
            losses = [np.nan if e.monitor_loss is None else e.monitor_loss for e in result.epochs]
            upper.plot(ends, accuracies, **style)
            lower.plot(ends, losses, **style)
        for axes in (upper, lower):
            kept = axes.axvline(ends[result.chosen_epoch - 1], color=BLACK, linewidth=1.2, linestyle=':')
            for i in range(0, epochs, 2):
                axes.axvspan(i * per_epoch, ends[i], color='#f3f3f3', linewidth=0, zorder=0)
            axes.grid(axis='y', color='#dddddd', linewidth=0.6)
            axes.set_axisbelow(True)
        by = 'chosen by the held-out pictures' if result.monitor == 'held out' else 'the last'
        kept.set_label(f'epoch {result.chosen_epoch}, {by}: its weights were kept')
        for i in range(0, epochs, math.ceil(epochs / 12)):
            upper.text(
                (i + 0.5) * per_epoch, 1.02, f'epoch {i + 1}', transform=upper.get_xaxis_transform(),
                ha='center', fontsize=9, color=GREY)

        # The higher line's label stands on it and the lower one's hangs below, so they never meet.
        fine_tuned = ('fine-tuned, validation', result.metrics, GREEN, '-')
        linear = ('linear floor, validation', result.linear, PURPLE, '-.')
        upwards = sorted((linear, fine_tuned), key=lambda outcome: outcome[1].accuracy)
        for (name, metrics, colour, line), side in zip(upwards, ('top', 'bottom'), strict=True):
            upper.axhline(100 * metrics.accuracy, color=colour, linestyle=line, linewidth=1.5)
            upper.text(
                1.01, 100 * metrics.accuracy, f'{name}\n{_accuracy(metrics)}', transform=upper.get_yaxis_transform(),
                va=side, fontsize=9, color=colour)

        upper.set_xlim(0, iterations * 1.01)
        upper.xaxis.get_major_locator().set_params(integer=True)
        upper.set_ylim(0, 102)
        lower.set_ylim(bottom=0)
        upper.set_ylabel('accuracy (%)')
        lower.set_ylabel('loss (cross-entropy)')
        lower.set_xlabel('iteration (one batch each)')
        upper.legend(loc='lower right', fontsize=9)
        lower.legend(loc='upper right', fontsize=9)
        figure.suptitle(f'{_short(result.name, 60)}: {_short(result.model, 60)}', fontsize=13)


def _draw_iterations(axes: 'Axes', values: Sequence[float], per_epoch: float, colour: str) -> None:
    """A pale line through all values, and a bold one through their moving means."""
    numbers = np.arange(1, len(values) + 1)
    width = max(per_epoch / 3, len(values) / 40)
    window = np.ones(min(max(round(width), 1), len(values)))
    # At both ends fewer values fall into the window.
    smooth = np.convolve(values, window, 'same') / np.convolve(np.ones(len(values)), window, 'same')
    alone = '.' if len(values) == 1 else None  # a line through one point is not seen
    axes.plot(numbers, values, color=colour, alpha=0.3, linewidth=0.8, marker=alone, label='training, each batch')
    axes.plot(numbers, smooth, color=colour, linewidth=2.2, marker=alone, label='training, smoothed')


def draw_confusion(metrics: ClassificationMetrics, path: Path) -> None:
    """The confusion matrix, coloured by shares of the true class, with recall at the right and precision below."""
    from matplotlib.colors import to_rgb

    counts = np.array(metrics.confusion_matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    with_text = classes <= MAX_CLASSES_WITH_TEXT
    cell = min(max(7.5 / classes, 0.42 if with_text else 0.17), 1.1, 25 / classes)  # inches
    size = min(10.0, max(6.5, 40 * cell))  # points
    labelled = range(0, classes, math.ceil(0.11 / cell))  # where all names would run into each other, every so many
    names = [_short(metrics.classes[i].name, 32) for i in labelled]
    name_inches = 0.009 * size * max(map(len, names))
    wide = cell >= 0.6
    flat = wide and name_inches < 0.9 * cell

    side = classes * cell
    height = side + (0.2 if flat else 0.75 * name_inches if wide else name_inches) + (1.2 if wide else 1.6)
    with _drawing(path, max(side + name_inches + 2, 7), height) as figure:
        axes = figure.subplots()
        full = np.where(np.eye(classes, dtype=bool)[..., None], to_rgb('#08519c'), to_rgb('#c04000'))
        colours = 1 - shares[..., None] ** 0.7 * (1 - full)  # the power lets a few mistakes be seen
        axes.imshow(np.round(255 * colours).astype(np.uint8), interpolation='nearest')
        if with_text:
            for row, column in zip(*np.nonzero(counts), strict=True):
                dark = colours[row, column] @ (0.299, 0.587, 0.114) < 0.55
                axes.text(
                    column, row, f'{_compact(counts[row, column])}\n{100 * shares[row, column]:.0f} %', ha='center',
                    va='center', fontsize=min(size, 20 * cell), color='white' if dark else BLACK)
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
            axes.annotate(f'{_percent(one.recall)} of {_compact(one.support)}', (edge, i), (8, 0), va='center', **note)
            axes.annotate(
                _percent(one.precision), (i, edge), (0, -8), ha='center', va='top', rotation=0 if wide else 90, **note)
        low, high = metrics.mean_iou_interval.low, metrics.mean_iou_interval.high
        figure.suptitle(
            f'accuracy {_accuracy(metrics)}, mean IoU {metrics.mean_iou:.3f} [{low:.3f}, {high:.3f}], '
            f'n = {_compact(metrics.n)}', fontsize=11)


def _compact(count: int) -> str:
    return str(count) if count < 100_000 else f'{count:.1e}'


def draw_mistakes(mistakes: Sequence[PicturePrediction], path: Path) -> None:
    """The worst of all wrongly classified pictures: those whose wrong class the network was surest of.

    A picture that cannot be read any more leaves an empty tile that says so.
    """
    if not mistakes:
        _draw_message('No mistakes', 'Every picture was classified as it is labelled.', path)
        return
    worst = sorted(mistakes, key=lambda mistake: -mistake.probability)[:MAX_MISTAKES]
    captions = [
        f'{_short(m.true_class, 20)} ({_percent(m.true_probability)})\n'
        f'→ {_short(m.predicted_class, 20)} ({_percent(m.probability)})\n'
        f'{_short(Path(m.path).name, 28)}' for m in worst]
    number = '1 mistake' if len(mistakes) == 1 else f'{len(mistakes)} mistakes'
    if len(mistakes) > len(worst):
        number = f'{len(worst)} of {number}, the surest first'
    heading = f'{number}: true class → predicted class, with the probabilities given to them'
    _draw_grid([_thumbnail(m.path) for m in worst], captions, path, 5, heading)


def _draw_message(message: str, reason: str, path: Path) -> None:
    with _drawing(path, 7, 2) as figure:
        figure.text(0.5, 0.55, message, ha='center', fontsize=18, color=GREEN)
        figure.text(0.5, 0.3, reason, ha='center', fontsize=11)


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
    _draw_grid(pictures, [_short(title, 30) for title in titles], path, columns)


def _draw_grid(
        pictures: Sequence[Optional[np.ndarray]], captions: Sequence[str], path: Path, columns: int, heading: str = '',
) -> None:
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    lines = 1 + max(caption.count('\n') for caption in captions)
    tallest = max(1.0 if picture is None else picture.shape[0] / picture.shape[1] for picture in pictures)
    height = rows * (2 * min(tallest, 1) + 0.05 + 0.16 * lines) + (0.5 if heading else 0)
    with _drawing(path, max(2.1 * columns, 0.085 * len(heading)), height) as figure:
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

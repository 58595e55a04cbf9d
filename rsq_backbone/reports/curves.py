"""How a training went, whatever was trained."""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from rsq_backbone.reports.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, draw_message, drawing
from rsq_backbone.results import Epoch, Iteration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ['Outcome', 'draw_training']


@dataclass(frozen=True)
class Outcome:
    """What a network came to in the end: a line across the curves, labelled at the right."""

    share: float
    label: str
    colour: str
    line: str = '-'  # matplotlib's style


def draw_training(
        iterations: Sequence[Iteration], epochs: Sequence[Epoch], chosen_epoch: int, monitor: Optional[str],
        outcomes: Tuple[Outcome, Outcome], title: str, path: Path, *, accuracy: str = 'accuracy',
        loss: str = 'cross-entropy',
) -> None:
    """Accuracy (above) and loss (below) of training, like the paper's Figure 10.

    Args:
        iterations: One a batch.
        epochs: Their mean IoU is drawn beside the accuracy where they have one.
        chosen_epoch: From 1; the one whose weights were kept.
        monitor: The pictures that were looked at after each epoch, as `TrainingResult.monitor` names them.
        outcomes: Two; the labels of more would stand on each other.
        title: Of the whole.
        path: PNG file to write.
        accuracy: What the upper curves show.
        loss: What the lower curves show.
    """
    if not epochs:
        draw_message('Nothing was trained', 'The recipe has no epochs.', path)
        return
    per_epoch = len(iterations) / len(epochs)
    ends = [(i + 1) * per_epoch for i in range(len(epochs))]
    with drawing(path, 11, 7) as figure:
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 2])
        _draw_iterations(upper, [100 * i.accuracy for i in iterations], per_epoch, BLUE)
        _draw_iterations(lower, [i.loss for i in iterations], per_epoch, ORANGE)
        if monitor:
            pictures = 'held-out' if monitor == 'held out' else monitor
            label = f'{pictures} pictures, after each epoch'
            style: Dict[str, Any] = dict(
                color=BLACK, linestyle='--', linewidth=1.2, marker='o', markersize=5, clip_on=False)
            upper.plot(ends, _percents([e.monitor_accuracy for e in epochs]), label=label, **style)
            if any(e.monitor_mean_iou is not None for e in epochs):
                upper.plot(
                    ends, _percents([e.monitor_mean_iou for e in epochs]),
                    **{**style, 'label': f'{label}: mean IoU', 'color': GREEN, 'marker': 's'})
            lower.plot(
                ends, [np.nan if e.monitor_loss is None else e.monitor_loss for e in epochs], label=label, **style)
        for axes in (upper, lower):
            kept = axes.axvline(ends[chosen_epoch - 1], color=BLACK, linewidth=1.2, linestyle=':')
            for i in range(0, len(epochs), 2):
                axes.axvspan(i * per_epoch, ends[i], color='#f3f3f3', linewidth=0, zorder=0)
            axes.grid(axis='y', color='#dddddd', linewidth=0.6)
            axes.set_axisbelow(True)
        by = 'chosen by the held-out pictures' if monitor == 'held out' else 'the last'
        kept.set_label(f'epoch {chosen_epoch}, {by}: its weights were kept')
        for i in range(0, len(epochs), math.ceil(len(epochs) / 12)):
            upper.text(
                (i + 0.5) * per_epoch, 1.02, f'epoch {i + 1}', transform=upper.get_xaxis_transform(),
                ha='center', fontsize=9, color=GREY)

        # The higher line's label stands on it and the lower one's hangs below, so they never meet.
        upwards = sorted(outcomes, key=lambda outcome: outcome.share)
        for outcome, side in zip(upwards, ('top', 'bottom'), strict=True):
            upper.axhline(100 * outcome.share, color=outcome.colour, linestyle=outcome.line, linewidth=1.5)
            upper.text(
                1.01, 100 * outcome.share, outcome.label, transform=upper.get_yaxis_transform(), va=side, fontsize=9,
                color=outcome.colour)

        upper.set_xlim(0, len(iterations) * 1.01)
        upper.xaxis.get_major_locator().set_params(integer=True)
        upper.set_ylim(0, 102)
        lower.set_ylim(bottom=0)
        upper.set_ylabel(f'{accuracy} (%)')
        lower.set_ylabel(f'loss ({loss})')
        lower.set_xlabel('iteration (one batch each)')
        # Not on a line that ends low.
        upper.legend(loc='lower right' if upwards[0].share > 0.35 else 'center right', fontsize=9)
        lower.legend(loc='upper right', fontsize=9)
        figure.suptitle(title, fontsize=13)


def _percents(shares: Sequence[Optional[float]]) -> List[float]:
    return [np.nan if share is None else 100 * share for share in shares]


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

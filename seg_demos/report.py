"""A segmentation run as pictures and on one page, for people."""
from pathlib import Path
from typing import Any, Dict, List

from rsq_backbone.metrics import SegmentationMetrics
from rsq_backbone.reports.html import write_page
from rsq_backbone.reports.plots import draw_confusion
from seg_demos.masks import MaskCoding
from seg_demos.overlays import palette
from seg_demos.plots import Predict, draw_curves, draw_overlays
from seg_demos.results import SegmentationResult

__all__ = ['draw_run', 'write_report']

PICTURES = ('confusion', 'curves', 'overlays')


def draw_run(result: SegmentationResult, coding: MaskCoding, predict: Predict, folder: Path) -> None:
    """Write curves.png, confusion.png, overlays.png and report.html, which shows all of them.

    Args:
        result: What the run found.
        coding: Of the validation pictures' masks.
        predict: RGB (H, W, 3) uint8 -> classes (H, W) uint8; asked for the few pictures that are shown.
        folder: Of the run.
    """
    draw_curves(result, folder / 'curves.png')
    draw_confusion(result.metrics, folder / 'confusion.png')
    draw_overlays(result, coding, predict, folder / 'overlays.png')
    write_report(result, folder)


def write_report(result: SegmentationResult, folder: Path) -> None:
    """Write folder/report.html, which needs no other file and no network.

    It shows those of confusion.png, curves.png and overlays.png that lie in the folder.
    """
    metrics = result.metrics
    write_page(
        folder, Path(__file__).with_name('report.html.jinja'), PICTURES, result,
        colours=_css_colours(len(metrics.classes)),
        commonest=_commonest(metrics),
        # The drawn intervals' scale begins at a whole tenth.
        scale_start=min(metrics.mean_iou_interval.low, metrics.pixel_accuracy_interval.low) // 0.1 / 10,
        python_name=repr(str(folder.resolve())),
    )


def _css_colours(count: int) -> List[str]:
    """Of the overlays, where class 0 is not tinted."""
    return ['transparent', *(f'rgb{colour}' for colour in palette(count)[1:])]


def _commonest(metrics: SegmentationMetrics) -> Dict[str, Any]:
    """What a network would come to that calls every pixel the most frequent class."""
    most = max(metrics.classes, key=lambda one: one.support)
    share = most.support / metrics.pixels
    occurring = sum(one.support > 0 for one in metrics.classes)
    return {'name': most.name, 'accuracy': share, 'mean_iou': share / occurring}

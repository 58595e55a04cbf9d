"""What a segmentation run found, as the table, metrics.json, the plots and the report all read it."""
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from rsq_backbone.metrics import SegmentationMetrics
from rsq_backbone.results import Epoch, Iteration, with_history, with_tuples

__all__ = ['PictureScore', 'SegmentationData', 'SegmentationResult']


@dataclass(frozen=True)
class SegmentationData:
    source: str  # as the user named it
    name: str
    classes: Tuple[str, ...]
    train_pictures: int
    validation_pictures: int
    monitored_pictures: int  # of them, from all over the set; watched after each epoch
    left_out: Tuple[str, ...]
    notes: Tuple[str, ...]


@dataclass(frozen=True)
class PictureScore:
    picture: str
    mask: str
    mean_iou: float  # over the classes that this picture or its prediction shows


@dataclass(frozen=True)
class SegmentationResult:
    """Everything that metrics.json says; its keys are these names."""

    format: int
    name: str
    data: SegmentationData
    architecture: str
    encoder: str
    encoder_weights: Optional[str]  # None: it started at random
    options: Dict[str, Any]  # of the architecture
    parameters: int
    file_bytes: int
    recipe: Dict[str, Any]
    seed: int
    metrics: SegmentationMetrics  # on the validation pictures
    pictures: Tuple[PictureScore, ...]
    epochs: Tuple[Epoch, ...]
    iterations: Tuple[Iteration, ...]
    seconds: Dict[str, float]
    command: Tuple[str, ...]
    versions: Dict[str, str]
    machine: Dict[str, Any]

    @classmethod
    def from_json(cls, plain: Dict[str, Any]) -> 'SegmentationResult':
        """The result that a metrics.json holds.

        Raises:
            UserError: if it is of another format.
        """
        return cls(**{
            **with_history(plain),
            'data': SegmentationData(**with_tuples(plain['data'])),
            'metrics': SegmentationMetrics.from_json(plain['metrics']),
            'pictures': tuple(PictureScore(**p) for p in plain['pictures']),
        })

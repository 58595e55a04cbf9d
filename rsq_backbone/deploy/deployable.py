"""What a deployment has to know of a trained network: its config.json, and pictures to compare conversions by."""
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn as nn

from rsq_backbone.deploy.loader import Artifact, ArtifactError
from rsq_backbone.errors import UserError
from rsq_backbone.metrics import confusion_matrix, mean_iou
from rsq_backbone.progress import Progress

__all__ = ['IGNORED', 'Comparison', 'Deployable', 'Outcome', 'Sample']

IGNORED = -1  # of a sample's targets: counts nowhere


@dataclass(frozen=True)
class Sample:
    """A judged picture, and what PyTorch makes of it."""

    inputs: np.ndarray  # (1, 3, h, w) float32, as an artifact preprocesses it
    logits: np.ndarray  # PyTorch's of these inputs
    classes: np.ndarray  # that PyTorch gives the picture as the run preprocesses it
    targets: np.ndarray  # the true ones, of the same shape: (1,), or (1, H, W) with H <= h and W <= w


@dataclass(frozen=True)
class Outcome:
    """What an artifact makes of all samples."""

    score: float
    same_classes: float  # share of the pictures or pixels that get the class which PyTorch gives them
    max_abs_difference: float  # of logits, from PyTorch's of the same inputs
    largest_logit: float


@dataclass(frozen=True)
class Comparison:
    score: float  # PyTorch's, in float32
    outcomes: Dict[str, Union[Outcome, ArtifactError]]  # by the artifact's name


class Deployable(ABC):
    """A trained network.

    Attributes:
        network: On the CPU, in evaluation mode; what conversions are compared with.
        convertible: The same in a form that exporters understand.
        config: Of config.json, as far as the network alone says it.
        size: Height and width to export with and to measure at.
        pictures: How many it is judged by.
        data: Where they come from.
        notes: One line for each thing about them that the user should know.
    """

    metric: ClassVar[str]  # 'accuracy' or 'mean_iou'

    network: nn.Module
    convertible: nn.Module
    config: Dict[str, Any]
    size: Tuple[int, int]
    pictures: int
    data: str
    notes: List[str]

    @abstractmethod
    def calibration_set(self, named: Optional[Path], progress: Progress) -> np.ndarray:
        """Preprocessed pictures, (N, 3, H, W) float32: of a folder, or of those that the run was trained on.

        Raises:
            UserError: if they are too few.
        """

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """The judged pictures."""

    def compare(self, artifacts: Mapping[str, Artifact], progress: Progress) -> Comparison:
        """Judge artifacts and PyTorch by the same pictures; each is read once for all of them.

        Raises:
            UserError: if there is nothing on them to judge by.
        """
        expected = _Tally(len(self.config['classes']))
        tallies = {name: _Tally(expected.classes) for name in artifacts}
        failed: Dict[str, ArtifactError] = {}
        for done, sample in enumerate(self.samples()):
            progress('comparing with PyTorch, pictures', done, self.pictures)
            expected.add(sample, sample.classes)
            for name, artifact in artifacts.items():
                if name not in failed:
                    try:
                        tallies[name].add_logits(sample, artifact.run(sample.inputs))
                    except ArtifactError as e:
                        failed[name] = e
        progress('comparing with PyTorch, pictures', self.pictures, self.pictures)
        if expected.empty:
            raise UserError(f'all of {self.data} is to be ignored; name others with --data.')
        return Comparison(
            expected.score(self.metric),
            {name: failed.get(name) or tally.outcome(self.metric) for name, tally in tallies.items()})

    def preprocess(self, picture: np.ndarray) -> np.ndarray:
        """As an artifact does: (H, W, 3) uint8 RGB -> (1, 3, h, w) float32."""
        return Artifact(Path(), self.config, lambda batch: batch).preprocess(picture)

    def torch_logits(self, inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(self.network(torch.from_numpy(inputs)).numpy())


class _Tally:
    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._confusion = np.zeros((classes, classes), np.int64)
        self._same = self._all = 0
        self._difference = self._largest = 0.0

    def add_logits(self, sample: Sample, logits: np.ndarray) -> None:
        self._difference = max(self._difference, float(np.abs(logits - sample.logits).max()))
        self._largest = max(self._largest, float(np.abs(sample.logits).max()))
        self.add(sample, logits.argmax(1)[tuple(map(slice, sample.targets.shape))])

    def add(self, sample: Sample, classes: np.ndarray) -> None:
        counted = sample.targets != IGNORED
        self._confusion += confusion_matrix(sample.targets[counted], classes[counted], self.classes)
        self._same += int((classes == sample.classes).sum())
        self._all += classes.size

    @property
    def empty(self) -> bool:
        return not self._confusion.any()

    def score(self, metric: str) -> float:
        return mean_iou(self._confusion) if metric == 'mean_iou' else float(
            self._confusion.trace() / self._confusion.sum())

    def outcome(self, metric: str) -> Outcome:
        return Outcome(self.score(metric), self._same / self._all, self._difference, self._largest)

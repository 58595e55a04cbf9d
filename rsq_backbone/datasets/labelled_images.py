"""Picture files with a class each."""
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Tuple

import numpy as np

__all__ = ['Collection', 'LabelledImages']


@dataclass(frozen=True)
class LabelledImages:
    paths: Tuple[Path, ...]
    labels: Tuple[int, ...]  # index into classes, one a path
    classes: Tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f'{len(self.paths)} paths, but {len(self.labels)} labels.')

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Sequence[int]) -> 'LabelledImages':
        """Those at `indices`, in that order; the classes stay as they are."""
        return LabelledImages(
            tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices), self.classes)

    @property
    def class_counts(self) -> Tuple[int, ...]:
        return tuple(np.bincount(np.asarray(self.labels, dtype=np.int64), minlength=len(self.classes)).tolist())


@dataclass(frozen=True)
class Collection:
    """What a source holds: all its pictures, or a training and a validation part that its author set apart."""

    name: str  # for folders and titles, e.g. 'food'
    train: LabelledImages  # all pictures where val is None
    val: Optional[LabelledImages] = None  # of the same classes
    notes: Tuple[str, ...] = ()  # one line for each thing about the source that its user should know

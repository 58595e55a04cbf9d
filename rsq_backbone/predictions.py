"""What a classifier said of pictures, whatever ran it."""
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Tuple

from rsq_backbone.errors import UserError
from rsq_backbone.files import write_rows

__all__ = ['Classification', 'Prediction', 'write_csv']


@dataclass(frozen=True)
class Prediction:
    class_index: int
    class_name: str
    probability: float  # softmax over all classes


@dataclass(frozen=True)
class Classification:
    """One picture's most probable classes, the best first."""

    path: Optional[str]  # None for a picture that did not come from a file
    width: int
    height: int
    predictions: Tuple[Prediction, ...]


def write_csv(results: Sequence[Classification], path: Path) -> None:
    """path,rank,class,probability - one line for each prediction, the best of a picture having rank 1.

    Raises:
        UserError: if the file cannot be written.
    """
    try:
        write_rows(path, [('path', 'rank', 'class', 'probability'), *(
            (result.path, rank, p.class_name, f'{p.probability:.6f}')
            for result in results for rank, p in enumerate(result.predictions, 1))])
    except OSError as e:
        raise UserError(f'{path} cannot be written ({e.strerror}); choose another file.') from e

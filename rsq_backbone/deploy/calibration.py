"""The pictures by which int8 finds the ranges of activations."""
from pathlib import Path
from typing import Callable, List, Optional, Sequence

import numpy as np

from rsq_backbone.errors import UserError
from rsq_backbone.images import ImageError, list_images, read_image
from rsq_backbone.progress import Progress

__all__ = ['read_calibration_set']

_LEAST = 10


def read_calibration_set(
        named: Optional[Path], trained_on: Sequence[Path], run: Path, most: int,
        preprocess: Callable[[np.ndarray], np.ndarray], progress: Progress,
) -> np.ndarray:
    """Preprocessed pictures, (N, 3, H, W) float32: the same of the same pictures.

    Args:
        named: Folder of pictures, or of folders of pictures.
        trained_on: What serves where no folder is named: those of the run's pictures that are found.
        run: The run whose pictures these are.
        most: How many to read.
        preprocess: From a picture, (H, W, 3) uint8 RGB, to (1, 3, h, w) of always the same size.
        progress: Told how far the work is.

    Raises:
        UserError: if they are too few.
    """
    paths = trained_on if named is None else _listed(named)
    chosen = sorted(np.random.default_rng(0).permutation(len(paths))[:most].tolist())
    arrays: List[np.ndarray] = []
    for done, i in enumerate(chosen):
        progress('reading pictures to calibrate with', done, len(chosen))
        try:
            picture = read_image(paths[i])
        except ImageError:  # there are others
            continue
        arrays.append(preprocess(np.asarray(picture)))
    progress('reading pictures to calibrate with', len(chosen), len(chosen))
    if len(arrays) < _LEAST:
        found = f'there are {len(arrays)} in {named}'
        if named is None:
            found = f'of those that {run} was trained on {len(arrays)} are found'
        raise UserError(
            f'int8 finds the ranges of activations by {_LEAST} pictures or more, and {found}; name a folder with more '
            'by --calibration.')
    return np.concatenate(arrays)


def _listed(folder: Path) -> Sequence[Path]:
    try:
        direct = list_images(folder)
        return direct or [file for one in sorted(folder.iterdir()) if one.is_dir() for file in list_images(one)]
    except OSError as e:
        raise UserError(f'{folder} cannot be read ({e.strerror}); name a folder of pictures with --calibration.') from e

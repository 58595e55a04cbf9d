"""The pictures that a deployment is judged by, and those that int8 is calibrated with."""
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.validation import load_validation_set
from rsq_backbone.errors import UserError
from rsq_backbone.images import ImageError, list_images, read_image
from rsq_backbone.progress import Progress
from rsq_backbone.training.run_folder import RunFolder

__all__ = ['calibration_set', 'judged_pictures']

_MOST, _LEAST = 300, 10  # to calibrate with


def judged_pictures(
        folder: RunFolder, data: Optional[str], names: Tuple[str, ...], progress: Progress,
) -> Tuple[LabelledImages, List[str]]:
    """Pictures with classes that a run's network did not learn from, and a line for each that is left out.

    Args:
        folder: Of the run.
        data: As `evaluate` takes it; None for the run's own validation pictures.
        names: The network's classes, in the order of its outputs.
        progress: Told how far the work is.

    Raises:
        UserError: if there are none.
    """
    if data is not None:
        validation = load_validation_set(data, names, folder.training_content(), str(folder.path), progress)
        return validation.images, [*validation.left_out, *validation.notes]
    place = {name: i for i, name in enumerate(names)}
    rows = [row for row in folder.pictures('validation') if row['label'] in place]
    there = [row for row in rows if Path(row['path']).is_file()]
    if not there:
        raise UserError(
            f'the pictures that {folder.path} was judged by are not there any more; name others with --data.')
    images = LabelledImages(
        tuple(Path(row['path']) for row in there), tuple(place[row['label']] for row in there), names)
    gone = len(rows) - len(there)
    return images, [f'{gone} of {len(rows)} validation pictures of the run are not there any more.'] if gone else []


def calibration_set(
        folder: RunFolder, named: Optional[Path], transform: Any, progress: Progress,
) -> np.ndarray:
    """Preprocessed pictures, (N, 3, H, W) float32: the same of the same pictures.

    Args:
        folder: Of the run, whose training pictures serve where no others are named.
        named: Folder of pictures, or of folders of pictures.
        transform: From a picture to a tensor (3, H, W).
        progress: Told how far the work is.

    Raises:
        UserError: if they are too few.
    """
    paths = _trained_on(folder) if named is None else _listed(named)
    chosen = sorted(np.random.default_rng(0).permutation(len(paths))[:_MOST].tolist())
    arrays: List[np.ndarray] = []
    for done, i in enumerate(chosen):
        progress('reading pictures to calibrate with', done, len(chosen))
        try:
            picture: Image.Image = read_image(paths[i])
        except ImageError:  # there are others
            continue
        arrays.append(transform(picture).numpy())
    progress('reading pictures to calibrate with', len(chosen), len(chosen))
    if len(arrays) < _LEAST:
        where = f'in {named}' if named is not None else f'left of those that {folder.path} was trained on'
        raise UserError(
            f'int8 finds the ranges of activations by {_LEAST} pictures or more, and there are {len(arrays)} {where}; '
            'name a folder with more by --calibration.')
    return np.stack(arrays)


def _trained_on(folder: RunFolder) -> Sequence[Path]:
    return [path for row in folder.pictures('train') if (path := Path(row['path'])).is_file()]


def _listed(folder: Path) -> Sequence[Path]:
    try:
        direct = list_images(folder)
        return direct or [file for one in sorted(folder.iterdir()) if one.is_dir() for file in list_images(one)]
    except OSError as e:
        raise UserError(f'{folder} cannot be read ({e.strerror}); name a folder of pictures with --calibration.') from e

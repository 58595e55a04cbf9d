"""Drawn food pictures in the paper's nine classes, with pixel masks, for where no photographs can be had.

They show that everything works and let networks be compared on one machine. An accuracy on them says nothing about
photographs.
"""
import json
import shutil
import zlib
from pathlib import Path
from typing import Sequence

import numpy as np
from filelock import FileLock
from PIL import Image

from rsq_backbone.cache_folder import cache_folder
from rsq_backbone.datasets.food_scene import CLASSES, MIN_SIZE, draw_food
from rsq_backbone.datasets.labelled_images import Collection, LabelledImages
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import whole_folder
from rsq_backbone.progress import Progress, silent

__all__ = ['CLASSES', 'draw_food', 'load_synthetic', 'mask_path']

_DRAWING_VERSION = 1  # raised whenever the same seed gives other pictures
_CHECKSUMS = 'checksums.json'  # CRC-32 by path within the folder


def load_synthetic(
        images_per_class: int = 40, size: int = 256, seed: int = 0, progress: Progress = silent) -> Collection:
    """Pictures of `size` x `size` pixels, drawn once and kept in `cache_folder()` as images/<class>/<number>.jpg.

    `mask_path` names their masks. Each picture depends only on the seed, its class, its number and the size, so that a
    larger set contains the smaller ones.

    Raises:
        UserError: if there are to be no pictures, too small ones or a negative seed, or the folder cannot be written.
    """
    if images_per_class < 1 or size < MIN_SIZE or seed < 0:
        raise UserError(f'{images_per_class} synthetic pictures a class, {size} pixels large, with seed {seed}: ask '
                        f'for at least 1 picture, {MIN_SIZE} pixels and seed 0.')
    folder = cache_folder() / f'synthetic-v{_DRAWING_VERSION}-{images_per_class}x{size}px-seed{seed}'
    images = folder / 'images'
    paths = tuple(images / name / f'{number:03d}.jpg' for name in CLASSES for number in range(images_per_class))
    try:
        if not _is_whole(folder, paths):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name('.synthetic.lock')):
                if not _is_whole(folder, paths):  # another process may have drawn them meanwhile
                    with whole_folder(folder) as temporary:
                        _draw_into(temporary, images_per_class, size, seed, progress)
                        if folder.exists():  # a damaged one
                            shutil.rmtree(folder)
    except OSError as e:
        raise UserError(
            f'{folder}: cannot be used ({one_line(e)}); mend that, or let RSQ_CACHE name another folder.') from e
    labels = tuple(label for label in range(len(CLASSES)) for _ in range(images_per_class))
    return Collection('synthetic', LabelledImages(paths, labels, CLASSES), notes=(
        'The pictures are drawn; an accuracy on them says nothing about photographs.',))


def mask_path(picture: Path) -> Path:
    """Where the mask of one of the pictures is: a PNG with 0 for the background and 1 + its index for each class."""
    return picture.parents[2] / 'masks' / picture.parent.name / f'{picture.stem}.png'


def _draw_into(folder: Path, images_per_class: int, size: int, seed: int, progress: Progress) -> None:
    checksums = {}
    for label, name in enumerate(CLASSES):
        for number in range(images_per_class):
            picture, mask = draw_food(label, size, np.random.default_rng([seed, label, number]))
            path = folder / 'images' / name / f'{number:03d}.jpg'
            for file, array in ((path, picture), (mask_path(path), mask)):
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file, quality=92)  # which PNG has no use for
                checksums[file.relative_to(folder).as_posix()] = zlib.crc32(file.read_bytes())
            progress('drawing pictures', label * images_per_class + number + 1, len(CLASSES) * images_per_class)
    (folder / _CHECKSUMS).write_text(json.dumps(checksums, indent=0), encoding='utf-8')


def _is_whole(folder: Path, paths: Sequence[Path]) -> bool:
    """Whether all pictures and masks are as they were written."""
    try:
        checksums = json.loads((folder / _CHECKSUMS).read_text(encoding='utf-8'))
        return all(checksums[file.relative_to(folder).as_posix()] == zlib.crc32(file.read_bytes())
                   for path in paths for file in (path, mask_path(path)))
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged, the checksums included
        return False

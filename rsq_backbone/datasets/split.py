"""Training and validation pictures, class by class."""
import hashlib
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Tuple

from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.errors import UserError

__all__ = ['split']


def split(
        images: LabelledImages, train_share: float, seed: int,
        content: Mapping[Path, str]) -> Tuple[LabelledImages, LabelledImages]:
    """Two parts, each in the order of `images`, which share no picture, however many copies of it there are.

    Of a class with n pictures the first part gets train_share * n, rounded half up (as MATLAB's splitEachLabel does),
    or the nearest number that its copies allow. Each part gets at least one picture of a class with two different
    ones; a class with a single one goes to the first part. The draw depends on `seed`, the class's name and what its
    pictures hold, and on nothing else: neither on their paths and order nor on the other classes.

    Args:
        content: what each picture holds, e.g. its SHA-256; copies hold the same.

    Raises:
        UserError: if `train_share` is not between 0 and 1.
    """
    if not 0 < train_share < 1:
        raise UserError(f'a training share of {train_share} leaves one part empty; choose one between 0 and 1.')
    classes: List[Dict[str, List[int]]] = [defaultdict(list) for _ in images.classes]
    for index, (path, label) in enumerate(zip(images.paths, images.labels, strict=True)):
        classes[label][content[path]].append(index)
    train = set()
    for name, copies in zip(images.classes, classes, strict=True):
        # A draw without a generator: adding a picture to the class leaves the order of the others as it is.
        drawn = sorted(copies, key=lambda held: hashlib.sha256(f'{seed}\0{name}\0{held}'.encode()).digest())
        sizes = [len(copies[held]) for held in drawn]
        for held, taken in zip(drawn, _take(sizes, _round_half_up(train_share, sum(sizes))), strict=True):
            if taken:
                train.update(copies[held])
    return (images.subset(sorted(train)),
            images.subset([index for index in range(len(images)) if index not in train]))


def _round_half_up(share: float, count: int) -> int:
    """By the share as it is written: 0.7 * 45 is 31.5, where binary floats make it 31.499999999999996."""
    return int(Fraction(str(float(share))) * count + Fraction(1, 2))


def _take(sizes: Sequence[int], wanted: int) -> List[bool]:
    """Which groups to take, the earlier ones if possible, to have as near as can be to `wanted` pictures.

    At least one group is taken and, of several, at least one is left.
    """
    if len(sizes) < 2:
        return [True] * len(sizes)
    # Bit s of reachable[-1]: some of the remaining groups of several pictures have s of them together. Single pictures
    # are only counted, as they fill any gap; that keeps the bits few.
    reachable = [1]
    singles = 0
    for size in reversed(sizes):
        if size == 1:
            singles += 1
        else:
            reachable.append(reachable[-1] | reachable[-1] << size)

    def can_make(total: int) -> bool:
        fewest = max(total - singles, 0)  # pictures that the groups must give
        sums = reachable[-1] >> fewest
        return sums > 0 and fewest + (sums & -sums).bit_length() - 1 <= total

    left = min((total for total in range(1, sum(sizes)) if can_make(total)),
               key=lambda total: (abs(total - wanted), -total))
    taken = []
    for size in sizes:
        if size == 1:
            singles -= 1
        else:
            reachable.pop()
        taken.append(can_make(left - size))
        if taken[-1]:
            left -= size
    return taken

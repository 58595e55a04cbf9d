"""Every picture and its mask is looked at once before training: what would spoil it is left out by name."""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from rsq_backbone.datasets.checks import inspect_each
from rsq_backbone.errors import UserError
from rsq_backbone.images import ImageError, inspect_image
from rsq_backbone.progress import Progress, silent
from seg_demos.mask_sources import MaskedCollection, MaskedImage
from seg_demos.masks import IGNORED, Colour, MaskCoding, read_mask, read_values

__all__ = ['CheckedMasks', 'check_masks']


@dataclass(frozen=True)
class CheckedMasks:
    collection: MaskedCollection  # without what was left out
    coding: MaskCoding
    left_out: Tuple[str, ...]  # one line a picture: which, why, and how to mend it
    notes: Tuple[str, ...]  # one line for each thing that was handled or looks suspicious; collection.notes are others
    content: Dict[Path, str]  # SHA-256 of each picture's file


@dataclass(frozen=True)
class _Facts:
    sha256: str
    values: FrozenSet[int]  # of the mask; none of a painted one


def check_masks(
        collection: MaskedCollection, classes: Optional[Sequence[str]] = None,
        colours: Optional[Mapping[Colour, int]] = None, ignore_index: Optional[int] = None,
        progress: Progress = silent,
) -> CheckedMasks:
    """Decode every picture and mask, find out what the masks' values mean, and leave out what would spoil training.

    Left out are pictures and masks that cannot be decoded or are not of one size, masks with values or colours that are
    no class, and training copies of validation pictures.

    Args:
        collection: Of a source.
        classes: Names of the classes, in the order of their numbers; by default as many as the masks' values ask for.
        colours: Class by colour, for painted masks.
        ignore_index: Value of pixels that are neither trained on nor judged. 255 is taken for that by itself, unless
            0 and 255 are all there is: then the masks are black and white.

    Raises:
        UserError: if nothing is left, or all masks together show a single class.
    """
    pairs = [*collection.train, *(collection.val or ())]
    painted = colours is not None
    facts = inspect_each(pairs, _inspect_painted if painted else _inspect_numbered, progress)
    problems = {pair: found for pair, found in facts.items() if isinstance(found, str)}
    sound = {pair: found for pair, found in facts.items() if isinstance(found, _Facts)}
    if not sound:
        raise UserError(' '.join([f'{collection.name}: no picture with its mask can be used.',
                                  *(f'The first: {problem}' for problem in list(problems.values())[:1])]))
    notes: List[str] = []
    coding = collection.coding or _coding(list(sound.values()), classes, colours, ignore_index, notes)
    counts = _count_pixels([pair for pair in pairs if pair in sound], coding, problems)
    _leave_out_copies(collection, {pair: sound[pair].sha256 for pair in counts}, problems)
    left = replace(
        collection, train=tuple(pair for pair in collection.train if pair not in problems),
        val=None if collection.val is None else tuple(pair for pair in collection.val if pair not in problems))
    lines = [problems[pair] for pair in pairs if pair in problems]
    for part, images in (('training', left.train), ('validation', left.val)):
        if images is not None and not images:
            raise UserError(' '.join([f'{collection.name}: no {part} pictures can be used.',
                                      *(f'The first: {line}' for line in lines[:1])]))
    total = np.sum([counts[pair] for pair in left.train], axis=0)
    seen = [name for name, count in zip(coding.classes, total, strict=True) if count]
    if len(seen) < 2:
        raise UserError(f'{collection.name}: the masks show nothing but {seen[0] if seen else "ignored pixels"}; there '
                        'have to be two classes or more.')
    never = [name for name in coding.classes if name not in seen]
    if never:
        notes.append(f'No training mask shows {", ".join(never)}; the network cannot learn what it never sees.')
    if left.val is None and len(left.train) == 1:
        notes.append('There is only one picture: it is trained on and judged by, which says nothing about others.')
    return CheckedMasks(left, coding, tuple(lines), tuple(notes),
                        {pair.picture: found.sha256 for pair, found in sound.items()})


def _inspect_numbered(pair: MaskedImage) -> _Facts:
    sha256, values = _inspect(pair)
    if values.ndim == 3:
        raise ImageError(
            f'{pair.mask}: a painted mask; say with --colour-map which colour is which class, or save class numbers.')
    return _Facts(sha256, frozenset(np.unique(values).tolist()))


def _inspect_painted(pair: MaskedImage) -> _Facts:
    return _Facts(_inspect(pair)[0], frozenset())


def _inspect(pair: MaskedImage) -> Tuple[str, np.ndarray]:
    picture = inspect_image(pair.picture)
    values = read_values(pair.mask)
    height, width = values.shape[:2]
    if picture.size != (width, height):
        raise ImageError(
            f'{pair.mask}: {width} x {height} pixels, but its picture {pair.picture.name} has {picture.size[0]} x '
            f'{picture.size[1]}; a mask has to fit its picture.')
    return picture.sha256, values


def _coding(
        facts: Sequence[_Facts], classes: Optional[Sequence[str]], colours: Optional[Mapping[Colour, int]],
        ignore_index: Optional[int], notes: List[str],
) -> MaskCoding:
    ignored = {} if ignore_index is None else {ignore_index: IGNORED}
    if colours is not None:
        assert classes is not None
        return MaskCoding(tuple(classes), colours=colours)
    values = frozenset().union(*(found.values for found in facts)) - ignored.keys()
    if values == {0, 255} and (classes is None or len(classes) == 2):
        notes.append('The masks are black and white: 0 is taken for the background and 255 for the foreground.')
        return MaskCoding(tuple(classes or ('background', 'foreground')), {0: 0, 255: 1, **ignored})
    if 255 in values and (classes is None or len(classes) <= 255):
        ignored[255] = IGNORED
        values -= {255}
        notes.append('Mask value 255 is neither trained on nor judged.')
    if classes is None:
        count = max(values, default=0) + 1
        if count > 255:
            raise UserError(f'the masks hold values up to {count - 1}; more than 255 classes cannot be told apart. '
                            'If they are painted, name a --colour-map.')
        classes = ('background', 'foreground') if count == 2 else (
            'background', *(f'class {i}' for i in range(1, count)))
    return MaskCoding(tuple(classes), {**{i: i for i in range(len(classes))}, **ignored})


def _count_pixels(
        pairs: Sequence[MaskedImage], coding: MaskCoding, problems: Dict[MaskedImage, str],
) -> Dict[MaskedImage, np.ndarray]:
    counts = {}
    for pair in pairs:
        try:
            mask = read_mask(pair.mask, coding)
        except ImageError as e:
            problems[pair] = str(e)
        else:
            counts[pair] = np.bincount(mask[mask != IGNORED], minlength=len(coding.classes))
    return counts


def _leave_out_copies(
        collection: MaskedCollection, content: Dict[MaskedImage, str], problems: Dict[MaskedImage, str]) -> None:
    validating = {content[pair]: pair for pair in collection.val or () if pair in content}
    for pair in collection.train:
        twin = validating.get(content.get(pair, ''))
        if twin is not None:
            problems[pair] = f'{pair.picture}: the same picture as {twin.picture}, a validation picture; delete it.'

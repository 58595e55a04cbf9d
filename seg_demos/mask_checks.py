"""Every picture and its mask is looked at once before training: what would spoil it is left out by name."""
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Collection, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from rsq_backbone.datasets.checks import inspect_each
from rsq_backbone.errors import UserError
from rsq_backbone.images import CONVERSIONS, ImageError, ImageFacts, inspect_image
from rsq_backbone.progress import Progress, silent
from seg_demos.mask_sources import MaskedCollection, MaskedImage
from seg_demos.masks import (
    IGNORED,
    MAX_CLASSES,
    Colour,
    MaskCoding,
    MaskContent,
    inspect_mask,
    is_ignored_name,
    refuse_unknown,
)

__all__ = ['CheckedMasks', 'check_masks']

# Without a list of classes, larger values are not believed to be class numbers: they are shades of grey.
_MOST_UNNAMED = 64


@dataclass(frozen=True)
class CheckedMasks:
    collection: MaskedCollection  # without what was left out
    coding: MaskCoding
    left_out: Tuple[str, ...]  # one line a file: which, why, and how to mend it; collection.left_out included
    notes: Tuple[str, ...]  # one line for each thing that was handled or looks suspicious; collection.notes are others
    content: Dict[Path, str]  # SHA-256 of each picture's and each mask's file
    sizes: Dict[Path, Tuple[int, int]]  # width and height of each picture in pixels


@dataclass(frozen=True)
class _Facts:
    picture: ImageFacts
    mask: MaskContent


def check_masks(
        collection: MaskedCollection, classes: Optional[Sequence[str]] = None,
        colours: Optional[Mapping[Colour, int]] = None, ignore_index: Optional[int] = None,
        progress: Progress = silent,
) -> CheckedMasks:
    """Decode every picture and mask, find out what the masks' values mean, and leave out what would spoil training.

    Left out are pictures and masks that cannot be decoded or are not of one size, masks with values or colours that are
    no class or with nothing but ignored pixels, and training copies of validation pictures.

    Args:
        collection: Of a source.
        classes: Names of the classes, in the order of their numbers; by default as many as the masks' values ask for.
            Those named void, unlabelled or ignore are ignored; the others are numbered anew, without gaps.
        colours: Class or IGNORED by colour, for painted masks; needs `classes`.
        ignore_index: Value of pixels that are neither trained on nor judged, whatever `classes` says. 255 is taken for
            that by itself, unless most masks show 0 and 255 alone (or 65535, of 16 bits): these are black and white.

    Raises:
        UserError: if nothing is left, if all training masks together show a single class, or if what is told about the
            masks contradicts itself or the source.
    """
    _check_told(collection, classes, colours, ignore_index)
    parts = {'training': list(dict.fromkeys(collection.train)), 'validation': list(dict.fromkeys(collection.val or ()))}
    every = list(dict.fromkeys(pair for pairs in parts.values() for pair in pairs))
    inspected = inspect_each(every, partial(_inspect, painted=colours is not None), progress)
    facts = {pair: found for pair, found in inspected.items() if isinstance(found, _Facts)}
    notes: List[str] = []
    coding = collection.coding
    if coding is None and colours is not None and classes is not None:
        coding = MaskCoding(tuple(classes), colours=colours)
    if coding is None:
        coding = _numbers([found.mask.counts for found in facts.values()], classes, ignore_index, notes)
    counts: Dict[MaskedImage, Counter[int]] = {}  # pixels of each class
    problems: Dict[Tuple[str, MaskedImage], str] = {}  # by part, as a copy is left out of one only
    for part, pairs in parts.items():
        for pair in pairs:
            try:
                counts[pair] = _class_counts(pair, inspected[pair], coding)
            except ImageError as e:
                problems[part, pair] = str(e)
    _leave_out_copies(parts, {pair: facts[pair].picture.sha256 for pair in counts}, problems)
    kept = {part: [pair for pair in pairs if (part, pair) not in problems] for part, pairs in parts.items()}
    for part, pairs in kept.items():
        if not pairs and (part == 'training' or collection.val is not None):
            lines = [line for (of, _), line in problems.items() if of == part]
            raise UserError(' '.join([f'{collection.name}: no {part} pictures can be used.',
                                      *(f'The first: {line}' for line in lines[:1])]))
    _check_classes(collection, coding, {part: _total(counts, pairs) for part, pairs in kept.items()}, notes)
    used = {pair: facts[pair] for pairs in kept.values() for pair in pairs}
    notes += _handled(used) + _disagreeing_palettes(used)
    if collection.val is None and len({found.picture.sha256 for found in used.values()}) == 1:
        notes.append('There is only one picture: it is trained on and judged by, which says nothing about others.')
    return CheckedMasks(
        replace(collection, train=tuple(kept['training']),
                val=None if collection.val is None else tuple(kept['validation'])),
        coding, (*collection.left_out, *problems.values()), tuple(notes),
        {path: sha256 for pair, found in facts.items()
         for path, sha256 in ((pair.picture, found.picture.sha256), (pair.mask, found.mask.sha256))},
        {pair.picture: found.picture.size for pair, found in facts.items()})


def _check_told(
        collection: MaskedCollection, classes: Optional[Sequence[str]], colours: Optional[Mapping[Colour, int]],
        ignore_index: Optional[int],
) -> None:
    if collection.coding is not None and (classes is not None or colours is not None or ignore_index is not None):
        raise UserError(f'{collection.name} has classes of its own; leave out class names, colours and ignore index.')
    if colours is not None and classes is None:
        raise UserError('a colour map needs class names beside it.')
    if colours is not None and ignore_index is not None:
        raise UserError('painted masks have colours, and no value to be ignored; leave out --ignore-index, and name '
                        'the colours to be ignored void in the colour map.')
    if classes is not None and len(classes) > MAX_CLASSES:
        raise UserError(f'{len(classes)} classes; name at most {MAX_CLASSES}.')


def _inspect(pair: MaskedImage, painted: bool) -> _Facts:
    picture = inspect_image(pair.picture)
    mask = inspect_mask(pair.mask, painted)
    if picture.size != mask.size:
        text = (f'{pair.mask}: {mask.size[0]} x {mask.size[1]} pixels, but its picture {pair.picture.name} has '
                f'{picture.size[0]} x {picture.size[1]}')
        if picture.size == mask.size[::-1] and 'EXIF-rotated' in picture.conversions:
            raise ImageError(f'{text} once its EXIF orientation is applied; turn the mask too, or save the picture '
                             'without that.')
        raise ImageError(f'{text}; a mask has to fit its picture.')
    return _Facts(picture, mask)


def _numbers(
        masks: Sequence[Collection[int]], classes: Optional[Sequence[str]], ignore_index: Optional[int],
        notes: List[str],
) -> MaskCoding:
    """What the masks' values mean, of which each item holds those of one mask."""
    values = {value for mask in masks for value in mask}
    if ignore_index is not None and masks and ignore_index not in values:
        notes.append(f'No mask holds {ignore_index}, the value that is to be ignored.')
    white = _white(masks, ignore_index) if classes is None or len(classes) == 2 else None
    if white is not None:
        names = tuple(classes or ('background', 'foreground'))
        number_of = {0: 0, 1: 1, white: 1}  # of a class among `names`, by value
        notes.append(f'The masks are black and white: 0 is taken for {names[0]} and {white} for {names[1]}.')
    else:
        if classes is None:
            count = 1 + max((value for value in values if value < _MOST_UNNAMED and value != ignore_index), default=0)
            names = ('background', 'foreground') if count == 2 else tuple(f'class {i}' for i in range(count))
        else:
            names = tuple(classes)
        number_of = {i: i for i in range(len(names))}
    ignored = {value for value, number in number_of.items() if classes is not None and is_ignored_name(names[number])}
    if ignore_index is not None:
        ignored.add(ignore_index)
    if classes is not None:
        notes += [f'Class {names[number_of[value]]} (mask value {value}) is neither trained on nor judged.'
                  for value in sorted(ignored & number_of.keys())]
    if 255 not in number_of and 255 not in ignored:
        ignored.add(255)
        if 255 in values:
            notes.append('Mask value 255 is neither trained on nor judged.')
    left = sorted({number for value, number in number_of.items() if value not in ignored})
    return MaskCoding(
        tuple(names[number] for number in left),
        {**{value: left.index(number) for value, number in number_of.items() if value not in ignored},
         **dict.fromkeys(ignored, IGNORED)})


def _white(masks: Sequence[Collection[int]], ignore_index: Optional[int]) -> Optional[int]:
    """The value of white, in 8 or 16 bits, where that is a class rather than a value to be ignored.

    It is where masks of black and white alone outnumber those with other values.
    """
    held = [set(mask) - {ignore_index} for mask in masks]
    for white in (255, 65535):
        alone = sum(white in values and values <= {0, white} for values in held)
        if alone > sum(not values <= {0, white} for values in held):
            return white
    return None


def _class_counts(pair: MaskedImage, found: Union[_Facts, str], coding: MaskCoding) -> Counter[int]:
    if isinstance(found, str):
        raise ImageError(found)
    table = coding.table
    unknown = sorted(value for value in found.mask.counts if value not in table)
    if unknown:
        refuse_unknown(pair.mask, unknown, coding)
    counts: Counter[int] = Counter()
    for value, count in found.mask.counts.items():
        counts[table[value]] += count
    if set(counts) == {IGNORED}:
        raise ImageError(f'{pair.mask}: every pixel is to be ignored; mark something, or delete mask and picture.')
    return counts


def _leave_out_copies(
        parts: Mapping[str, Sequence[MaskedImage]], content: Mapping[MaskedImage, str],
        problems: Dict[Tuple[str, MaskedImage], str],
) -> None:
    validating = {content[pair]: pair for pair in parts['validation'] if pair in content}
    for pair in parts['training']:
        twin = validating.get(content.get(pair, ''))
        if twin is None:
            continue
        problems['training', pair] = (
            f'{pair.picture}: is for training and for validation; take it out of one.' if twin == pair else
            f'{pair.picture}: the same picture as {twin.picture}, a validation picture; delete it.')


def _total(counts: Mapping[MaskedImage, Counter[int]], pairs: Sequence[MaskedImage]) -> Counter[int]:
    total: Counter[int] = Counter()
    for pair in pairs:
        total.update(counts[pair])
    return total


def _check_classes(
        collection: MaskedCollection, coding: MaskCoding, totals: Mapping[str, Counter[int]], notes: List[str]) -> None:
    unseen = {part: [name for i, name in enumerate(coding.classes) if not total[i]] for part, total in totals.items()}
    seen = [name for name in coding.classes if name not in unseen['training']]
    if len(seen) < 2:
        raise UserError(
            f'{collection.name}: the training masks show nothing but {seen[0]}; there have to be two classes or '
            'more.')
    if unseen['training']:
        notes.append(
            f'No training mask shows {_some(unseen["training"])}; the network cannot learn what it never sees.')
    alone = [name for name in unseen['validation'] if name in seen]
    if collection.val is not None and alone:
        notes.append(f'No validation mask shows {_some(alone)}; nothing can be said about how well that is found.')


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more classes' if len(names) > 5 else '')


def _handled(used: Mapping[MaskedImage, _Facts]) -> List[str]:
    notes = []
    for kind, handling in CONVERSIONS.items():
        found = [pair for pair, facts in used.items() if kind in facts.picture.conversions]
        if kind == 'EXIF-rotated':
            handling += ', as their masks have to be'  # where both are square, no size would tell
        notes += _note(found, f'{kind}, {handling}', used)
    return notes


def _note(found: Sequence[MaskedImage], what: str, used: Collection[MaskedImage]) -> List[str]:
    return [f'{len(found)} of {len(used)} pictures: {what} (first: {found[0].picture}).'] if found else []


def _disagreeing_palettes(used: Mapping[MaskedImage, _Facts]) -> List[str]:
    """Programs that save only the colours in use number them anew in each file, and numbers then mean nothing."""
    first: Dict[int, Tuple[Colour, MaskedImage]] = {}
    for pair, facts in used.items():
        for value, colour in facts.mask.palette.items():
            other, where = first.setdefault(value, (colour, pair))
            if other != colour:
                return [f'Palettes differ: {value} is the colour {other} in {where.mask} and {colour} in {pair.mask}; '
                        'if colours rather than numbers tell the classes, name them with --colour-map.']
    return []

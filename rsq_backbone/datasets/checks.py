"""Every picture is looked at once before training: what would spoil it is left out by name, the odd is noted."""
import os
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Callable, Dict, Hashable, List, Sequence, Tuple, TypeVar, Union

from rsq_backbone.datasets.labelled_images import Collection, LabelledImages
from rsq_backbone.errors import UserError
from rsq_backbone.images import CONVERSIONS, ImageError, ImageFacts, inspect_image
from rsq_backbone.progress import Progress, silent

__all__ = ['Checked', 'check', 'inspect_each']

Item = TypeVar('Item', bound=Hashable)
Facts = TypeVar('Facts')

MAX_THREADS = 4  # each may hold a gigabyte: a picture of the largest size allowed, and its copies while converted
SMALL_SIDE = 64  # pixels
MAX_IMBALANCE = 20


@dataclass(frozen=True)
class Checked:
    collection: Collection  # without what was left out; its classes are those that remain
    left_out: Tuple[str, ...]  # one line a picture: which, why, and how to mend it
    notes: Tuple[str, ...]  # one line for each thing that was handled or looks suspicious; collection.notes are others
    content: Dict[Path, str]  # SHA-256 of the file's bytes, for every picture that can be decoded


@dataclass
class _Picture:
    path: Path
    label: int
    validating: bool  # in the part that the author set apart
    problem: str = ''  # why it is left out


def check(collection: Collection, progress: Progress = silent) -> Checked:
    """Decode every picture, and leave out what would spoil training or validation.

    Left out are pictures that cannot be decoded; copies (the same bytes) in different classes, all of them; where the
    author set validation pictures apart, training copies of these and all but the first of other copies; and last,
    classes with fewer than two different pictures or without training pictures. Copies within a class of a collection
    that is still to be split are kept.

    Raises:
        UserError: if fewer than two classes are left, or none of the author's validation pictures.
    """
    parts = [collection.train] if collection.val is None else [collection.train, collection.val]
    pictures = [_Picture(path, label, validating=part is collection.val)
                for part in parts for path, label in zip(part.paths, part.labels, strict=True)]
    inspected = inspect_each(list(dict.fromkeys(picture.path for picture in pictures)), inspect_image, progress)
    facts = {path: found for path, found in inspected.items() if isinstance(found, ImageFacts)}
    for picture in pictures:
        if picture.path not in facts:
            picture.problem = str(inspected[picture.path])
    _leave_out_contradictions(_by_content(pictures, facts), collection.train.classes)
    if collection.val is not None:
        _leave_out_copies(_by_content(pictures, facts))
    notes = _leave_out_classes(pictures, facts, collection.train.classes)

    kept = [picture for picture in pictures if not picture.problem]
    left_out = tuple(picture.problem for picture in pictures if picture.problem)
    checked = _without_others(collection, kept)
    if len(checked.train.classes) < 2 or (checked.val is not None and not checked.val):
        lack = 'fewer than two classes' if len(checked.train.classes) < 2 else 'no validation pictures'
        raise UserError(' '.join([f'{collection.name}: {lack} can be used; {len(left_out)} of {len(pictures)} '
                                  'pictures were left out.', *(f'The first: {line}' for line in left_out[:1])]))
    notes += _handled(kept, facts) + _suspicious(kept, facts, checked)
    return Checked(checked, left_out, tuple(notes), {path: fact.sha256 for path, fact in facts.items()})


def inspect_each(
        items: Sequence[Item], inspect: Callable[[Item], Facts], progress: Progress) -> Dict[Item, Union[Facts, str]]:
    """What `inspect` finds in each, or what its ImageError says."""
    def facts_or_problem(item: Item) -> Union[Facts, str]:
        try:
            return inspect(item)
        except ImageError as e:
            return str(e)  # the error itself would keep the damaged picture in memory

    found: Dict[Item, Union[Facts, str]] = {}
    # Reading a picture sets and restores the warning filters, which all threads share: without a frame around them
    # they could show warnings, or leave them switched off.
    with warnings.catch_warnings(), ThreadPool(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        warnings.simplefilter('ignore')
        for item, facts in zip(items, pool.imap(facts_or_problem, items), strict=True):
            found[item] = facts
            progress('checking pictures', len(found), len(items))
    return found


def _by_content(pictures: Sequence[_Picture], facts: Dict[Path, ImageFacts]) -> List[List[_Picture]]:
    """The pictures not left out, in groups that hold the same bytes; most are groups of one."""
    groups = defaultdict(list)
    for picture in pictures:
        if not picture.problem:
            groups[facts[picture.path].sha256].append(picture)
    return list(groups.values())


def _leave_out_contradictions(groups: Sequence[List[_Picture]], classes: Sequence[str]) -> None:
    for copies in groups:
        first = copies[0]
        second = next((picture for picture in copies if picture.label != first.label), None)
        if second is None:
            continue
        for picture in copies:
            other = first if picture.label != first.label else second
            if os.path.realpath(picture.path) == os.path.realpath(other.path):
                picture.problem = (
                    f'{picture.path}: listed as class {classes[picture.label]} and as class {classes[other.label]}; '
                    'take out the wrong line.')
                continue
            picture.problem = (
                f'{picture.path}: the same picture as {other.path}, but of class {classes[picture.label]} here and '
                f'{classes[other.label]} there; delete the wrong one.')


def _leave_out_copies(groups: Sequence[List[_Picture]]) -> None:
    """A copy within or across the author's parts counts once, in validation if it is there."""
    for copies in groups:
        original = next((picture for picture in copies if picture.validating), copies[0])
        for picture in copies:
            if picture is not original:
                if os.path.realpath(picture.path) == os.path.realpath(original.path):
                    picture.problem = f'{picture.path}: listed more than once; take out the other lines.'
                    continue
                where = ', a validation picture' if original.validating and not picture.validating else ''
                picture.problem = f'{picture.path}: the same picture as {original.path}{where}; delete it.'


def _leave_out_classes(
        pictures: Sequence[_Picture], facts: Dict[Path, ImageFacts], classes: Sequence[str]) -> List[str]:
    members: List[List[_Picture]] = [[] for _ in classes]
    for picture in pictures:
        if not picture.problem:
            members[picture.label].append(picture)
    lacking = defaultdict(list)
    for name, usable in zip(classes, members, strict=True):
        if len({facts[picture.path].sha256 for picture in usable}) < 2:
            lack = 'two different pictures'
        elif all(picture.validating for picture in usable):
            lack = 'training pictures'
        else:
            continue
        lacking[lack].append(name)
        for picture in usable:
            picture.problem = f'{picture.path}: its class, {name}, lacks {lack} that can be used; add some.'
    return [f'Classes left out, as they lack {lack} that can be used: {", ".join(names)}.'
            for lack, names in lacking.items()]


def _without_others(collection: Collection, kept: Sequence[_Picture]) -> Collection:
    """The collection of the pictures kept and of the classes that they have."""
    labels = sorted({picture.label for picture in kept})
    number = {label: i for i, label in enumerate(labels)}

    def part(validating: bool) -> LabelledImages:
        pictures = [picture for picture in kept if picture.validating == validating]
        return LabelledImages(
            tuple(picture.path for picture in pictures), tuple(number[picture.label] for picture in pictures),
            tuple(collection.train.classes[label] for label in labels))

    return replace(collection, train=part(False), val=None if collection.val is None else part(True))


def _handled(kept: Sequence[_Picture], facts: Dict[Path, ImageFacts]) -> List[str]:
    notes = []
    for kind, handling in CONVERSIONS.items():
        notes += _note([p for p in kept if kind in facts[p.path].conversions], f'{kind}, {handling}', kept)
    return notes


def _suspicious(kept: Sequence[_Picture], facts: Dict[Path, ImageFacts], checked: Collection) -> List[str]:
    notes = [
        *_note([p for p in kept if facts[p.path].single_coloured], 'of a single colour', kept),
        *_note([p for p in kept if min(facts[p.path].size) < SMALL_SIDE],
               f'shorter than {SMALL_SIDE} pixels on one side, blurred when enlarged', kept)]
    copies = [group for group in _by_content(kept, facts) if len(group) > 1]
    if copies:
        notes.append(f'{sum(map(len, copies)) - len(copies)} of {len(kept)} pictures: copies of another in their '
                     f'class, kept on the same side of the split (first: {copies[0][0].path} and '
                     f'{copies[0][1].path}).')
    counts = dict(zip(checked.train.classes, checked.train.class_counts, strict=True))
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[largest] > MAX_IMBALANCE * counts[smallest]:
        notes.append(f'Unequal classes: {largest} has {counts[largest]} training pictures, {smallest} '
                     f'{counts[smallest]}; look at each class, as the accuracy says little about the small ones.')
    if checked.val is not None:
        unseen = [name for name, count in zip(checked.val.classes, checked.val.class_counts, strict=True) if not count]
        if unseen:
            notes.append(f'Classes without validation pictures, of which nothing can be said: {", ".join(unseen)}.')
    return notes


def _note(found: Sequence[_Picture], what: str, kept: Sequence[_Picture]) -> List[str]:
    return [f'{len(found)} of {len(kept)} pictures: {what} (first: {found[0].path}).'] if found else []

"""The user's own pictures: a folder for each class, or a CSV table."""
import csv
import os
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

from rsq_backbone.datasets.labelled_images import Collection, LabelledImages
from rsq_backbone.datasets.parts import TRAINING, VALIDATION, names_of_part
from rsq_backbone.datasets.passed_over import is_passed_over, is_run
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.images import IMAGE_SUFFIXES
from rsq_backbone.printable import UNPRINTABLE, printable

__all__ = ['load_collection']

OUTSIDE = 'pictures outside the class folders'
LONGEST_HEADER = 10_000  # characters; a file of another kind may have no line ends at all

Labelled = List[Tuple[Path, str]]
Skipped = Dict[str, List[Path]]  # by what they are


def load_collection(source: Path) -> Collection:
    """The pictures that `source` names, with their classes; none is opened yet.

    `source` is one of
    - a folder with a sub-folder for each class, in which pictures may lie at any depth;
    - a folder with such folders in train/ and in val/ (or valid/, validation/, or else test/): its author's split.
      Other names that hold these words (training_set/, seg_test/) count where the same class folders are in both;
    - a CSV file (comma, semicolon or tab; UTF-8) with the columns path, relative to the file's folder, and label, and
      optionally split, which is train or val.

    Classes are in alphabetical order. What was passed over is told in the collection's notes.

    Raises:
        UserError: if it is none of these, has folders that could be classes as well as parts of a split, has fewer than
            two classes or a class with validation pictures only, or if a line of the CSV file is incomplete or names a
            file that is not there.
    """
    source = Path(source)
    if UNPRINTABLE.search(str(source)):
        raise UserError(f'{printable(source)}: a path with such characters cannot be used; rename it.')
    try:
        if os.path.isdir(source):
            return _from_folder(source)
        if os.path.isfile(source):
            return _from_csv(source)
    except OSError as e:
        raise UserError(f'{source}: cannot be read ({one_line(e)}); check its permissions.') from None
    raise UserError(f'{source}: no such folder or CSV file; check the path.')


def _from_folder(source: Path) -> Collection:
    skipped: Skipped = defaultdict(list)
    parts, split_note = _author_split(source, skipped)
    parts = parts or (source,)
    pictures = [_in_class_folders(part, source, skipped) for part in parts]
    notes = split_note + tuple(f'Skipped {what}: {len(paths)} (first: {printable(paths[0].relative_to(source))}).'
                  for what, paths in skipped.items() if paths)
    for part, found in zip(parts, pictures, strict=True):
        if not found:
            alone = '' if part == parts[0] else f', or name {parts[0]} alone to have it split'
            raise UserError(' '.join([
                f'{part}: no class folders with pictures; put the pictures of each class into a folder of their own, '
                f'such as cats/ and dogs/{alone}.', *notes]))
    name = os.path.basename(os.path.abspath(source))  # not resolved: a link is known by its own name
    return _collection(source, name, pictures[0], pictures[1] if len(parts) == 2 else None, notes)


def _author_split(source: Path, skipped: Skipped) -> Tuple[Tuple[Path, ...], Tuple[str, ...]]:
    """The folders of training and validation pictures, if there are both, and a note where that is a guess."""
    beside: Skipped = defaultdict(list)
    folders, outside = _list(source, beside)
    named = {folder.name.lower(): folder for folder in folders}
    train = next((named[name] for name in TRAINING if name in named), None)
    val = next((named[name] for name in VALIDATION if name in named and name != 'dev'), None)
    notes: Tuple[str, ...] = ()
    if train is None or val is None:
        parts = [_unwrapped(folder) for folder in folders]
        named = {folder.name: part for folder, part in zip(folders, parts, strict=True)}
        training, validation = (names_of_part(named, words) for words in (TRAINING, VALIDATION))
        called_parts = bool(training and validation) and bool(
            _folder_names(named[training[0]]) & _folder_names(named[validation[0]]))
        alike = _with_the_same_folders(parts)
        if not alike and not called_parts:
            return (), ()
        if not called_parts:
            first = alike[0]
            second, shared = next(
                (other, shared) for other in alike[1:]
                for shared in [sorted(_folder_names(first) & _folder_names(other))] if len(shared) > 1)
            raise UserError(
                f'{source}: {first.name}/ and {second.name}/ both hold {shared[0]}/ and {shared[1]}/, as parts of a '
                'split do. If they are parts, call them train/ and val/, or name one of them alone; if they are '
                'classes, put their images directly into them or list them in a CSV file.')
        train, val = named[training[0]], named[validation[0]]
        notes = (f'{train.name}/ is taken for training and {val.name}/ for validation: both hold the same folders.',)
    beside[OUTSIDE] = outside
    train, val = _unwrapped(train), _unwrapped(val)
    beside[f'folders beside {train.name}/ and {val.name}/'] = [
        f for f in folders if _unwrapped(f) not in (train, val)]
    skipped.update(beside)
    return (train, val), notes


def _unwrapped(folder: Path) -> Path:
    """The folder itself, or the one in it that holds everything under the same name, as archives unpack."""
    folders, outside = _list(folder, defaultdict(list))
    if len(folders) == 1 and not outside and folders[0].name.lower() == folder.name.lower():
        return _unwrapped(folders[0])
    return folder


def _with_the_same_folders(folders: Sequence[Path]) -> List[Path]:
    """Those that hold at least two folders of the same names as another one does."""
    inside = {folder: _folder_names(folder) for folder in folders}
    return [
        one for one in folders
        if any(len(inside[one] & inside[other]) > 1 for other in folders if other != one)]


def _folder_names(folder: Path) -> Set[str]:
    return {path.name for path in _list(folder, defaultdict(list))[0]}


def _in_class_folders(root: Path, source: Path, skipped: Skipped) -> Labelled:
    folders, outside = _list(root, skipped)
    skipped[OUTSIDE] += outside
    labelled: Labelled = []
    for folder in folders:
        pictures = _below(folder, source, skipped)
        if not pictures:
            skipped['class folders without pictures'].append(folder)
        labelled += [(picture, folder.name) for picture in pictures]
    return labelled


def _below(folder: Path, source: Path, skipped: Skipped) -> List[Path]:
    """Pictures at any depth, also behind links, unless a link leads to where we are or have been."""
    found = []
    seen = {source.resolve(), *source.resolve().parents, *folder.resolve().parents}
    pending = [folder]
    while pending:
        here = pending.pop()
        if here.resolve() in seen:
            skipped['links to folders that are read anyway'].append(here)
            continue
        seen.add(here.resolve())
        folders, pictures = _list(here, skipped)
        found += pictures
        pending += folders
    return sorted(found)


def _list(folder: Path, skipped: Skipped) -> Tuple[List[Path], List[Path]]:
    """The folders and the pictures directly in a folder, in alphabetical order."""
    folders, pictures = [], []
    for path in sorted(folder.iterdir()):
        if is_passed_over(path):
            skipped['hidden files and folders'].append(path)
        elif UNPRINTABLE.search(path.name):
            skipped['files and folders with names that are not UTF-8 or hold control characters'].append(path)
        elif os.path.isdir(path):
            if is_run(path):
                skipped['folders of training runs'].append(path)
            else:
                folders.append(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES:  # also a broken link, which is to be named once it is opened
            pictures.append(path)
        else:
            skipped['files not named like pictures'].append(path)
    return folders, pictures


def _from_csv(source: Path) -> Collection:
    parts: Dict[str, Labelled] = {'train': [], 'val': []}
    missing: List[str] = []
    listed: Dict[str, List[Tuple[int, str]]] = defaultdict(list)  # line and label, by the file that is meant
    line = 1
    # What is not UTF-8 is let through here, to be refused with the number of its line.
    with source.open(encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
        columns, delimiter = _header(source, file.readline(LONGEST_HEADER))
        rows = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for cells in rows:
                line = rows.line_num + 1
                cells = [cell.strip() for cell in cells]
                if not any(cells):  # spreadsheets leave such lines behind
                    continue
                path, label, part = _row(f'{source}, line {line}', columns, cells)
                if not os.path.isfile(source.parent / path):
                    missing.append(f'line {line}: {path}')
                parts[part].append((source.parent / path, label))
                listed[os.path.realpath(source.parent / path)].append((line, label))
        except csv.Error as e:
            raise UserError(f'{source}, after line {line}: {one_line(e)}; mend the quotes there.') from None
    if missing:
        raise UserError(
            f'{source}: {len(missing)} of the files that it names are not there: {_some(missing)}; paths are taken '
            f'from {source.parent.resolve()}.')
    notes = tuple(
        f'{source.name} lists {printable(Path(file))} more than once: '
        + ', '.join(f'line {number} as {label}' for number, label in rows_of_file) + '.'
        for file, rows_of_file in listed.items() if len(rows_of_file) > 1)
    if 'split' not in columns:
        return _collection(source, source.stem, parts['train'], None, notes)
    for part, pictures in parts.items():
        if not pictures:
            raise UserError(f'{source}: no line says {part} under split; add such lines, or take out the column.')
    return _collection(source, source.stem, parts['train'], parts['val'], notes)


def _header(source: Path, line: str) -> Tuple[List[str], str]:
    """The columns' names and what separates them."""
    if UNPRINTABLE.search(line.strip().replace('\t', '')):
        raise UserError(
            f'{source}: neither a folder nor a CSV file in UTF-8; unpack an archive first, and save a table as CSV.')
    for delimiter in ',;\t':
        columns = [cell.strip().lower() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        if {'path', 'label'} <= set(columns):
            return columns, delimiter
    raise UserError(
        f'{source}, line 1: the columns path and label are not both there; the file has to begin with a line such as '
        'path,label or path,label,split.')


def _row(where: str, columns: Sequence[str], cells: Sequence[str]) -> Tuple[str, str, str]:
    """Path, label and part; train where there is no column split."""
    if any(cells[len(columns):]):
        raise UserError(f'{where}: more cells than columns; put a path that holds the separator into double quotes.')
    row = dict(zip(columns, cells, strict=False))
    for column in ('path', 'label'):
        if not row.get(column):
            raise UserError(f'{where}: no {column}; fill it in, or take the line out.')
        if UNPRINTABLE.search(row[column]):
            raise UserError(f'{where}: the {column} is not UTF-8 or holds control characters; rename it.')
    part = row.get('split', '').lower() if 'split' in columns else 'train'
    if part not in ('train', 'val'):
        raise UserError(f'{where}: split is {part!r}; it has to be train or val.')
    return row['path'], row['label'], part


def _collection(
        source: Path, name: str, train: Labelled, val: Optional[Labelled], notes: Tuple[str, ...] = ()) -> Collection:
    classes = sorted({label for _, label in train})
    untrained = sorted({label for _, label in val or ()} - set(classes))
    if untrained:
        raise UserError(
            f'{source}: validation pictures but no training pictures of {_some(untrained)}; if the class has another '
            'name there, rename it, else add training pictures or take it out.')
    if len(classes) < 2:
        raise UserError(
            f'{source}: two classes or more are needed, but there is {_some(classes) or "none"}; each has to be a '
            'folder directly in it or, in a CSV file, a label.')
    number = {label: i for i, label in enumerate(classes)}

    def labelled(pictures: Labelled) -> LabelledImages:
        return LabelledImages(
            tuple(path for path, _ in pictures), tuple(number[label] for _, label in pictures), tuple(classes))

    return Collection(name, labelled(train), None if val is None else labelled(val), notes)


def _some(names: Sequence[str]) -> str:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + more

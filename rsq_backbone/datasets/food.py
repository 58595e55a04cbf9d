"""The paper's data: MathWorks' Example Food Image Dataset, 978 photographs in nine classes."""
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from filelock import FileLock

from rsq_backbone.cache_folder import cache_folder
from rsq_backbone.datasets.archive import extracted
from rsq_backbone.datasets.download import download
from rsq_backbone.datasets.labelled_images import Collection, LabelledImages
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import sha256_of, write_text
from rsq_backbone.images import list_images
from rsq_backbone.progress import Progress, silent

__all__ = ['FOOD_COUNTS', 'FOOD_URL', 'load_food']

_ARCHIVE = 'ExampleFoodImageDataset.zip'
FOOD_URL = f'https://www.mathworks.com/supportfiles/nnet/data/{_ARCHIVE}'
FOOD_COUNTS = {
    'caesar_salad': 26, 'caprese_salad': 15, 'french_fries': 181, 'greek_salad': 24, 'hamburger': 238, 'hot_dog': 31,
    'pizza': 299, 'sashimi': 40, 'sushi': 124,
}
# The zip has 77 MB and less than a thousand files.
_MAX_BYTES = 1_000_000_000
_MAX_ENTRIES = 10_000

_Names = Dict[str, List[str]]  # file names by class


@dataclass(frozen=True)
class _Record:
    """pictures.json: which pictures came, and from where. The first four are None for a folder put there by hand."""

    url: Optional[str]
    sha256: Optional[str]  # of the zip
    bytes: Optional[int]
    previous_sha256: Optional[str]  # of the zip that was used before, if it was another
    counts: Dict[str, int]
    files: _Names


def load_food(progress: Progress = silent, url: str = FOOD_URL) -> Collection:
    """All 978 pictures, kept in `cache_folder()`/food and downloaded (77 MB) when they are not there.

    Without a network, put the zip there by other means as ExampleFoodImageDataset.zip, or its class folders into a
    folder called pictures.

    Raises:
        UserError: if the download fails (run again, it goes on), the zip is damaged, a class has too few pictures,
            pictures that were there before are missing, or the folder cannot be written.
    """
    home = cache_folder() / 'food'
    archive, pictures, record_path = home / _ARCHIVE, home / 'pictures', home / 'pictures.json'
    try:
        if not pictures.is_dir():
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(home / '.lock'):
                if not pictures.is_dir():  # another process may have fetched them meanwhile
                    _fetch(url, archive, pictures, record_path, progress)
        root, found = _find(pictures)
        record = _read(record_path)
        if record is None:
            record = _Record(None, None, None, None, *_complete(found, pictures))
            _write(record, record_path)
    except OSError as e:
        raise UserError(
            f'{home}: cannot be used ({one_line(e)}); mend that, or let RSQ_CACHE name another folder.') from e
    _check_presence(record.files, found, pictures)
    classes = tuple(FOOD_COUNTS)
    labelled = [(root / c / name, label) for label, c in enumerate(classes) for name in record.files[c]]
    train = LabelledImages(tuple(path for path, _ in labelled), tuple(label for _, label in labelled), classes)
    return Collection('food', train, notes=_notes(record, found))


def _fetch(url: str, archive: Path, pictures: Path, record_path: Path, progress: Progress) -> None:
    if not archive.exists():
        download(url, archive, 'downloading food pictures', _MAX_BYTES, progress)
    before = _read(record_path)
    with extracted(archive, pictures, 'extracting food pictures', _MAX_ENTRIES, _MAX_BYTES, progress) as folder:
        _, found = _find(folder)
        with archive.open('rb') as file:
            sha256 = sha256_of(file)
        previous = None
        if before is not None:
            previous = before.sha256 if before.sha256 != sha256 else before.previous_sha256
        # Before the folder gets its name, so that there never is a downloaded one without its record.
        _write(_Record(url, sha256, archive.stat().st_size, previous, *_complete(found, archive)), record_path)


def _find(pictures: Path) -> Tuple[Path, _Names]:
    """The folder that holds the class folders, `pictures` or one directly in it, and what lies in its folders."""
    roots = [pictures, *_folders(pictures)]
    found = [{folder.name: _names(folder) for folder in _folders(root)} for root in roots]
    best = max(range(len(roots)), key=lambda i: sum(len(found[i].get(c, ())) for c in FOOD_COUNTS))
    return roots[best], found[best]


def _folders(path: Path) -> List[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir())


def _names(folder: Path) -> List[str]:
    return [p.name for p in list_images(folder) if not p.name.startswith('.')]


def _complete(found: _Names, where: Path) -> Tuple[Dict[str, int], _Names]:
    """Counts and files of the nine classes, if there are enough."""
    files = {c: found.get(c, []) for c in FOOD_COUNTS}
    few = [f'{c} {len(files[c])} of {expected}' for c, expected in FOOD_COUNTS.items() if len(files[c]) < expected]
    if few:
        raise UserError(f'{where}: pictures are missing ({", ".join(few)}); delete it and run the command again.')
    return {c: len(names) for c, names in files.items()}, files


def _check_presence(files: _Names, found: _Names, pictures: Path) -> None:
    lost = []
    for c, names in files.items():
        if gone := sorted(set(names).difference(found.get(c, ()))):
            lost.append(f'{c} {len(names) - len(gone)} of {len(names)}, without {_some(gone)}')
    if lost:
        raise UserError(
            f'{pictures}: pictures are missing ({"; ".join(lost)}); delete the folder and run the command again.')


def _notes(record: _Record, found: _Names) -> Tuple[str, ...]:
    notes = []
    if record.previous_sha256:
        notes.append(f'The zip is not the one used before: sha256 {record.sha256}, formerly {record.previous_sha256}.')
    many = [f'{c} {len(record.files[c])} instead of {n}' for c, n in FOOD_COUNTS.items() if len(record.files[c]) > n]
    if many:
        notes.append(f"More pictures than in the paper's data: {', '.join(many)}.")
    foreign = [f'{c}/{name}' for c, names in found.items() for name in names if name not in record.files.get(c, ())]
    if foreign:
        notes.append(f"Left out, as not in the paper's data: {_some(foreign)}.")
    return tuple(notes)


def _some(names: List[str]) -> str:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(map(repr, names[:3])) + more


def _read(path: Path) -> Optional[_Record]:
    try:
        record = _Record(**json.loads(path.read_text(encoding='utf-8')))
        sound = all(isinstance(name, str) for c in FOOD_COUNTS for name in record.files[c])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return record if sound else None


def _write(record: _Record, path: Path) -> None:
    write_text(path, json.dumps(dataclasses.asdict(record), indent=1))

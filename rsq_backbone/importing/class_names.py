"""The names of a network's classes, in the order of its outputs."""
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from timm.data import create_dataset
from timm.utils.misc import natural_key

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.printable import UNPRINTABLE

__all__ = ['named_by_training', 'read_class_names']

_LONGEST = 10_000_000  # characters; no list of classes is longer


def read_class_names(place: Path) -> Tuple[str, ...]:
    """Of a text file with a name a line, or of a folder of pictures as timm orders its class folders.

    Args:
        place: The file or the folder, which may hold the class folders in train/.

    Raises:
        UserError: if names are missing, occur twice or are ambiguous.
    """
    try:
        if place.is_dir():
            return _of_folder(place)
        if place.is_file():
            return _of_file(place)
    except (OSError, ValueError) as e:  # a name that no file can have, and what is wrong inside
        if isinstance(e, UserError):
            raise
        raise UserError(f'{str(place)[:80]!r} cannot be read ({one_line(e)}); save it as text in UTF-8.') from e
    raise UserError(f'{place}: no such file or folder; check the path.')


def named_by_training(arguments: Dict[str, Any]) -> Tuple[Optional[Path], str]:
    """What the arguments of timm's train.py name as the source of its classes.

    Returns:
        A place for `read_class_names`, or None and why there is none.
    """
    root = arguments.get('data_dir') or arguments.get('data')
    if arguments.get('class_map'):
        # Nothing but its text form, as the other is a pickle.
        files = [Path(arguments['class_map']), *([Path(root, arguments['class_map'])] if root else [])]
        found = next((file for file in files if file.suffix.lower() == '.txt' and file.is_file()), None)
        return found, f'its class map {arguments["class_map"]} is not here, or is no text file'
    if '/' in arguments.get('dataset', ''):
        return None, f'its pictures come from {arguments["dataset"]}'
    if not root:
        return None, 'nothing is known of its pictures'
    split = Path(root, arguments.get('train_split', 'train'))
    folder = split if split.is_dir() else Path(root)
    return (folder if folder.is_dir() else None), f'its pictures in {root} are not here'


def _of_file(file: Path) -> Tuple[str, ...]:
    with file.open(encoding='utf-8-sig') as stream:
        text = stream.read(_LONGEST)
    lines = [line.strip() for line in text.rstrip().split('\n')]
    for number, line in enumerate(lines, 1):
        if not line or UNPRINTABLE.search(line):
            raise UserError(f'{file}, line {number}: no name, or one with control characters; mend the line.')
    _refuse_same(file, lines, lines)
    return tuple(lines)


def _of_folder(folder: Path) -> Tuple[str, ...]:
    try:
        places = create_dataset('', root=str(folder), split='train').reader.class_to_idx  # as train.py does
    except Exception as e:  # of its reader, which asserts and raises all kinds
        raise UserError(
            f'{folder} has no class folders with pictures ({one_line(e)}); name the folder that holds one a class, or '
            'a text file with a name a line.') from e
    names = sorted(places, key=places.__getitem__)
    unprintable = [name for name in names if not name or UNPRINTABLE.search(name)]
    if unprintable:
        raise UserError(
            f'{folder}: pictures outside of class folders, or a folder with control characters in its name '
            f'({unprintable[0]!r}); name the classes by a text file.')
    # Numbers in names count as numbers and letters of either case are alike; among equals the order is left to chance.
    _refuse_same(folder, names, [str(natural_key(name)) for name in names])
    return tuple(names)


def _refuse_same(place: Path, names: Sequence[str], keys: Sequence[str]) -> None:
    key, count = Counter(keys).most_common(1)[0]
    if count > 1:
        same = [name for name, own in zip(names, keys, strict=True) if own == key]
        raise UserError(
            f'{place}: the classes {" and ".join(same[:2])} are ambiguous; name the classes, all different and '
            'in the order of the network\'s outputs, by a text file with a name a line.')

"""Pictures with masks that a user names by one word or a path, in the layouts that are around."""
import os
import tarfile
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from rsq_backbone.cache_folder import cache_folder
from rsq_backbone.datasets.food_scene import CLASSES
from rsq_backbone.datasets.parts import TRAINING, names_of_part
from rsq_backbone.datasets.passed_over import is_passed_over
from rsq_backbone.datasets.synthetic import load_synthetic, mask_path
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.images import IMAGE_SUFFIXES
from rsq_backbone.printable import UNPRINTABLE, printable
from rsq_backbone.progress import Progress, silent
from seg_demos.masks import IGNORED, MaskCoding

__all__ = ['MaskedCollection', 'MaskedImage', 'load_masks']

_VALIDATION = ('val', 'valid', 'validation', 'dev')  # test/ is left alone
# What a mask is called beside its picture's name: labelling programs', CamVid's own _L and Supervisely's included.
_MASK_ENDINGS = ('_mask', '-mask', '_L', '_label', '_labels', '_gt', '_seg', '_segmentation')


@dataclass(frozen=True)
class MaskedImage:
    picture: Path
    mask: Path


@dataclass(frozen=True)
class MaskedCollection:
    """What a source holds: all its pictures, or a training and a validation part that its author set apart."""

    name: str
    train: Tuple[MaskedImage, ...]  # all pictures where val is None
    val: Optional[Tuple[MaskedImage, ...]] = None
    coding: Optional[MaskCoding] = None  # where the source itself says what its values mean
    left_out: Tuple[str, ...] = ()  # one line a file that is of no pair: which, why, and how to mend it
    notes: Tuple[str, ...] = ()  # one line for each thing about the source that its user should know


def load_masks(source: str, progress: Progress = silent) -> MaskedCollection:
    """`synthetic` (drawn plates of nine foods), `synthetic-food` (the same, food or not), `oxford-pet` (downloaded), or
    a folder in one of these layouts:

        images/ masks/                              also with pictures and masks in folders of the same names below
        train/images/ train/masks/ val/images/ ...  or images/train/ masks/train/ ...
        train/ trainannot/ val/ valannot/           CamVid's
                                                    (also training_set/, dev/ and the like)
        JPEGImages/ SegmentationClass/ ImageSets/Segmentation/train.txt, val.txt    Pascal VOC's

    A mask has its picture's name, or that and an ending such as _mask or _L. No file is opened yet.

    Raises:
        UserError: if there is no such folder, or no picture with a mask in it or in a part that its author set apart.
    """
    if source in ('synthetic', 'synthetic-food'):
        drawn = load_synthetic(progress=progress)
        values = range(len(CLASSES) + 1)
        if source == 'synthetic':
            coding = MaskCoding(('background', *CLASSES), {i: i for i in values})
        else:
            coding = MaskCoding(('background', 'food'), {i: min(i, 1) for i in values})
        return MaskedCollection(
            source, tuple(MaskedImage(path, mask_path(path)) for path in drawn.train.paths), notes=(
                'The pictures are drawn; a figure on them says nothing about photographs.',),
            coding=coding)
    if source == 'oxford-pet':
        return _oxford_pet()
    if UNPRINTABLE.search(source):
        raise UserError(f'{printable(source)}: a path with such characters cannot be used; rename it.')
    root = Path(source)
    if not os.path.isdir(root):
        raise UserError(
            f'{root}: no such folder; name a folder of pictures with masks, synthetic, synthetic-food or oxford-pet.')
    try:
        return _Folder(root).collection()
    except OSError as e:
        raise UserError(f'{root}: cannot be read ({one_line(e)}); check its permissions.') from None


class _Folder:
    """A folder that is looked through: what was found to be of no use is gathered on the way."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: List[str] = []
        self.notes: List[str] = []

    def collection(self) -> MaskedCollection:
        train, val = self._voc() or self._parts() or (self._pairs(self.root / 'images', self.root / 'masks'), None)
        for part, pairs in (('training', train), ('validation', val)):
            if pairs is not None and not pairs:
                raise UserError(' '.join([
                    f'{self.root}: no {part} picture has a mask; masks need the names of their pictures.',
                    *(f'The first problem: {line}' for line in self.left_out[:1])]))
        # Not resolved: a link is known by its own name.
        name = os.path.basename(os.path.abspath(self.root))
        return MaskedCollection(name, train, val, left_out=tuple(self.left_out), notes=tuple(self.notes))

    def _voc(self) -> Optional[Tuple[Tuple[MaskedImage, ...], Optional[Tuple[MaskedImage, ...]]]]:
        pictures, masks = self.root / 'JPEGImages', self.root / 'SegmentationClass'
        if not (pictures.is_dir() and masks.is_dir()):
            return None
        lists = self.root / 'ImageSets' / 'Segmentation'
        train, val = lists / 'train.txt', lists / 'val.txt'
        if not train.exists():
            train = lists / 'trainval.txt'
        if not train.exists():
            return self._pairs(pictures, masks), None
        return self._pairs(pictures, masks, train), self._pairs(pictures, masks, val) if val.exists() else None

    def _parts(self) -> Optional[Tuple[Tuple[MaskedImage, ...], Optional[Tuple[MaskedImage, ...]]]]:
        """What the author set apart; nothing if there is not even a folder for training."""
        train = next((found for found in map(self._part, self._named(TRAINING)) if found), None)
        if train is None:
            if (self.root / 'images').is_dir() and (self.root / 'masks').is_dir():
                return None
            raise UserError(
                f'{self.root}: no pictures with masks found; put them into images/ and masks/, under train/ and val/ '
                'if you have set some apart (CamVid and VOC trees are read as they are).')
        val = next((found for found in map(self._part, self._named(_VALIDATION)) if found), None)
        if val is None:
            for folder in self._there(*_VALIDATION):
                raise UserError(
                    f'{folder}: no masks for it; add them as train/ has them, or take the folder away to have part of '
                    'the training pictures set apart.')
        self.notes += [f'{folder} is left alone.' for folder in self._there('test')]
        return self._pairs(*train), self._pairs(*val) if val else None

    def _named(self, words: Sequence[str]) -> List[str]:
        """Folders that are called like a part, directly in the root or in images/."""
        places = [folder for folder in (self.root, self.root / 'images') if folder.is_dir()]
        names = {
            path.name for place in places for path in place.iterdir() if path.is_dir() and not is_passed_over(path)}
        return names_of_part(names, words)

    def _there(self, *names: str) -> List[Path]:
        folders = [folder for name in names for folder in (self.root / name, self.root / 'images' / name)]
        return [folder for folder in folders if folder.is_dir()]

    def _part(self, name: str) -> Optional[Tuple[Path, Path]]:
        """The folders of its pictures and of its masks, if there are both."""
        root = self.root
        layouts = (
            (root / name / 'images', root / name / 'masks'),
            (root / 'images' / name, root / 'masks' / name),
            (root / name, root / f'{name}annot'))
        return next((both for both in layouts if both[0].is_dir() and both[1].is_dir()), None)

    def _pairs(self, pictures: Path, masks: Path, listed: Optional[Path] = None) -> Tuple[MaskedImage, ...]:
        """Pictures with their masks; `listed` is a file that names those that count, one a line."""
        by_name = self._by_name(pictures)
        owned: Dict[str, List[Path]] = defaultdict(list)
        for name, found in self._by_name(masks).items():
            owner = _owner(name, by_name)
            if owner:
                owned[owner] += found
            elif listed is None:
                self.left_out += [f'{mask}: no picture of its name in {pictures}; add it, or delete the mask.'
                                  for mask in found]
        names = by_name if listed is None else self._listed(listed, by_name, pictures)
        pairs = []
        for name in names:
            first, *others = by_name[name]
            if others:
                self.left_out += [f'{path}: of the same name as {other.name}, so that nobody can tell whose a mask is; '
                                  'rename or delete one.' for path, other in [(first, others[0]), *(
                                      (path, first) for path in others)]]
            elif not owned[name]:
                self.left_out.append(f'{first}: no mask of its name in {masks}; add {name}.png, or delete '
                                     'the picture.')
            elif len(owned[name]) > 1:
                self.left_out.append(f'{first}: has two masks, {owned[name][0]} and {owned[name][1]}; '
                                     'delete one.')
            else:
                pairs.append(MaskedImage(first, owned[name][0]))
        return tuple(sorted(pairs, key=lambda pair: pair.picture))

    def _listed(self, file: Path, by_name: Dict[str, List[Path]], pictures: Path) -> List[str]:
        try:
            lines = [line.strip() for line in file.read_text(encoding='utf-8-sig').splitlines()]
        except UnicodeDecodeError:
            raise UserError(f'{file}: not a text file in UTF-8; save it as such.') from None
        names = []
        for line in dict.fromkeys(line for line in lines if line):
            name = line if line in by_name else _name(line)
            if name in by_name:
                names.append(name)
            else:
                self.left_out.append(f'{file}: {printable(line)}: no such picture in {pictures}; add it, or take the '
                                     'line out.')
        return list(dict.fromkeys(names))

    def _by_name(self, folder: Path) -> Dict[str, List[Path]]:
        """Files named like pictures at any depth, by their path below `folder` without the ending.

        Links are followed, unless one leads to where we are or have been. A broken one is kept, to be named once it is
        opened.
        """
        found: Dict[str, List[Path]] = defaultdict(list)
        hidden: List[Path] = []
        seen = set(folder.resolve().parents)
        pending = [folder]
        while pending:
            here = pending.pop(0)
            if here.resolve() in seen:
                continue
            seen.add(here.resolve())
            for path in sorted(here.iterdir()):
                if is_passed_over(path):  # such as the ._NAME.jpg that a Mac leaves on foreign disks
                    hidden += [path] if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES else []
                elif UNPRINTABLE.search(path.name):
                    self.left_out.append(f'{printable(path)}: the name is not UTF-8 or holds control characters; '
                                         'rename it.')
                elif os.path.isdir(path):
                    pending.append(path)
                elif path.suffix.lower() in IMAGE_SUFFIXES:
                    found[_name(path.relative_to(folder).as_posix())].append(path)
        if hidden:
            self.notes.append(f'Skipped hidden files in {folder}: {len(hidden)} (first: {hidden[0].name}).')
        return found


def _owner(mask: str, pictures: Dict[str, List[Path]]) -> Optional[str]:
    """The name of the picture that a mask of this name is for."""
    names = [mask, _name(mask), *(mask.removesuffix(end) for end in _MASK_ENDINGS if mask.endswith(end))]
    return next((name for name in names if name in pictures), None)


def _name(file: str) -> str:
    """Without the ending of a picture file, and spelt one way: a Mac may write an accent as a character of its own."""
    stem, suffix = os.path.splitext(unicodedata.normalize('NFC', file))
    return stem if suffix.lower() in IMAGE_SUFFIXES else stem + suffix


def _oxford_pet() -> MaskedCollection:
    """Oxford-IIIT Pet through torchvision: 3,680 training and 3,669 validation photographs, cats and dogs cut out."""
    from torchvision.datasets import OxfordIIITPet

    root = cache_folder() / 'oxford-pet'
    parts: List[Sequence[MaskedImage]] = []
    try:
        for split in ('trainval', 'test'):
            data = OxfordIIITPet(str(root), split, 'segmentation', download=True)
            parts.append([
                MaskedImage(Path(picture), Path(mask)) for picture, mask in zip(data._images, data._segs, strict=True)])
    except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError) as e:
        raise UserError(
            f'Oxford-IIIT Pet cannot be had ({one_line(e)}); delete {root} if it is there and, where there is a '
            f'network, try again or call torchvision.datasets.OxfordIIITPet({str(root)!r}, download=True) (790 MB).'
        ) from e
    # Its trimaps: 1 the animal, 2 the background, 3 the outline between them.
    coding = MaskCoding(('background', 'pet'), {1: 1, 2: 0, 3: IGNORED})
    return MaskedCollection('oxford-pet', tuple(parts[0]), tuple(parts[1]), coding)

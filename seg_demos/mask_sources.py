"""Pictures with masks that a user names by one word or a path, in the layouts that are around."""
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from rsq_backbone.cache_folder import cache_folder
from rsq_backbone.datasets.food_scene import CLASSES
from rsq_backbone.datasets.synthetic import load_synthetic, mask_path
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.images import list_images
from rsq_backbone.progress import Progress, silent
from seg_demos.masks import IGNORED, MaskCoding

__all__ = ['MaskedCollection', 'MaskedImage', 'load_masks']

_TRAIN = ('train', 'training')
_VAL = ('val', 'valid', 'validation')


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
    notes: Tuple[str, ...] = ()


def load_masks(source: str, progress: Progress = silent) -> MaskedCollection:
    """`synthetic` (drawn plates), `oxford-pet` (downloaded), or a folder in one of these layouts:

        images/ masks/                              a mask has its picture's name, or that and _mask
        train/images/ train/masks/ val/images/ ...
        train/ trainannot/ val/ valannot/           CamVid's
        JPEGImages/ SegmentationClass/ ImageSets/Segmentation/train.txt, val.txt    Pascal VOC's

    Raises:
        UserError: if there is no such folder, or no picture with a mask in it.
    """
    if source == 'synthetic':
        drawn = load_synthetic(progress=progress)
        return MaskedCollection(
            'synthetic', tuple(MaskedImage(path, mask_path(path)) for path in drawn.train.paths), notes=(
                'The pictures are drawn; a figure on them says nothing about photographs.',),
            coding=MaskCoding(('background', *CLASSES), {i: i for i in range(len(CLASSES) + 1)}))
    if source == 'oxford-pet':
        return _oxford_pet()
    root = Path(source)
    if not root.is_dir():
        raise UserError(f'{root}: no such folder; name a folder of pictures with masks, synthetic or oxford-pet.')
    return _folder(root)


def _folder(root: Path) -> MaskedCollection:
    name = root.resolve().name
    notes: List[str] = []
    if (root / 'JPEGImages').is_dir() and (root / 'SegmentationClass').is_dir():
        lists = {part: _listed(root, part) for part in ('train', 'val')}
        if lists['train'] is not None and lists['val'] is not None:
            train, val = (
                _pairs(root / 'JPEGImages', root / 'SegmentationClass', notes, only) for only in lists.values())
            # 255 is VOC's outline; its palette masks hold class numbers.
            return _collection(root, name, train, val, notes)
        return _collection(root, name, _pairs(root / 'JPEGImages', root / 'SegmentationClass', notes), None, notes)
    if (root / 'images').is_dir() and (root / 'masks').is_dir():
        return _collection(root, name, _pairs(root / 'images', root / 'masks', notes), None, notes)
    parts: Dict[str, Tuple[MaskedImage, ...]] = {}
    for part, names in (('train', _TRAIN), ('val', _VAL)):
        for folder in (root / each for each in names):
            if (folder / 'images').is_dir() and (folder / 'masks').is_dir():
                parts[part] = _pairs(folder / 'images', folder / 'masks', notes)
            elif folder.is_dir() and folder.with_name(f'{folder.name}annot').is_dir():
                parts[part] = _pairs(folder, folder.with_name(f'{folder.name}annot'), notes)
    if 'train' not in parts:
        raise UserError(
            f'{root}: no pictures with masks found; put them into images/ and masks/, under train/ and val/ if you '
            'have set some apart (CamVid and VOC trees are read as they are).')
    if (root / 'test').is_dir():
        notes.append(f'{root / "test"} is left alone.')
    return _collection(root, name, parts['train'], parts.get('val'), notes)


def _pairs(
        pictures: Path, masks: Path, notes: List[str], only: Optional[Sequence[str]] = None,
) -> Tuple[MaskedImage, ...]:
    by_stem: Dict[str, Path] = {}
    for mask in list_images(masks):
        by_stem.setdefault(mask.stem.removesuffix('_mask'), mask)
    found = [path for path in list_images(pictures) if only is None or path.stem in only]
    without = [path for path in found if path.stem not in by_stem]
    unused = set(by_stem) - {path.stem for path in found} if only is None else set()
    if without:
        notes.append(f'{len(without)} of {len(found)} pictures in {pictures} have no mask of their name in {masks} and '
                     f'are left out (first: {without[0].name}).')
    if unused:
        notes.append(f'{len(unused)} masks in {masks} have no picture of their name in {pictures} (first: '
                     f'{by_stem[min(unused)].name}).')
    return tuple(MaskedImage(path, by_stem[path.stem]) for path in found if path.stem in by_stem)


def _listed(root: Path, part: str) -> Optional[List[str]]:
    file = root / 'ImageSets' / 'Segmentation' / f'{part}.txt'
    try:
        return file.read_text(encoding='utf-8').split()
    except (OSError, ValueError):
        return None


def _collection(
        root: Path, name: str, train: Tuple[MaskedImage, ...], val: Optional[Tuple[MaskedImage, ...]],
        notes: Sequence[str],
) -> MaskedCollection:
    for part, images in (('training', train), ('validation', val)):
        if images is not None and not images:
            raise UserError(' '.join([f'{root}: no {part} picture has a mask.', *notes[:2]]))
    return MaskedCollection(name, train, val, notes=tuple(notes))


def _oxford_pet() -> MaskedCollection:
    """Oxford-IIIT Pet through torchvision: 3,680 training and 3,669 validation photographs, cats and dogs cut out."""
    from torchvision.datasets import OxfordIIITPet

    root = cache_folder() / 'oxford-pet'
    parts = []
    try:
        for split in ('trainval', 'test'):
            data = OxfordIIITPet(str(root), split, 'segmentation', download=True)
            parts.append(tuple(
                MaskedImage(Path(picture), Path(mask)) for picture, mask in zip(data._images, data._segs, strict=True)))
    except (OSError, RuntimeError) as e:
        raise UserError(
            f'Oxford-IIIT Pet cannot be had ({one_line(e)}); where there is a network, '
            f'torchvision.datasets.OxfordIIITPet({str(root)!r}, download=True) fetches it (790 MB).') from e
    # Its trimaps: 1 the animal, 2 the background, 3 the outline between them.
    coding = MaskCoding(('background', 'pet'), {1: 1, 2: 0, 3: IGNORED})
    return MaskedCollection('oxford-pet', parts[0], parts[1], coding)

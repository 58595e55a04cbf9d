"""What a segmentation network is trained on: random crops of pictures with their masks."""
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from rsq_backbone.images import read_image
from rsq_backbone.training.augmentation import Augmentation
from seg_demos.augmentation import AUGMENTATIONS, ZOOM
from seg_demos.mask_sources import MaskedImage
from seg_demos.masks import IGNORED, MaskCoding, read_mask

__all__ = ['Crops', 'crops_of_epoch', 'read_pair']

_KEPT_BYTES = 1 << 30  # of decoded pictures, so that small sets are decoded once


def read_pair(pair: MaskedImage, coding: MaskCoding) -> Tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 picture and (H, W) uint8 mask; the picture may not be written to.

    Raises:
        ImageError: if one of them cannot be read, or the mask holds what is no class.
    """
    return np.asarray(read_image(pair.picture)), read_mask(pair.mask, coding)


def crops_of_epoch(sizes: Sequence[Tuple[int, int]], crop: int, batch_size: int) -> List[int]:
    """Which picture each crop of an epoch is cut from.

    One of each picture, of large ones one for each four crops' area; all of them again until they fill a batch.

    Args:
        sizes: Of the pictures, in pixels.
        crop: Side of the crops in pixels.
        batch_size: Crops of a batch.
    """
    counts = [max(1, width * height // (4 * crop * crop)) for width, height in sizes]
    once = [index for index, count in enumerate(counts) for _ in range(count)]
    return once * -(-batch_size // len(once))


class Crops(Dataset[Tuple[torch.Tensor, torch.Tensor]]):
    """A picture (S, S, 3) uint8 and a mask (S, S) int64 by (epoch, index), cut out, zoomed and augmented at random.

    What lies beyond the border of a picture smaller than the crop is reflected, and ignored in the mask. What comes out
    depends on the seed, the epoch and the index alone.

    Args:
        pairs: Pictures and their masks.
        coding: Of the masks.
        crop: Side in pixels.
        augmentation: A name of AUGMENTATIONS.
        seed: Of all that is random.
        cut_from: Which picture each crop is cut from; by default there is one of each.
    """

    def __init__(
            self, pairs: Sequence[MaskedImage], coding: MaskCoding, crop: int, augmentation: str, seed: int,
            cut_from: Optional[Sequence[int]] = None,
    ) -> None:
        self.pairs = pairs
        self.coding = coding
        self.crop = crop
        self.seed = seed
        self.cut_from = range(len(pairs)) if cut_from is None else cut_from
        self._augmentation = Augmentation(augmentation, AUGMENTATIONS)
        self._zoom = (1.0, 1.0) if augmentation == 'none' else ZOOM
        self._kept: Dict[int, Tuple[np.ndarray, np.ndarray]] = {}
        self._room = _KEPT_BYTES

    def __len__(self) -> int:
        return len(self.cut_from)

    def __getitem__(self, key: Tuple[int, int]) -> Tuple[torch.Tensor, torch.Tensor]:
        epoch, index = key
        random = np.random.default_rng((self.seed, epoch, index))
        picture, mask = self._cut(*self._read(self.cut_from[index]), random)
        picture, mask = self._augmentation.with_mask(picture, mask, self.seed, epoch, index)
        return torch.from_numpy(picture), torch.from_numpy(mask).long()

    def _cut(
            self, picture: np.ndarray, mask: np.ndarray, random: np.random.Generator,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Copies, so that nothing done to a crop reaches the pictures kept."""
        zoom = float(np.exp(random.uniform(*np.log(self._zoom))))
        # Not so far away that the picture fills less of the crop than it might.
        zoom = max(zoom, min(self.crop / min(mask.shape), 1.0))
        spans, sizes, borders = [], [], []
        for side in mask.shape:
            span = min(round(self.crop / zoom), side)
            start = int(random.integers(side - span, endpoint=True))
            spans.append(slice(start, start + span))
            size = min(max(round(span * zoom), 1), self.crop)
            sizes.append(size)
            before = int(random.integers(self.crop - size, endpoint=True))
            borders.append((before, self.crop - size - before))
        picture, mask = picture[tuple(spans)], mask[tuple(spans)]
        if mask.shape != tuple(sizes):
            picture = cv2.resize(picture, sizes[::-1], interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
            mask = cv2.resize(mask, sizes[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        # Not albumentations' PadIfNeeded, which reflects the mask as well: the same pixels would count twice.
        return (
            np.pad(picture, [*borders, (0, 0)], 'reflect'), np.pad(mask, borders, constant_values=IGNORED))

    def _read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        if index in self._kept:
            return self._kept[index]
        picture, mask = read_pair(self.pairs[index], self.coding)
        if picture.nbytes + mask.nbytes <= self._room:
            self._room -= picture.nbytes + mask.nbytes
            self._kept[index] = picture, mask
        return picture, mask

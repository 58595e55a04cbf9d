"""What a segmentation network is trained on: random crops of pictures with their masks."""
from typing import Dict, Sequence, Tuple

import numpy as np
import torch
from torch.utils.data import Dataset

from rsq_backbone.images import read_image
from rsq_backbone.training.augmentation import Augmentation
from seg_demos.mask_sources import MaskedImage
from seg_demos.masks import IGNORED, MaskCoding, read_mask

__all__ = ['Crops', 'read_pair']

_KEPT_BYTES = 1 << 30  # of decoded pictures, so that small sets are decoded once


def read_pair(pair: MaskedImage, coding: MaskCoding) -> Tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 picture and (H, W) uint8 mask; the picture may not be written to.

    Raises:
        ImageError: if one of them cannot be read, or the mask holds what is no class.
    """
    return np.asarray(read_image(pair.picture)), read_mask(pair.mask, coding)


class Crops(Dataset[Tuple[torch.Tensor, torch.Tensor]]):
    """A picture (S, S, 3) uint8 and a mask (S, S) int64 by (epoch, index), cut out and augmented at random.

    What lies beyond the border of a picture smaller than the crop is reflected, and ignored in the mask. What comes out
    depends on the seed, the epoch and the index alone.
    """

    def __init__(
            self, pairs: Sequence[MaskedImage], coding: MaskCoding, crop: int, augmentation: str, seed: int) -> None:
        self.pairs = pairs
        self.coding = coding
        self.crop = crop
        self.seed = seed
        self._augmentation = Augmentation(augmentation)
        self._kept: Dict[int, Tuple[np.ndarray, np.ndarray]] = {}
        self._room = _KEPT_BYTES

    def __getitem__(self, key: Tuple[int, int]) -> Tuple[torch.Tensor, torch.Tensor]:
        epoch, index = key
        picture, mask = self._cut(*self._read(index), np.random.default_rng((self.seed, epoch, index)))
        picture, mask = self._augmentation.with_mask(picture, mask, self.seed, epoch, index)
        return torch.from_numpy(picture), torch.from_numpy(mask).long()

    def _cut(
            self, picture: np.ndarray, mask: np.ndarray, random: np.random.Generator,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Copies, so that nothing done to a crop reaches the pictures kept."""
        spans, borders = [], []
        for side in mask.shape:
            start = int(random.integers(max(side - self.crop, 0), endpoint=True))
            spans.append(slice(start, start + self.crop))
            lack = max(self.crop - side, 0)
            before = int(random.integers(lack, endpoint=True))
            borders.append((before, lack - before))
        # Not albumentations' PadIfNeeded, which reflects the mask as well: the same pixels would count twice.
        return (
            np.pad(picture[tuple(spans)], [*borders, (0, 0)], 'reflect'),
            np.pad(mask[tuple(spans)], borders, constant_values=IGNORED))

    def _read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        if index in self._kept:
            return self._kept[index]
        picture, mask = read_pair(self.pairs[index], self.coding)
        if picture.nbytes + mask.nbytes <= self._room:
            self._room -= picture.nbytes + mask.nbytes
            self._kept[index] = picture, mask
        return picture, mask

"""What is done at random to training pictures; albumentations does it."""
import hashlib
import os
from typing import Any, Callable, Dict, Mapping, Tuple

import numpy as np

from rsq_backbone.errors import UserError

__all__ = ['AUGMENTATIONS', 'REFLECT', 'Augmentation', 'albumentations']


def _light() -> Any:
    """For a few epochs from pretrained weights."""
    A = albumentations()
    return [A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.8)]


def _paper() -> Any:
    """The four kinds that the paper names (section 2.2): rotation, translation, brightness, flipping."""
    A = albumentations()
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(rotate=(-15, 15), translate_percent=(-0.08, 0.08), border_mode=REFLECT, p=0.8),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.0, p=0.8),
    ]


def _strong() -> Any:
    """For many epochs: zoom, contrast, colour and small missing patches on top."""
    A = albumentations()
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(rotate=(-15, 15), translate_percent=(-0.08, 0.08), scale=(0.85, 1.3), border_mode=REFLECT, p=0.9),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.8),
        A.HueSaturationValue(hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.5),
        A.CoarseDropout(num_holes_range=(1, 3), hole_height_range=(0.08, 0.2), hole_width_range=(0.08, 0.2), p=0.3),
    ]


def albumentations() -> Any:
    """The library."""
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')  # it would ask the network for a newer version of itself
    import albumentations

    return albumentations


REFLECT = 4  # cv2.BORDERREFLECT_101: no black corners for the network to notice
AUGMENTATIONS: Dict[str, Callable[[], Any]] = {
    'none': list, 'light': _light, 'paper': _paper, 'strong': _strong,
}


class Augmentation:
    """RGB picture (H, W, 3) uint8 -> the same shape, changed at random but the same for the same seed."""

    def __init__(self, name: str, choices: Mapping[str, Callable[[], Any]] = AUGMENTATIONS) -> None:
        if name not in choices:
            raise UserError(f'unknown augmentation {name!r}; choose one of {", ".join(choices)}.')
        self.name = name
        self._transform = albumentations().Compose(choices[name]())

    def __call__(self, picture: np.ndarray, *seed: int) -> np.ndarray:
        return self._seeded(seed)(image=picture)['image']

    def with_mask(self, picture: np.ndarray, mask: np.ndarray, *seed: int) -> Tuple[np.ndarray, np.ndarray]:
        """The same for a picture and its mask (H, W) together."""
        changed = self._seeded(seed)(image=picture, mask=mask)
        return changed['image'], changed['mask']

    def _seeded(self, seed: Tuple[int, ...]) -> Any:
        # Of the picture and the epoch alone, so that neither workers nor processes nor a resumed run change it.
        digest = hashlib.blake2b(repr(seed).encode(), digest_size=4).digest()
        self._transform.set_random_seed(int.from_bytes(digest, 'big'))
        return self._transform

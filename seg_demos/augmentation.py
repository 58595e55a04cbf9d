"""What is done at random to crops and their masks."""
from typing import Any, Callable, Dict

from rsq_backbone.training.augmentation import REFLECT, albumentations

__all__ = ['AUGMENTATIONS', 'ZOOM']

ZOOM = (0.5, 2.0)  # the usual range (DeepLabV3, section 4; PSPNet, section 5.1); of `none` there is none


def _light() -> Any:
    # Brightness by the picture's own mean: a share of white, as is usual, would drown microscopy and night pictures,
    # whose mask then asks for what is not to be seen any more. For the same reason no gamma.
    A = albumentations()
    return [
        A.HorizontalFlip(p=0.5),
        A.RandomBrightnessContrast(0.2, 0.3, brightness_by_max=False, p=0.8),
        # Up to three grey levels, a noisier camera's: zoomed crops are smoother than any picture as it was taken, and
        # a network that saw nothing else takes the grain of a dim picture for objects.
        A.GaussNoise((0, 0.012), per_channel=False, p=0.5),
    ]


def _strong() -> Any:
    """For many epochs."""
    A = albumentations()
    return [
        *_light(),
        A.Affine(rotate=(-15, 15), border_mode=REFLECT, p=0.5),
        A.HueSaturationValue(hue_shift_limit=8, sat_shift_limit=20, val_shift_limit=0, p=0.5),
        A.GaussianBlur(sigma_limit=(0.2, 1.0), p=0.2),
    ]


AUGMENTATIONS: Dict[str, Callable[[], Any]] = {'none': list, 'light': _light, 'strong': _strong}

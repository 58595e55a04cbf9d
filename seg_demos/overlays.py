"""Masks in colour."""
from typing import List, Tuple

import numpy as np

__all__ = ['overlay', 'palette']


def palette(count: int) -> List[Tuple[int, int, int]]:
    """A colour for each of `count` classes, as PASCAL VOC numbers them; class 0 is black."""
    colours = []
    for index in range(count):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (index >> channel & 1) << 7 - bit
            index >>= 3
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours


def overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: a picture (H, W, 3) uint8, tinted by class where the mask (H, W) uint8 is not 0."""
    colours = np.array(palette(256), np.uint8)[mask]
    return np.where(mask[..., None] > 0, picture // 2 + colours // 2, picture)

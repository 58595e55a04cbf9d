"""Class masks as people see them: laid over their pictures in colour."""
import colorsys
from typing import List, Tuple

import numpy as np

from seg_demos.masks import IGNORED

__all__ = ['HATCHING', 'MISSED', 'OTHER_CLASS', 'TOO_MUCH', 'error_map', 'overlay', 'palette']

Colour = Tuple[int, int, int]

# Class 0 is the background as a rule. The seven after it are Okabe and Ito's; each of the others is the colour farthest
# from all before it, from grey and from white, to eyes with all cones, without the green ones, or without the red ones.
_COLOURS: Tuple[Colour, ...] = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167), (0, 0, 255), (165, 240, 150), (135, 30, 15), (105, 105, 255), (105, 45, 90), (60, 45, 165),
    (75, 180, 90), (165, 210, 180), (120, 60, 60), (105, 150, 255), (165, 225, 255), (180, 255, 120), (45, 45, 210))
HATCHING: Tuple[Colour, Colour] = ((190, 190, 190), (90, 90, 90))  # of ignored pixels

# Of error maps. Where a pixel of class 0 is the background, these are what is missed, what is too much, and what is
# seen but taken for something else.
MISSED: Colour = (86, 180, 233)
TOO_MUCH: Colour = (213, 94, 0)
OTHER_CLASS: Colour = (240, 228, 66)

_STRIP = 256  # rows that are worked on at a time, so that a picture of 100 million pixels is not held as floats


def palette(count: int) -> List[Colour]:
    """RGB of the classes 0 .. count - 1, at most 255: black, twenty that the colour-blind tell apart, and others.

    A class has the same colour whatever the number of classes.
    """
    colours = list(_COLOURS[:count])
    for i in range(count - len(colours)):
        # Steps of the golden ratio never come back to a hue.
        shares = colorsys.hsv_to_rgb(0.618034 * i % 1, (0.9, 0.6, 0.75)[i % 3], (0.95, 0.75, 0.55)[i // 3 % 3])
        colours.append((round(255 * shares[0]), round(255 * shares[1]), round(255 * shares[2])))
    return colours


def overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture tinted and outlined in the colours of `palette`.

    Class 0 has no tint, only a black line where another class begins, so that objects are seen on any ground. Ignored
    pixels are hatched in grey.

    Args:
        picture: RGB, (H, W, 3) uint8.
        mask: (H, W) uint8, classes or IGNORED.

    Returns:
        RGB, (H, W, 3) uint8.
    """
    import cv2

    table = np.array([*palette(IGNORED), HATCHING[0]], np.uint8)
    line = _line_width(mask)
    laid = picture.copy()
    for top in range(0, len(mask), _STRIP):
        # With the neighbours above and below that decide whether a pixel lies on an outline.
        first, end = max(0, top - line), min(len(mask), top + _STRIP)
        inside = slice(top - first, end - first)
        strip = mask[first:min(len(mask), end + line)]
        part, own = laid[top:end], strip[inside]
        colours = table[own]
        np.copyto(part, cv2.addWeighted(part, 0.6, colours, 0.4, 0), where=(own != 0)[..., None])
        np.copyto(part, colours, where=_outline(strip, line)[inside, :, None])
        _hatch(part, own == IGNORED, 4 * line, top)
    return laid


def error_map(picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Where a prediction is wrong, in colour on the darkened grey picture.

    Args:
        picture: RGB, (H, W, 3) uint8.
        truth: (H, W) uint8, classes or IGNORED; what is ignored is hatched in grey.
        prediction: (H, W) uint8, classes.

    Returns:
        RGB, (H, W, 3) uint8.
    """
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)
    shown = np.repeat((0.5 * grey).astype(np.uint8)[..., None], 3, axis=2)
    wrong = (truth != prediction) & (truth != IGNORED)
    shown[wrong] = OTHER_CLASS
    shown[wrong & (prediction == 0)] = MISSED
    shown[wrong & (truth == 0)] = TOO_MUCH
    _hatch(shown, truth == IGNORED, 4 * _line_width(truth))
    return shown


def _line_width(mask: np.ndarray) -> int:
    """In pixels; large pictures are looked at from afar."""
    return 1 + max(mask.shape) // 350


def _outline(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels that have another class `width` pixels or nearer above, below, left or right."""
    import cv2

    outline = np.zeros(mask.shape, bool)
    for shape in ((2 * width + 1, 1), (1, 2 * width + 1)):
        kernel = np.ones(shape, np.uint8)
        for extreme in (cv2.dilate, cv2.erode):  # the highest and the lowest class around
            outline |= extreme(mask, kernel) != mask
    return outline


def _hatch(picture: np.ndarray, places: np.ndarray, width: int, top: int = 0) -> None:
    """Slanted stripes of grey over these places; `top` is the picture's row in a larger one."""
    rows, columns = np.nonzero(places)
    picture[rows, columns] = np.array(HATCHING, np.uint8)[(rows + top + columns) // width % 2]

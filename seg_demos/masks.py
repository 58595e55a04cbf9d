"""From a mask file to the class of each pixel."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

import numpy as np

from rsq_backbone.errors import UserError
from rsq_backbone.images import ImageError, opened_image

__all__ = ['IGNORED', 'MaskCoding', 'read_class_names', 'read_colour_map', 'read_mask', 'read_values']

IGNORED = 255  # of a decoded mask: a pixel that neither trains nor counts
Colour = Tuple[int, int, int]


@dataclass(frozen=True)
class MaskCoding:
    """Which class a pixel of a mask file is of, by its value or its colour."""

    classes: Tuple[str, ...]
    values: Mapping[int, int] = field(default_factory=dict)  # pixel value -> class or IGNORED
    colours: Optional[Mapping[Colour, int]] = None  # instead of values, for masks that are painted


def read_mask(path: Path, coding: MaskCoding) -> np.ndarray:
    """(H, W) uint8: the class of each pixel, or IGNORED.

    Raises:
        ImageError: if the file cannot be read, or holds values or colours that are no class.
    """
    raw = read_values(path)
    if coding.colours is not None:
        if raw.ndim == 2:  # a painted mask may have been saved with a palette; its colours are what counts
            raw = _painted(path)
        raw = raw.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
        table = {(r << 16) + (g << 8) + b: index for (r, g, b), index in coding.colours.items()}
    else:
        if raw.ndim == 3:
            raise ImageError(
                f'{path}: a painted mask; say with --colour-map which colour is which class, or save class numbers.')
        table = dict(coding.values)
    found, places = np.unique(raw, return_inverse=True)
    unknown = [value for value in found.tolist() if value not in table]
    if unknown:
        shown = [str((value >> 16, value >> 8 & 255, value & 255)) if coding.colours is not None else str(value)
                 for value in unknown[:5]]
        what = 'colours' if coding.colours is not None else 'values'
        raise ImageError(
            f'{path}: {what} that are no class: {", ".join(shown)}{" ..." if len(unknown) > 5 else ""}; there are '
            f'{len(coding.classes)} classes. Mend the mask, or name all classes.')
    return np.array([table[value] for value in found.tolist()], np.uint8)[places].reshape(raw.shape)


def read_values(path: Path) -> np.ndarray:
    """What a mask file holds: numbers (H, W), a palette's included, or colours (H, W, 3).

    A grey picture that was saved in colour comes as numbers.

    Raises:
        ImageError: if the file cannot be read, or is a JPEG file.
    """
    with opened_image(path) as (_, image):
        if image.format == 'JPEG':
            raise ImageError(f'{path}: JPEG smears the classes of a mask into each other; save it as PNG.')
        if image.mode == 'F':
            raise ImageError(f'{path}: fractions are no class numbers; save them as whole numbers.')
        if image.mode in ('1', 'L', 'P') or image.mode.startswith('I'):
            return np.asarray(image).astype(np.int64)
        pixels = np.asarray(image.convert('L') if image.mode in ('LA', 'La') else image.convert('RGB'))
        if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        return pixels.astype(np.int64) if pixels.ndim == 2 else pixels


def _painted(path: Path) -> np.ndarray:
    with opened_image(path) as (_, image):
        return np.asarray(image.convert('RGB'))


def read_class_names(file: Path) -> Tuple[str, ...]:
    """One name a line; the first is class 0.

    Raises:
        UserError: if the file cannot be read, or holds no names or one twice.
    """
    names = tuple(line for line in _lines(file) if line)
    if not names or len(set(names)) < len(names):
        raise UserError(f'{file}: one name a line is needed, the first for class 0, and each only once.')
    return names


def read_colour_map(file: Path) -> Tuple[Tuple[str, ...], Dict[Colour, int]]:
    """A class a line, its name and its colour in either order: `sky 128 128 128`, or as CamVid has it.

    Raises:
        UserError: if the file cannot be read, or a line is none of this.
    """
    names: List[str] = []
    colours: Dict[Colour, int] = {}
    for number, line in enumerate(_lines(file), 1):
        words = line.replace(',', ' ').split()
        if not words:
            continue
        first = words[0].isdecimal()
        name = ' '.join(words[3:] if first else words[:-3])
        digits = words[:3] if first else words[-3:]
        if not name or not all(d.isdecimal() and int(d) < 256 for d in digits):
            raise UserError(f'{file}, line {number}: a class name and three numbers of 0 .. 255 are needed.')
        colour = int(digits[0]), int(digits[1]), int(digits[2])
        if colour in colours:
            raise UserError(f'{file}, line {number}: the colour of {names[colours[colour]]} again.')
        if name not in names:  # a class may have several colours
            names.append(name)
        colours[colour] = names.index(name)
    if not names:
        raise UserError(f'{file}: no classes; write one a line, such as `sky 128 128 128`.')
    return tuple(names), colours


def _lines(file: Path) -> List[str]:
    try:
        if file.stat().st_size > 1 << 20:
            raise UserError(f'{file}: too large for a list of classes.')
        return [line.strip() for line in file.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f'{file} cannot be read as text ({type(e).__name__}); check the path.') from e

"""From a mask file to the class of each pixel."""
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageOps

from rsq_backbone.errors import UserError
from rsq_backbone.files import sha256_of
from rsq_backbone.images import ImageError, opened_image
from rsq_backbone.printable import UNPRINTABLE

__all__ = [
    'IGNORED', 'MAX_CLASSES', 'Colour', 'MaskCoding', 'MaskContent', 'inspect_mask', 'is_ignored_name',
    'read_class_names', 'read_colour_map', 'read_mask', 'refuse_unknown',
]

IGNORED = 255  # of a decoded mask: a pixel that neither trains nor counts
MAX_CLASSES = IGNORED
Colour = Tuple[int, int, int]

_IGNORED_NAMES = ('ignore', 'ignored', 'void', 'unlabelled', 'unlabeled')
_STRIP = 1 << 20  # pixels that are looked at together: beside a mask of any size, a few megabytes
_MOST_VALUES = 4096  # of one mask; a photograph has more colours, and no data set as many classes


@dataclass(frozen=True)
class MaskCoding:
    """Which class a pixel of a mask file is of, by its value or its colour.

    Classes are numbered as the network's outputs are, without gaps; IGNORED stands for none.
    """

    classes: Tuple[str, ...]
    values: Mapping[int, int] = field(default_factory=dict)  # pixel value -> class or IGNORED
    colours: Optional[Mapping[Colour, int]] = None  # instead of values, for masks that are painted

    @property
    def painted(self) -> bool:
        return self.colours is not None

    @property
    def table(self) -> Dict[int, int]:
        """Class or IGNORED by value or, of painted masks, by 65536 R + 256 G + B."""
        if self.colours is None:
            return dict(self.values)
        return {(r << 16) + (g << 8) + b: index for (r, g, b), index in self.colours.items()}


@dataclass(frozen=True)
class MaskContent:
    size: Tuple[int, int]  # width and height in pixels
    counts: Mapping[int, int]  # pixels by value or, of a painted mask, by 65536 R + 256 G + B
    palette: Mapping[int, Colour]  # the colours of these values, if the file has a palette
    sha256: str  # of the file's bytes, hexadecimal


def read_mask(path: Path, coding: MaskCoding) -> np.ndarray:
    """(H, W) uint8: the class of each pixel, or IGNORED.

    Transparency is passed over, and EXIF orientation applied. A 1-bit file holds 0 and 1.

    Raises:
        ImageError: if the file cannot be read, or holds values or colours that are no class.
    """
    table = coding.table
    known = np.array(sorted(table))
    classes = np.array([table[value] for value in known.tolist()], np.uint8)
    by_byte = np.full(256, -1, np.int16)
    for value, index in table.items():
        if 0 <= value < 256:
            by_byte[value] = index
    decoded = []
    for strip in _strips(path, coding.painted):
        if strip.dtype == np.uint8:
            found = by_byte[strip]
            right = found >= 0
        else:
            places = np.searchsorted(known, strip).clip(max=len(known) - 1)
            found, right = classes[places], known[places] == strip
        if not right.all():
            refuse_unknown(path, np.unique(strip[~right]).tolist(), coding)
        decoded.append(found.astype(np.uint8))
    return np.concatenate(decoded)


def inspect_mask(path: Path, painted: bool) -> MaskContent:
    """What a mask holds, whichever classes that may be.

    Raises:
        ImageError: if the file cannot be read, is painted though it should hold numbers, or holds more values or
            colours than masks do.
    """
    counts: Counter[int] = Counter()
    height = width = 0
    for strip in _strips(path, painted):
        height, width = height + len(strip), strip.shape[1]
        if strip.dtype == np.uint8:
            each = np.bincount(strip.ravel(), minlength=256)
            found = np.flatnonzero(each)
            counts.update(dict(zip(found.tolist(), each[found].tolist(), strict=True)))
        else:
            values, numbers = np.unique(strip, return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        if len(counts) > _MOST_VALUES:
            what = 'colours' if painted else 'values'
            raise ImageError(f'{path}: more than {_MOST_VALUES} {what}, as a photograph or smoothed edges have; save '
                             'the mask anew with one for each class.')
    with opened_image(path) as (file, image):
        palette = {} if painted else _palette(image, counts)
        return MaskContent((width, height), dict(counts), palette, sha256_of(file))


def refuse_unknown(path: Path, values: Sequence[int], coding: MaskCoding) -> None:
    """Raise the ImageError that names values or colours which are no class."""
    if coding.painted:
        what = 'colours that are not in the colour map: ' + _some(
            str((value >> 16, value >> 8 & 255, value & 255)) for value in values)
        mend = 'add them to it, or repaint them, without smoothing the edges'
    else:
        what = f'values that are no class: {_some(map(str, values))}; known are {_spans(coding.values)}'
        mend = 'mend the mask, or name all classes: by number with --class-names, by shade of grey with --colour-map'
    raise ImageError(f'{path}: {what}; {mend}.')


def _some(words: Iterable[str]) -> str:
    listed = list(words)
    return ', '.join(listed[:5]) + (f' and {len(listed) - 5} more' if len(listed) > 5 else '')


def _spans(values: Iterable[int]) -> str:
    """`0 .. 11, 255` for all of these numbers."""
    spans: List[List[int]] = []
    for value in sorted(values):
        if spans and value == spans[-1][-1] + 1:
            spans[-1][1:] = [value]
        else:
            spans.append([value])
    return ', '.join(' .. '.join(map(str, span)) for span in spans)


def _strips(path: Path, painted: bool) -> Iterator[np.ndarray]:
    """The mask from top to bottom, (h, W) each: numbers as they are stored, a palette's included, or uint32 colours.

    A grey mask that was saved in colour gives numbers.
    """
    with opened_image(path) as (_, image):
        if image.format in ('JPEG', 'MPO') or 'jpeg' in str(image.info.get('compression')):  # which TIFF may hold
            raise ImageError(f'{path}: JPEG smears the classes of a mask into each other; save it as PNG.')
        if image.mode == 'F':
            raise ImageError(f'{path}: fractions are no class numbers; save them as whole numbers.')
        if painted and image.mode.startswith('I'):
            raise ImageError(f'{path}: 16 or 32 bits of grey are no colours; save it in 8-bit colour, or leave out '
                             '--colour-map.')
        ImageOps.exif_transpose(image, in_place=True)  # else a copy, of large masks a costly one
        image = _with_bands(image, painted)
        width, height = image.size
        rows = max(1, _STRIP // width)
        for top in range(0, height, rows):
            strip = np.asarray(image.crop((0, top, width, min(top + rows, height))))
            if painted:
                red, green, blue = (strip[..., channel].astype(np.uint32) for channel in range(3))
                yield (red << 16) + (green << 8) + blue
            elif strip.ndim == 3:
                if (strip != strip[..., :1]).any():
                    raise ImageError(f'{path}: a painted mask; say with --colour-map which colour is which class, or '
                                     'save class numbers.')
                yield strip[..., 0]
            else:
                yield strip.astype(np.uint8) if strip.dtype == bool else strip


def _with_bands(image: Image.Image, painted: bool) -> Image.Image:
    if not painted and image.mode in ('LA', 'La', 'PA'):
        return image.getchannel(0)
    if image.mode == 'RGB' or (not painted and (image.mode in ('1', 'L', 'P') or image.mode.startswith('I'))):
        return image
    return image.convert('RGB')


def _palette(image: Image.Image, values: Iterable[int]) -> Dict[int, Colour]:
    colours = image.getpalette('RGB') if image.mode == 'P' else None
    if colours is None:
        return {}
    return {value: (colours[3 * value], colours[3 * value + 1], colours[3 * value + 2])
            for value in values if 3 * value + 2 < len(colours)}


def is_ignored_name(name: str) -> bool:
    """Whether a class of that name stands for pixels that are of no class: void, unlabelled or ignore."""
    return name.strip(' _').lower() in _IGNORED_NAMES


def read_class_names(file: Path) -> Tuple[str, ...]:
    """One name a line; the first is for mask value 0. Empty lines and those that begin with # do not count.

    Raises:
        UserError: if the file cannot be read, or holds no names, one twice, or more than a mask can tell apart.
    """
    names = tuple(name for _, name in _lines(file))
    if not names or len(set(names)) < len(names):
        raise UserError(f'{file}: one name a line is needed, the first for mask value 0, and each only once.')
    _check_number(file, len(names))
    return names


def read_colour_map(file: Path) -> Tuple[Tuple[str, ...], Dict[Colour, int]]:
    """Class names, and the class of each colour or IGNORED.

    A class a line, its name and its colour in either order (`sky 128 128 128`; CamVid's label_colors.txt, also with
    commas or as CVAT's labelmap.txt). A class may have several colours, and those named void, unlabelled or ignore are
    IGNORED.

    Raises:
        UserError: if the file cannot be read, or a line is none of this.
    """
    names: List[str] = []
    colours: Dict[Colour, int] = {}
    owners: Dict[Colour, str] = {}
    for row, (number, line) in enumerate(_lines(file)):
        words = line.translate(_SEPARATORS).split()
        if row == 0 and [word.lower() for word in words] in (['name', 'r', 'g', 'b'], ['r', 'g', 'b', 'name']):
            continue
        name, colour = _named_colour(words)
        if not name:
            raise UserError(f'{file}, line {number}: a class name and three numbers of 0 .. 255 are needed.')
        if colour in owners:
            raise UserError(f'{file}, line {number}: the colour of {owners[colour]} again; give each class its own.')
        owners[colour] = name
        if is_ignored_name(name):
            colours[colour] = IGNORED
            continue
        if name not in names:
            names.append(name)
        colours[colour] = names.index(name)
    if not names:
        raise UserError(f'{file}: no classes; write one a line, such as `sky 128 128 128`.')
    _check_number(file, len(names))
    return tuple(names), colours


_SEPARATORS = str.maketrans(',;:', '   ')


def _named_colour(words: Sequence[str]) -> Tuple[str, Colour]:
    """No name where there is none, or no colour."""
    for digits, rest in ((words[:3], words[3:]), (words[-3:], words[:-3])):
        if len(digits) == 3 and rest and all(d.isdecimal() and int(d) < 256 for d in digits):
            return ' '.join(rest), (int(digits[0]), int(digits[1]), int(digits[2]))
    return '', (0, 0, 0)


def _check_number(file: Path, count: int) -> None:
    if count > MAX_CLASSES:
        raise UserError(f'{file}: {count} classes; name at most {MAX_CLASSES}.')


def _lines(file: Path) -> List[Tuple[int, str]]:
    """Those that say something, with their numbers."""
    try:
        if file.stat().st_size > 1 << 20:
            raise UserError(f'{file}: too large for a list of classes; check the path.')
        text = file.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f'{file}: cannot be read as text ({type(e).__name__}); check the path, and save the file as '
                        'UTF-8.') from None
    lines = [(number, ' '.join(line.split())) for number, line in enumerate(text.splitlines(), 1)]
    for number, line in lines:
        if UNPRINTABLE.search(line):
            raise UserError(f'{file}, line {number}: holds control characters; name a text file.')
    return [(number, line) for number, line in lines if line and not line.startswith('#')]

"""From an image file that may be anything to an RGB picture."""
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Iterator, List, Tuple

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import sha256_of

__all__ = ['CONVERSIONS', 'ImageError', 'ImageFacts', 'inspect_image', 'list_images', 'opened_image', 'read_image']

IMAGE_SUFFIXES = frozenset({
    '.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp'})
# Whatever a file is called, Pillow would else hand PostScript to Ghostscript.
_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')
MIN_SIDE = 8
MAX_PIXELS = 100_000_000
# The shorter side is scaled to the network's input, so a picture narrower than this would grow without bound.
MAX_ASPECT = 50
# How a file may differ from an upright 8-bit RGB picture, and what is done about it.
CONVERSIONS = {
    'grey': 'repeated in three channels',
    '16-bit or float': 'scaled to 8 bit',
    'palette': 'colours looked up in it',
    'CMYK': 'converted to RGB',
    'transparent': 'laid on white',
    'EXIF-rotated': 'turned upright',
    'several frames': 'only the first is used',
}


class ImageError(UserError):
    """A picture that cannot be used."""


@dataclass(frozen=True)
class ImageFacts:
    size: Tuple[int, int]  # width and height in pixels, upright
    conversions: Tuple[str, ...]  # those of CONVERSIONS that it needs
    single_coloured: bool
    sha256: str  # of the file's bytes, hexadecimal


def list_images(folder: Path) -> List[Path]:
    """Files directly in `folder` that are named like pictures, in alphabetical order."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)


def read_image(path: Path) -> Image.Image:
    """Read one picture as 8-bit RGB, upright.

    Grey, 16-bit, palette, CMYK and animated (first frame) files are converted, transparency is laid on white, and the
    camera's EXIF orientation is applied.

    Raises:
        ImageError: if the file is missing, empty, truncated, not an image, too small, too narrow or too large.
    """
    with opened_image(Path(path)) as (_, image):
        return _to_rgb(ImageOps.exif_transpose(image))


def inspect_image(path: Path) -> ImageFacts:
    """What `read_image` finds in a file, which is read and decoded once for all of it.

    Raises:
        ImageError: where `read_image` would.
    """
    with opened_image(Path(path)) as (file, image):
        # Asked first, as Pillow turns a TIFF upright and forgets the tag while it decodes.
        rotated = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        picture = _to_rgb(ImageOps.exif_transpose(image))
        needs = {
            'grey': image.mode in ('1', 'L', 'LA', 'La') or _is_deep(image),
            '16-bit or float': _is_deep(image),
            'palette': image.mode in ('P', 'PA'),
            'CMYK': image.mode == 'CMYK',
            'transparent': _is_transparent(image),
            'EXIF-rotated': rotated,
            'several frames': _has_more_frames(image),
        }
        return ImageFacts(
            size=picture.size,
            conversions=tuple(kind for kind in CONVERSIONS if needs[kind]),
            single_coloured=all(low == high for low, high in picture.getextrema()),  # type: ignore[misc]
            sha256=sha256_of(file),
        )


@contextmanager
def opened_image(path: Path) -> Iterator[Tuple[BinaryIO, Image.Image]]:
    """The file and its picture, not yet decoded.

    Raises:
        ImageError: where `read_image` would, and for whatever goes wrong in the block.
    """
    try:
        if path.is_dir():
            raise ImageError(f'{path}: is a folder; name the pictures in it.')
        if path.stat().st_size == 0:
            raise ImageError(f'{path}: the file is empty; copy or download it again.')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of damaged metadata; what matters is whether the pixels decode
            with path.open('rb') as file, Image.open(file, formats=_FORMATS) as image:
                _check_size(path, image.size)
                yield file, image
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f'{path}: no such file; check the path.') from None
    except PermissionError:
        raise ImageError(f'{path}: may not be read; check its permissions.') from None
    except UnidentifiedImageError:
        raise ImageError(f'{path}: not an image, or of a kind not known here; convert it to JPEG or PNG.') from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except Exception as e:  # on damaged files decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise ImageError(f'{path}: damaged image ({one_line(e)}); copy or download it again.') from None


def _too_large(path: Path) -> ImageError:
    return ImageError(f'{path}: more than {MAX_PIXELS // 1_000_000} million pixels; scale it down first.')


def _check_size(path: Path, size: Tuple[int, int]) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise ImageError(f'{path}: too small ({width} x {height} pixels); use {MIN_SIDE} x {MIN_SIDE} or more.')
    if width * height > MAX_PIXELS:
        raise _too_large(path)
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(f'{path}: too narrow ({width} x {height} pixels); crop it to at most {MAX_ASPECT} : 1.')


def _to_rgb(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        image = _to_8_bit(image)
    if _is_transparent(image):
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, (255, 255, 255, 255)), image)
    return image.convert('RGB')


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith('I') or image.mode == 'F'


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return getattr(image, 'is_animated', False)
    except Exception:  # of a GIF the second frame is looked for only now; there is one, though damaged
        return True


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Integer and float grey, which Pillow's own conversion would clip at 255 instead of scaling.

    Such files do not say what white is; take the smallest of 1.0 (float only), 8 and 16 bit that holds the values.
    """
    values = image.convert('F')
    high = float(values.getextrema()[1])  # type: ignore[arg-type]
    white = 65535.0
    if image.mode == 'F' and high <= 1.0:
        white = 1.0
    elif not image.mode.startswith('I;16') and high <= 255.0:
        white = 255.0
    return values.point(lambda v: v * (255.0 / max(white, high))).convert('L')

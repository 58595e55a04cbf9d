"""From an image file that may be anything to an RGB picture."""
import warnings
from pathlib import Path
from typing import List

from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ['ImageError', 'list_images', 'read_image']

IMAGE_SUFFIXES = frozenset({'.bmp', '.gif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp'})
MIN_SIDE = 8
MAX_PIXELS = 100_000_000
# The shorter side is scaled to the network's input, so a picture this narrow would grow without bound.
MAX_ASPECT = 50


class ImageError(ValueError):
    """A picture that cannot be used; its message is one line that names the file and says how to mend it."""


def list_images(folder: Path) -> List[Path]:
    """Files directly in `folder` that are named like pictures, in alphabetical order."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)


def read_image(path: Path) -> Image.Image:
    """Read one picture as 8-bit RGB, upright.

    Grey, 16-bit, palette, CMYK and animated (first frame) files are converted, transparency is laid on white,
    and the camera's EXIF orientation is applied.

    Raises:
        ImageError: if the file is missing, empty, truncated, not an image, too small, too narrow or too large.
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f'{path}: no such file; check the path.')
    if path.is_dir():
        raise ImageError(f'{path}: is a folder; name the picture in it.')
    try:
        if path.stat().st_size == 0:
            raise ImageError(f'{path}: the file is empty; copy or download it again.')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of damaged metadata; what matters is whether the pixels decode
            with Image.open(path) as image:
                _check_size(path, image.size)
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except PermissionError:
        raise ImageError(f'{path}: may not be read; check its permissions.') from None
    except (UnidentifiedImageError, Image.DecompressionBombError) as e:
        if isinstance(e, Image.DecompressionBombError):
            raise ImageError(_too_large(path)) from None
        raise ImageError(f'{path}: not an image (or of a kind not known here); convert it to JPEG or PNG.') from None
    except ImageError:
        raise
    except Exception as e:  # decoders raise what they like on damaged files: OSError, SyntaxError, struct.error, ...
        reason = ' '.join(str(e).split()) or type(e).__name__
        raise ImageError(f'{path}: damaged image ({reason}); copy or download it again.') from None


def _too_large(path: Path) -> str:
    return f'{path}: more than {MAX_PIXELS // 1_000_000} million pixels; scale it down first.'


def _check_size(path: Path, size: 'tuple[int, int]') -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise ImageError(f'{path}: too small ({width} x {height} pixels); use a picture of {MIN_SIDE} x {MIN_SIDE} or more.')
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(path))
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(f'{path}: too narrow ({width} x {height} pixels); crop it to at most {MAX_ASPECT} : 1.')


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I') or image.mode == 'F':
        # 16-bit grey (kept by Pillow in an integer mode); convert() would clip it at 255 instead of scaling it.
        low, high = image.getextrema()
        if image.mode.startswith('I;16') or high > 255:
            image = image.convert('I').point(lambda v: v * (1 / 257)).convert('L')
        elif image.mode == 'F' and high <= 1.0 and low >= 0.0:
            image = image.point(lambda v: v * 255.0).convert('L')
    if image.mode in ('LA', 'La', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, (255, 255, 255, 255)), image)
    return image.convert('RGB')

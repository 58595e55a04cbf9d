import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rsq_backbone.images import ImageError, list_images, read_image


def save(path, array, mode=None, **kwargs):
    Image.fromarray(array, mode=mode).save(path, **kwargs)
    return path


def gradient(height=40, width=60):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 5, columns * 4, rows + columns], axis=-1).astype(np.uint8)


def pixels(path):
    image = read_image(path)
    assert image.mode == 'RGB'
    return np.asarray(image)


def test_rgb_png_is_read_exactly(tmp_path):
    path = save(tmp_path / 'a.png', gradient())
    np.testing.assert_array_equal(pixels(path), gradient())


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = gradient()[..., 0]
    np.testing.assert_array_equal(pixels(save(tmp_path / 'a.png', grey)), np.repeat(grey[..., None], 3, axis=2))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    read = pixels(save(tmp_path / 'a.png', grey))
    np.testing.assert_allclose(read[..., 0], grey / 257, atol=1)  # 65535 / 255 = 257


@pytest.mark.parametrize(('dtype', 'white'), [(np.int32, 65535), (np.float32, 1.0), (np.float32, 255.0)])
def test_integer_and_float_tiff_are_scaled(tmp_path, dtype, white):
    values = (np.linspace(0, 1, 40 * 60) * white).reshape(40, 60).astype(dtype)
    read = pixels(save(tmp_path / 'a.tiff', values))
    np.testing.assert_allclose(read[..., 0], values / white * 255, atol=1)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[:, 30:, 3] = 255  # right half black, left half invisible
    read = pixels(save(tmp_path / 'a.png', rgba))
    assert (read[:, :30] == 255).all()
    assert (read[:, 30:] == 0).all()


def test_palette_with_transparent_colour_is_laid_on_white(tmp_path):
    image = Image.new('P', (60, 40), 0)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.paste(1, (0, 0, 30, 40))
    image.save(tmp_path / 'a.png', transparency=0)
    read = pixels(tmp_path / 'a.png')
    assert tuple(read[0, 0]) == (200, 0, 0)
    assert tuple(read[0, 59]) == (255, 255, 255)


def test_cmyk_jpeg_has_the_right_colours(tmp_path):
    cmyk = np.zeros((40, 60, 4), np.uint8)
    cmyk[:, :30, 1] = cmyk[:, :30, 2] = 255  # magenta and yellow ink make red; no ink leaves white paper
    path = save(tmp_path / 'a.jpg', cmyk, mode='CMYK', quality=95)
    read = pixels(path).astype(int)
    assert np.abs(read[:, :20] - [255, 0, 0]).max() < 30
    assert np.abs(read[:, 40:] - 255).max() < 10


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise to show
    image.save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / 'a.png'), np.rot90(gradient(), -1))


def test_animation_gives_its_first_frame(tmp_path):
    red, blue = (Image.new('RGB', (60, 40), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    red.save(tmp_path / 'a.gif', save_all=True, append_images=[blue])
    assert tuple(pixels(tmp_path / 'a.gif')[0, 0]) == (255, 0, 0)


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""
    ihdr = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    idat = b'IDAT' + zlib.compress(b'')
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk)) for chunk in (ihdr, idat))


@pytest.fixture
def hostile(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)).save(tmp_path / 'whole.jpg')
    Image.open(tmp_path / 'whole.jpg').save(tmp_path / 'whole.png')
    for kind in ('jpg', 'png'):
        data = (tmp_path / f'whole.{kind}').read_bytes()
        (tmp_path / f'truncated.{kind}').write_bytes(data[:len(data) // 2])
    (tmp_path / 'empty.jpg').touch()
    (tmp_path / 'text.jpg').write_text('this is no picture')
    (tmp_path / 'bomb.png').write_bytes(png_header(60_000, 60_000))
    (tmp_path / 'large.png').write_bytes(png_header(12_000, 10_000))
    Image.new('RGB', (7, 100)).save(tmp_path / 'small.png')
    Image.new('RGB', (1000, 10)).save(tmp_path / 'narrow.png')
    (tmp_path / 'folder.jpg').mkdir()
    return tmp_path


@pytest.mark.parametrize(('name', 'says'), [
    ('missing.jpg', 'no such file'),
    ('empty.jpg', 'empty'),
    ('text.jpg', 'not an image'),
    ('truncated.jpg', 'damaged'),
    ('truncated.png', 'damaged'),
    ('bomb.png', 'million pixels'),
    ('large.png', 'million pixels'),
    ('small.png', 'too small'),
    ('narrow.png', 'too narrow'),
    ('folder.jpg', 'is a folder'),
])
def test_unusable_files_are_refused_in_one_line_that_names_them(hostile, name, says):
    with pytest.raises(ImageError, match=says) as raised:
        read_image(hostile / name)
    message = str(raised.value)
    assert message.startswith(str(hostile / name))
    assert '\n' not in message
    assert ';' in message  # what is wrong; how to mend it


def test_every_truncation_is_refused_or_read_whole(hostile):
    """Cut a PNG anywhere: never an exception of another kind, never a picture of other pixels."""
    data = (hostile / 'whole.png').read_bytes()
    whole = pixels(hostile / 'whole.png')
    for cut in range(0, len(data), len(data) // 40):
        (hostile / 'cut.png').write_bytes(data[:cut])
        try:
            np.testing.assert_array_equal(pixels(hostile / 'cut.png'), whole)
        except ImageError:
            continue
        assert cut > len(data) - 64


def test_list_images_finds_pictures_only_in_order(tmp_path):
    for name in ('b.JPEG', 'a.png', 'notes.txt'):
        (tmp_path / name).touch()
    (tmp_path / 'c.jpg').mkdir()
    assert [p.name for p in list_images(tmp_path)] == ['a.png', 'b.JPEG']

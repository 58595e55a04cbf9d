import hashlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rsq_backbone.images import CONVERSIONS, ImageError, inspect_image, list_images, read_image


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


def files_of_every_kind(folder):
    """A file for each conversion, and none for plain ones; the conversions are told by the file's name."""
    colour = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    deep = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    files = {
        'rgb.png': (), 'rgb.jpg': (), 'grey.png': ('grey',), 'bilevel.png': ('grey',),
        'deep.png': ('grey', '16-bit or float'), 'float.tiff': ('grey', '16-bit or float'),
        'palette.png': ('palette',), 'cmyk.jpg': ('CMYK',), 'rgba.png': ('transparent',),
        'grey_alpha.png': ('grey', 'transparent'), 'palette_clear.png': ('palette', 'transparent'),
        'rotated.jpg': ('EXIF-rotated',), 'rotated.tiff': ('EXIF-rotated',), 'rotated.png': ('EXIF-rotated',),
        'upright.jpg': (), 'pages.tiff': ('several frames',), 'moving.webp': ('several frames',),
        'moving.gif': ('palette', 'several frames'), 'still.gif': ('palette',),
    }
    colour.save(folder / 'rgb.png')
    colour.save(folder / 'rgb.jpg')
    colour.convert('L').save(folder / 'grey.png')
    colour.convert('1').save(folder / 'bilevel.png')
    Image.fromarray(deep).save(folder / 'deep.png')
    Image.fromarray((deep / 65535).astype(np.float32)).save(folder / 'float.tiff')
    colour.quantize().save(folder / 'palette.png')
    colour.convert('CMYK').save(folder / 'cmyk.jpg')
    colour.convert('RGBA').save(folder / 'rgba.png')
    colour.convert('LA').save(folder / 'grey_alpha.png')
    colour.quantize().save(folder / 'palette_clear.png', transparency=0)
    for kind in ('jpg', 'tiff', 'png'):
        colour.save(folder / f'rotated.{kind}', exif=exif)
    colour.save(folder / 'upright.jpg', exif=upright)
    other = colour.rotate(180)
    for name in ('pages.tiff', 'moving.webp'):
        colour.save(folder / name, save_all=True, append_images=[other])
    colour.quantize().save(folder / 'moving.gif', save_all=True, append_images=[other.quantize()])
    colour.quantize().save(folder / 'still.gif')
    return files


def test_inspection_names_the_conversions_that_reading_makes(tmp_path):
    files = files_of_every_kind(tmp_path)
    found = {name: inspect_image(tmp_path / name) for name in files}
    assert {name: facts.conversions for name, facts in found.items()} == files
    assert {kind for kinds in files.values() for kind in kinds} == set(CONVERSIONS)
    for name, facts in found.items():
        assert facts.size == ((40, 60) if name.startswith('rotated') else (60, 40))
        assert facts.size == read_image(tmp_path / name).size
        assert facts.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert not facts.single_coloured


@pytest.mark.parametrize(('array', 'single'), [
    (np.full((40, 60, 3), (10, 20, 30), np.uint8), True),
    (np.zeros((40, 60, 4), np.uint8), True),  # nothing but transparency
    (np.full((40, 60), 65535, np.uint16), True),
    (np.eye(40, dtype=np.uint8), False),  # 1 / 255 of difference
])
def test_inspection_tells_pictures_of_a_single_colour(tmp_path, array, single):
    assert inspect_image(save(tmp_path / 'a.png', array)).single_coloured is single


def test_inspection_refuses_what_reading_refuses_in_the_same_words(hostile):
    names = [path.name for path in hostile.iterdir() if not path.name.startswith('whole')] + ['missing.jpg']
    assert len(names) == 10
    for name in names:
        with pytest.raises(ImageError) as reading:
            read_image(hostile / name)
        with pytest.raises(ImageError) as inspecting:
            inspect_image(hostile / name)
        assert str(inspecting.value) == str(reading.value)


def refuses(function, path):
    try:
        function(path)
    except ImageError:
        return True
    return False


@pytest.mark.parametrize('name', ['whole.png', 'whole.jpg', 'moving.gif', 'moving.webp', 'rotated.tiff'])
def test_inspection_refuses_a_damaged_file_exactly_if_reading_does(hostile, name):
    files_of_every_kind(hostile)
    data = (hostile / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = hostile / f'damaged-{name}'
    refused = 0
    for place in range(0, len(data), len(data) // 40 + 1):
        altered = bytearray(data)
        altered[place] = int(rng.integers(256))
        for content in (data[:place], bytes(altered)):
            damaged.write_bytes(content)
            assert refuses(inspect_image, damaged) == refuses(read_image, damaged)
            refused += refuses(read_image, damaged)
    assert refused > 10

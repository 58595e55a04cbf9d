"""From a mask file, however it was saved, to the class of each pixel."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from rsq_backbone.errors import UserError
from rsq_backbone.images import ImageError
from seg_demos.masks import (
    IGNORED,
    MaskCoding,
    inspect_mask,
    is_ignored_name,
    read_class_names,
    read_colour_map,
    read_mask,
)

ROAD, SKY, TREE = (128, 64, 128), (70, 130, 180), (0, 128, 0)
NUMBERED = MaskCoding(('road', 'sky', 'tree'), {0: 0, 1: 1, 2: 2, 255: IGNORED})
PAINTED = MaskCoding(NUMBERED.classes, colours={ROAD: 0, SKY: 1, TREE: 2, (0, 0, 0): IGNORED})


def classes(height=20, width=30):
    """All three and IGNORED, none of them symmetric."""
    mask = np.random.default_rng(0).integers(0, 3, (height, width), np.uint8)
    mask[:4, :9] = IGNORED
    return mask


def colours(mask):
    table = np.zeros((256, 3), np.uint8)
    table[:3] = ROAD, SKY, TREE
    return table[mask]


def save(path, array, mode=None, **options):
    (array if isinstance(array, Image.Image) else Image.fromarray(array, mode=mode)).save(path, **options)
    return path


def with_palette(mask, palette=(ROAD, SKY, TREE)):
    image = Image.fromarray(mask, mode='P')
    # Of 256 entries: Pillow would else save fewer bits a pixel, and of IGNORED the lowest alone.
    image.putpalette([value for colour in (*palette, *[(0, 0, 0)] * 253) for value in colour])
    return image


def with_alpha(array, mode):
    """Transparent at the left."""
    image = Image.fromarray(array)
    alpha = np.full(array.shape[:2], 255, np.uint8)
    alpha[:, :12] = 0
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    return image


@pytest.mark.parametrize(('name', 'made'), [
    ('grey.png', lambda mask: mask),
    ('grey.bmp', lambda mask: mask),
    ('grey.TIF', lambda mask: mask),
    ('palette.png', with_palette),
    ('three equal channels.png', lambda mask: np.repeat(mask[..., None], 3, axis=2)),
    ('16 bit.png', lambda mask: mask.astype(np.uint16)),
    ('32 bit.tiff', lambda mask: mask.astype(np.int32)),
    ('grey with alpha.png', lambda mask: with_alpha(mask, 'LA')),
    ('grey colour with alpha.png', lambda mask: with_alpha(np.repeat(mask[..., None], 3, axis=2), 'RGBA')),
])
def test_class_numbers_are_read_from_any_kind_of_file(tmp_path, name, made):
    path = save(tmp_path / name, made(classes()))
    read = read_mask(path, NUMBERED)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, classes())


def test_a_transparent_palette_entry_keeps_its_number(tmp_path):
    path = save(tmp_path / 'a.png', with_palette(classes()), transparency=bytes([0, 255, 100]))
    assert Image.open(path).info['transparency']
    np.testing.assert_array_equal(read_mask(path, NUMBERED), classes())


@pytest.mark.parametrize(('name', 'made'), [
    ('rgb.png', lambda mask: colours(mask)),
    ('rgb.tiff', lambda mask: colours(mask)),
    ('rgba.png', lambda mask: with_alpha(colours(mask), 'RGBA')),
    ('palette.png', lambda mask: Image.fromarray(colours(mask)).quantize(8)),
    ('lossless.webp', lambda mask: colours(mask)),
])
def test_colours_are_read_from_any_kind_of_file(tmp_path, name, made):
    options = {'lossless': True} if name.endswith('webp') else {}
    path = save(tmp_path / name, made(classes()), **options)
    np.testing.assert_array_equal(read_mask(path, PAINTED), classes())


def test_greys_may_be_colours_of_a_map(tmp_path):
    coding = MaskCoding(('a', 'b'), colours={(0, 0, 0): 0, (38, 38, 38): 1})
    mask = (classes() == 1).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / 'a.png', mask * 38), coding), mask)
    assert 'colours' in refusal(save(tmp_path / 'b.png', (mask * 38).astype(np.uint16)), coding)


def test_one_bit_files_hold_0_and_1(tmp_path):
    mask = classes() == 1
    path = save(tmp_path / 'a.png', mask)
    assert Image.open(path).mode == '1'
    np.testing.assert_array_equal(read_mask(path, NUMBERED), mask)


def test_exif_orientation_of_a_mask_is_applied_as_to_its_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / 'a.png', classes(), exif=exif)
    np.testing.assert_array_equal(read_mask(path, NUMBERED), np.rot90(classes(), -1))
    path = save(tmp_path / 'b.png', colours(classes()), exif=exif)
    np.testing.assert_array_equal(read_mask(path, PAINTED), np.rot90(classes(), -1))


def test_values_are_given_their_classes_wherever_they_lie(tmp_path):
    values = np.array([-1, 0, 300, 70_000], np.int32)[np.random.default_rng(1).integers(0, 4, (20, 30))]
    coding = MaskCoding(('a', 'b', 'c'), {-1: IGNORED, 300: 0, 70_000: 1, 0: 2})
    expected = np.select([values == -1, values == 300, values == 70_000], [IGNORED, 0, 1], 2)
    np.testing.assert_array_equal(read_mask(save(tmp_path / 'a.tiff', values), coding), expected)


@pytest.mark.parametrize('height', [1, 2, 3])
def test_masks_read_in_several_strips_come_together_in_order(tmp_path, monkeypatch, height):
    monkeypatch.setattr('seg_demos.masks._STRIP', height * 30 + 1)
    path = save(tmp_path / 'a.png', classes())
    np.testing.assert_array_equal(read_mask(path, NUMBERED), classes())
    assert inspect_mask(path, painted=False).size == (30, 20)
    np.testing.assert_array_equal(read_mask(save(tmp_path / 'b.png', colours(classes())), PAINTED), classes())


def refusal(path, coding=NUMBERED):
    with pytest.raises(ImageError) as raised:
        read_mask(path, coding)
    message = str(raised.value)
    assert message.startswith(f'{path}: ')
    assert '\n' not in message
    return message


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32])
def test_unknown_values_are_named(tmp_path, dtype):
    mask = classes().astype(dtype)
    mask[7, 3:9] = 3, 4, 5, 6, 7, 8
    message = refusal(save(tmp_path / 'a.tiff', mask))
    assert 'no class: 3, 4, 5, 6, 7 and 1 more; known are 0 .. 2, 255' in message
    assert '--class-names' in message


def test_values_beyond_a_byte_are_not_taken_for_their_last_byte(tmp_path):
    assert 'no class: 256, 257' in refusal(save(tmp_path / 'a.png', (classes() % 2).astype(np.uint16) + 256))
    assert 'no class: -1' in refusal(save(tmp_path / 'a.tiff', (classes() % 2).astype(np.int32) - 1))


def test_unknown_colours_are_named(tmp_path):
    picture = colours(classes())
    picture[5, 5] = 1, 2, 3
    message = refusal(save(tmp_path / 'a.png', picture), PAINTED)
    assert 'colours that are not in the colour map: (1, 2, 3)' in message


def test_what_cannot_hold_classes_is_refused(tmp_path):
    assert 'colour-map' in refusal(save(tmp_path / 'painted.png', colours(classes())))
    assert 'JPEG' in refusal(save(tmp_path / 'a.jpg', classes()))
    assert 'JPEG' in refusal(save(tmp_path / 'named.png', classes(), format='JPEG'))
    assert 'JPEG' in refusal(save(tmp_path / 'inside.tiff', classes(), compression='jpeg'))
    assert 'fractions' in refusal(save(tmp_path / 'a.tiff', classes().astype(np.float32)))
    (tmp_path / 'text.png').write_text('no mask')
    assert 'not an image' in refusal(tmp_path / 'text.png')
    whole = save(tmp_path / 'whole.png', np.random.default_rng(0).integers(0, 3, (200, 200), np.uint8)).read_bytes()
    (tmp_path / 'half.png').write_bytes(whole[:len(whole) // 2])
    assert 'damaged' in refusal(tmp_path / 'half.png')
    assert 'no such file' in refusal(tmp_path / 'gone.png')


def test_inspection_counts_the_pixels_of_each_value(tmp_path):
    mask = classes()
    expected = {value: int((mask == value).sum()) for value in (0, 1, 2, 255)}
    for dtype in (np.uint8, np.uint16, np.int32):
        found = inspect_mask(save(tmp_path / 'a.tiff', mask.astype(dtype)), painted=False)
        assert (found.size, found.counts, found.palette) == ((30, 20), expected, {})
    painted = inspect_mask(save(tmp_path / 'a.png', colours(mask)), painted=True)
    assert painted.counts == {
        (128 << 16) + (64 << 8) + 128: expected[0], (70 << 16) + (130 << 8) + 180: expected[1], 128 << 8: expected[2],
        0: expected[255]}


def test_inspection_tells_the_palette_s_colours_of_the_values_that_occur(tmp_path):
    mask = np.where(classes() == 1, np.uint8(1), np.uint8(2))
    found = inspect_mask(save(tmp_path / 'a.png', with_palette(mask)), painted=False)
    assert found.palette == {1: SKY, 2: TREE}


def test_a_photograph_for_a_mask_is_told_before_all_its_colours_are_gathered(tmp_path):
    photograph = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    with pytest.raises(ImageError, match='more than 4096 colours, as a photograph'):
        inspect_mask(save(tmp_path / 'a.png', photograph), painted=True)
    with pytest.raises(ImageError, match='more than 4096 values'):
        inspect_mask(save(tmp_path / 'b.png', np.arange(10_000, dtype=np.uint16).reshape(100, 100)), painted=False)


@pytest.mark.skipif(sys.platform == 'win32', reason='no resource module')
def test_a_large_mask_takes_a_few_times_its_own_memory(tmp_path):
    """25 megapixels: 25 MB as bytes, 200 MB as the 8-byte integers that NumPy would like to make of them."""
    save(tmp_path / 'a.png', np.kron(classes(50, 50) % 3, np.ones((100, 100), np.uint8)))
    code = textwrap.dedent('''
        import resource, sys
        from pathlib import Path
        from PIL import Image
        from seg_demos.masks import MaskCoding, inspect_mask, read_mask
        Image.new('P', (9, 9)).save(sys.argv[2])  # so that what is loaded once is
        for path in sys.argv[2], sys.argv[1]:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            inspect_mask(Path(path), False)
            read_mask(Path(path), MaskCoding(('a', 'b', 'c'), {0: 0, 1: 1, 2: 2}))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        ''')
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'a.png'), str(tmp_path / 'small.png')], capture_output=True,
        text=True, check=True)
    kilobytes = int(done.stdout) / (1024 if sys.platform == 'darwin' else 1)
    assert kilobytes < 120_000


def test_class_names_are_one_a_line(tmp_path):
    file = tmp_path / 'names.txt'
    file.write_bytes('\ufeff# of the street\nroad\r\n\n traffic   sign \nciel bleuâtre'.encode())
    assert read_class_names(file) == ('road', 'traffic sign', 'ciel bleuâtre')


@pytest.mark.parametrize('text', ['', '\n \n', 'a\nb\na'])
def test_no_names_and_double_ones_are_refused(tmp_path, text):
    (tmp_path / 'names.txt').write_text(text)
    with pytest.raises(UserError, match='one name a line'):
        read_class_names(tmp_path / 'names.txt')


@pytest.mark.parametrize('read', [read_class_names, read_colour_map])
def test_files_that_are_no_lists_are_refused_in_a_line(tmp_path, read):
    (tmp_path / 'latin.txt').write_bytes('straße 1 2 3'.encode('latin-1'))
    (tmp_path / 'large.txt').write_bytes(b'a\n' * 600_000)
    (tmp_path / 'many.txt').write_text(''.join(f'c{i} {i % 256} {i // 256} 0\n' for i in range(256)))
    (tmp_path / 'zeros.txt').write_bytes(bytes(100))
    for name, says in [('latin.txt', 'UTF-8'), ('large.txt', 'too large'), ('many.txt', 'at most 255'),
                       ('zeros.txt', 'control characters'), ('gone.txt', 'check the path'), ('', 'check the path')]:
        with pytest.raises(UserError, match=says) as raised:
            read(tmp_path / name)
        assert str(raised.value).startswith(str(tmp_path / name))
        assert '\n' not in str(raised.value)


def test_camvid_s_own_colour_list_is_read_and_its_void_ignored(tmp_path):
    """Lines of its label_colors.txt, tabs and spaces as they are there."""
    (tmp_path / 'label_colors.txt').write_text(
        '64 128 64\tAnimal\n192 0 128\tArchway\n128 0 0\t\tBuilding\n0 0 0\t\tVoid\n64 192 0\tWall\n')
    assert read_colour_map(tmp_path / 'label_colors.txt') == (
        ('Animal', 'Archway', 'Building', 'Wall'),
        {(64, 128, 64): 0, (192, 0, 128): 1, (128, 0, 0): 2, (0, 0, 0): IGNORED, (64, 192, 0): 3})


@pytest.mark.parametrize('text', [
    'sky 70 130 180\ntraffic sign 0 128 0\nsky 0 0 1\nunlabelled 0 0 0',
    'name,r,g,b\nsky,70,130,180\ntraffic sign,0,128,0\nsky,0,0,1\nVoid,0,0,0\n',
    '# label:color_rgb:parts:actions\nsky:70,130,180::\ntraffic sign:0,128,0::\nsky:0,0,1::\nignore:0,0,0::\n',
    '70; 130; 180; sky\n\n0; 128; 0; traffic sign\n0; 0; 1; sky\n0; 0; 0; __ignore__\n',
])
def test_colour_maps_in_the_usual_spellings(tmp_path, text):
    (tmp_path / 'colours.txt').write_text(text)
    assert read_colour_map(tmp_path / 'colours.txt') == (
        ('sky', 'traffic sign'), {(70, 130, 180): 0, (0, 128, 0): 1, (0, 0, 1): 0, (0, 0, 0): IGNORED})


@pytest.mark.parametrize(('text', 'says'), [
    ('sky 70 130 180\nroad 70 130', 'line 2: a class name and three numbers'),
    ('sky 70 130 256', 'line 1: a class name and three numbers'),
    ('70 130 180', 'line 1: a class name and three numbers'),
    ('sky #4682b4', 'line 1: a class name and three numbers'),
    ('void 0 0 0\n\nroad 1 1 1\nsky 0 0 0', 'line 4: the colour of void again'),
    ('void 0 0 0', 'no classes'),
    ('# nothing', 'no classes'),
])
def test_lines_that_are_no_class_with_its_colour_are_refused_by_number(tmp_path, text, says):
    (tmp_path / 'colours.txt').write_text(text)
    with pytest.raises(UserError, match=says):
        read_colour_map(tmp_path / 'colours.txt')


def test_names_that_stand_for_no_class():
    assert all(map(is_ignored_name, ['void', 'Void', 'unlabelled', 'Unlabeled', 'ignore', '__ignore__']))
    assert not any(map(is_ignored_name, ['background', 'avoid', 'void space', 'other', '']))

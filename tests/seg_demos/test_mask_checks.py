"""What the masks' values mean is found out, and what would spoil training is left out in a line each."""
import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from rsq_backbone.errors import UserError
from seg_demos.mask_checks import check_masks
from seg_demos.mask_sources import MaskedCollection, load_masks
from seg_demos.masks import IGNORED, MaskCoding, read_class_names, read_colour_map, read_mask

HEIGHT, WIDTH = 16, 24


def picture(path, seed, height=HEIGHT, width=WIDTH, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(seed.encode())).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


def mask(path, values, height=HEIGHT, width=WIDTH, dtype=np.uint8, **options):
    """Stripes of these values, the first one the widest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width), values[0], dtype)
    for column, value in enumerate(values):
        pixels[:, column] = value
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """A folder of pictures with masks of these values: folder(a=[0, 1], b=[0, 2])."""
    def fill(below='', **masks):
        for name, values in masks.items():
            picture(tmp_path / below / 'images' / f'{name}.png', below + name)
            mask(tmp_path / below / 'masks' / f'{name}.png', values)
        return tmp_path
    return fill


def check(root, **told):
    checked = check_masks(load_masks(str(root)), **told)
    assert all('\n' not in line for line in checked.left_out + checked.notes)
    return checked


def refusal(root, **told):
    with pytest.raises(UserError) as raised:
        check(root, **told)
    assert '\n' not in str(raised.value)
    return str(raised.value)


def names(pairs):
    return ''.join(pair.picture.stem for pair in pairs)


def decoded(checked, name):
    """Classes in the stripes of a mask, by name."""
    [pair] = [pair for pair in (*checked.collection.train, *(checked.collection.val or ()))
              if pair.picture.stem == name]
    row = read_mask(pair.mask, checked.coding)[0].tolist()
    return ['-' if index == IGNORED else checked.coding.classes[index] for index in row]


def line_about(lines, *parts):
    found = [line for line in lines if all(str(part) in line for part in parts)]
    assert len(found) == 1, f'{parts} in {lines}'
    return found[0]


def test_sound_pictures_pass_without_a_word(folder):
    root = folder(a=[0, 1, 2], b=[0, 2])
    checked = check(root)
    assert (checked.left_out, checked.notes) == ((), ())
    assert checked.collection == load_masks(str(root))
    assert checked.coding.classes == ('class 0', 'class 1', 'class 2')
    assert decoded(checked, 'a')[:4] == ['class 0', 'class 1', 'class 2', 'class 0']
    assert checked.content == {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for pair in checked.collection.train for path in (pair.picture, pair.mask)}


def test_two_values_without_names_are_background_and_foreground(folder):
    checked = check(folder(a=[0, 1], b=[0]))
    assert decoded(checked, 'a')[:2] == ['background', 'foreground']


def test_names_come_in_the_order_of_the_values(folder):
    checked = check(folder(a=[0, 1, 2]), classes=['road', 'sky', 'tree'])
    assert decoded(checked, 'a')[:3] == ['road', 'sky', 'tree']


def test_255_is_ignored_without_being_asked_as_in_voc(folder):
    checked = check(folder(a=[0, 1, 255], b=[0, 2, 255], c=[0, 255]))
    assert checked.coding.classes == ('class 0', 'class 1', 'class 2')
    assert decoded(checked, 'b')[:3] == ['class 0', 'class 2', '-']
    assert '255' in line_about(checked.notes, 'neither trained on nor judged')


@pytest.mark.parametrize('classes', [None, ['ground', 'plant']])
def test_masks_of_0_and_255_alone_are_black_and_white(folder, classes):
    checked = check(folder(a=[0, 255], b=[0, 255], c=[0], d=[255, 0]), classes=classes)
    low, high = classes or ('background', 'foreground')
    assert checked.coding.classes == (low, high)
    assert decoded(checked, 'a')[:2] == [low, high]
    assert f'0 is taken for {low} and 255 for {high}' in line_about(checked.notes, 'black and white')


@pytest.mark.parametrize('white', [255, 65535])
def test_white_of_16_bit_masks_is_white_too(tmp_path, white):
    for name in 'ab':
        picture(tmp_path / 'images' / f'{name}.png', name)
        mask(tmp_path / 'masks' / f'{name}.png', [0, white], dtype=np.uint16)
    checked = check(tmp_path)
    assert checked.coding.classes == ('background', 'foreground')
    assert decoded(checked, 'a')[:2] == ['background', 'foreground']
    assert f'{white} for foreground' in line_about(checked.notes, 'black and white')


def test_of_black_and_white_masks_the_odd_one_is_left_out_rather_than_all_their_white(folder):
    checked = check(folder(a=[0, 255], b=[0, 255], c=[0, 1], d=[0, 128, 255], e=[255]))
    assert names(checked.collection.train) == 'abce'
    assert decoded(checked, 'c')[:2] == ['background', 'foreground']
    assert 'no class: 128' in line_about(checked.left_out, 'd.png')


def test_a_wholly_ignored_mask_among_numbers_does_not_make_255_a_class(folder):
    checked = check(folder(a=[0, 1], b=[0, 1], c=[255]))
    assert names(checked.collection.train) == 'ab'
    assert 'every pixel is to be ignored' in line_about(checked.left_out, 'c.png')


def test_one_bit_masks_are_black_and_white_among_their_like_and_numbers_among_numbers(folder):
    root = folder(a=[0, 255], b=[0, 255], c=[0, 255])
    mask(root / 'masks' / 'c.png', [False, True], dtype=bool)
    assert decoded(check(root), 'c')[:2] == ['background', 'foreground']
    mask(root / 'masks' / 'a.png', [0, 1, 2])
    mask(root / 'masks' / 'b.png', [0, 1, 2])
    assert decoded(check(root), 'c')[:2] == ['class 0', 'class 1']


def test_0_and_255_with_255_to_be_ignored_is_a_single_class(folder):
    assert 'nothing but class 0' in refusal(folder(a=[0, 255], b=[0, 255]), ignore_index=255)


@pytest.mark.parametrize('classes', [['road', 'sky', 'tree'], ['road', 'sky', 'tree', 'lamp']])
def test_with_more_than_two_names_0_and_255_are_not_black_and_white(folder, classes):
    checked = check(folder(a=[0, 255], b=[0, 255], c=[0, 1]), classes=classes)
    assert decoded(checked, 'a')[:2] == ['road', '-']


def test_an_ignore_index_that_is_a_class_takes_it_out_and_closes_the_gap(folder):
    checked = check(folder(a=[0, 1, 2, 3]), classes=['road', 'sky', 'other', 'tree'], ignore_index=2)
    assert checked.coding.classes == ('road', 'sky', 'tree')
    assert decoded(checked, 'a')[:4] == ['road', 'sky', '-', 'tree']
    assert 'other (mask value 2)' in line_about(checked.notes, 'neither trained on nor judged')


def test_ignoring_zero_leaves_the_other_numbers_their_names(folder):
    checked = check(folder(a=[0, 1, 2], b=[0, 255]), ignore_index=0)
    assert checked.coding.classes == ('class 1', 'class 2')
    assert decoded(checked, 'a')[:3] == ['-', 'class 1', 'class 2']


def test_classes_named_void_are_ignored_as_camvid_s(folder, tmp_path):
    """smp's CamVid has sky .. bicyclist and then unlabelled, 11."""
    (tmp_path / 'names.txt').write_text('sky\nbuilding\nunlabelled\n')
    checked = check(folder(a=[0, 1, 2], b=[2]), classes=read_class_names(tmp_path / 'names.txt'))
    assert checked.coding.classes == ('sky', 'building')
    assert decoded(checked, 'a')[:3] == ['sky', 'building', '-']
    assert 'unlabelled (mask value 2)' in line_about(checked.notes, 'neither trained on nor judged')
    assert 'every pixel is to be ignored' in line_about(checked.left_out, 'b.png')


@pytest.mark.parametrize('value', [-1, 65_535, 254])
def test_any_whole_number_may_be_ignored(folder, value):
    root = folder(a=[0, 1], b=[0, 1])
    mask(root / 'masks' / 'b.png', [0, 1, value], dtype=np.int32, format='TIFF')
    assert 'no class' in line_about(check(root).left_out, 'b.png')
    checked = check(root, ignore_index=value)
    assert checked.coding.classes == ('background', 'foreground')
    assert decoded(checked, 'b')[:3] == ['background', 'foreground', '-']
    assert checked.notes == ()


def test_an_ignore_index_that_never_occurs_is_told(folder):
    assert 'No mask holds -100' in line_about(check(folder(a=[0, 1]), ignore_index=-100).notes, 'ignored')


def paint(path, *colours):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8) + np.uint8(colours[0])
    for column, colour in enumerate(colours):
        pixels[:, column] = colour
    Image.fromarray(pixels).save(path)


ROAD, SKY, VOID = (128, 64, 128), (70, 130, 180), (0, 0, 0)


@pytest.fixture
def painted(folder, tmp_path):
    root = folder(a=[0], b=[0], c=[0])
    for name, colours in (('a', (ROAD, SKY)), ('b', (ROAD, VOID)), ('c', (SKY, ROAD))):
        paint(root / 'masks' / f'{name}.png', *colours)
    (tmp_path / 'colours.txt').write_text('road 128 64 128\nsky 70 130 180\nvoid 0 0 0\n')
    return root


def test_painted_masks_are_read_by_a_colour_map(painted):
    classes, colours = read_colour_map(painted / 'colours.txt')
    paint(painted / 'masks' / 'c.png', ROAD, (1, 2, 3))
    checked = check(painted, classes=classes, colours=colours)
    assert checked.coding == MaskCoding(('road', 'sky'), colours={ROAD: 0, SKY: 1, VOID: IGNORED})
    assert decoded(checked, 'a')[:2] == ['road', 'sky']
    assert decoded(checked, 'b')[:2] == ['road', '-']
    assert '(1, 2, 3)' in line_about(checked.left_out, 'c.png')


def test_painted_masks_without_a_colour_map_ask_for_one(painted):
    assert '--colour-map' in refusal(painted)
    mask(painted / 'masks' / 'c.png', [0, 1])
    checked = check(painted)
    assert names(checked.collection.train) == 'c'
    assert len(checked.left_out) == 2


def test_a_colour_map_and_an_ignore_index_contradict_each_other(painted):
    classes, colours = read_colour_map(painted / 'colours.txt')
    assert 'void in the colour map' in refusal(painted, classes=classes, colours=colours, ignore_index=0)


def test_a_source_that_knows_its_classes_takes_no_others(folder):
    collection = load_masks(str(folder(a=[0, 1])))
    known = MaskedCollection('pets', collection.train, coding=MaskCoding(('no', 'yes'), {0: 0, 1: 1}))
    assert check_masks(known).coding.classes == ('no', 'yes')
    for told in ({'classes': ['a', 'b']}, {'ignore_index': 0}, {'colours': {VOID: 0}, 'classes': ['a']}):
        with pytest.raises(UserError, match='pets has classes of its own'):
            check_masks(known, **told)


def test_values_without_names_are_left_out_once_all_are_told_what_to_do(folder):
    root = folder(a=[0, 1, 2], b=[0, 1], c=[0, 3])
    checked = check(root, classes=['road', 'sky'])
    assert names(checked.collection.train) == 'b'
    assert 'no class: 2; known are 0 .. 1, 255' in line_about(checked.left_out, 'a.png')
    assert 'no class: 3' in line_about(checked.left_out, 'c.png')
    mask(root / 'masks' / 'b.png', [4, 5])
    message = refusal(root, classes=['road', 'sky'])
    assert 'no training pictures can be used' in message
    assert 'name all classes: by number with --class-names' in message


def test_shades_of_grey_are_not_taken_for_a_hundred_classes(folder, tmp_path):
    root = folder(a=[0, 75, 150], b=[0, 150])
    assert 'by shade of grey with --colour-map' in refusal(root)
    (tmp_path / 'greys.txt').write_text('road 0 0 0\nsky 75 75 75\ntree 150 150 150')
    classes, colours = read_colour_map(tmp_path / 'greys.txt')
    assert decoded(check(root, classes=classes, colours=colours), 'a')[:3] == ['road', 'sky', 'tree']


def test_numbers_beyond_63_are_believed_if_they_are_named(folder):
    root = folder(a=[0, 1, 149])
    checked = check(root, classes=[f'thing {i}' for i in range(150)])
    assert decoded(checked, 'a')[2] == 'thing 149'
    assert 'at most 255' in refusal(root, classes=[str(i) for i in range(256)])


def test_classes_that_never_occur_are_named_in_a_line(folder):
    checked = check(folder(a=[0, 1]), classes=['road', 'sky', 'tree', 'lamp'])
    assert 'No training mask shows tree, lamp;' in line_about(checked.notes, 'never sees')
    assert checked.coding.classes == ('road', 'sky', 'tree', 'lamp')
    many = check(folder(a=[0, 1]), classes=[f'c{i}' for i in range(99)])
    assert 'c6 and 92 more classes' in line_about(many.notes, 'never sees')


def test_classes_of_one_part_only_are_told(folder):
    folder('train', a=[0, 1, 2], b=[0])
    checked = check(folder('val', c=[0, 1, 3]))
    assert checked.coding.classes == ('class 0', 'class 1', 'class 2', 'class 3')
    assert 'No training mask shows class 3;' in line_about(checked.notes, 'never sees')
    assert 'No validation mask shows class 2;' in line_about(checked.notes, 'nothing can be said')


@pytest.mark.parametrize(('values', 'classes', 'says'), [
    ([0], None, 'nothing but class 0'), ([0], ['road'], 'nothing but road'), ([1], ['road', 'sky'], 'nothing but sky'),
    ([255], None, 'nothing but foreground')])
def test_a_single_class_is_refused(folder, values, classes, says):
    assert f'{says}; there have to be two classes' in refusal(folder(a=values, b=values), classes=classes)


def test_where_every_pixel_is_ignored_there_is_nothing_to_learn(folder):
    message = refusal(folder(a=[255], b=[255]), ignore_index=255)
    assert 'no training pictures can be used' in message
    assert 'every pixel is to be ignored' in message
    assert names(check(folder(c=[0, 1], d=[0, 1]), ignore_index=255).collection.train) == 'cd'


def test_unusable_files_are_left_out_with_a_line_each(folder):
    root = folder(**{name: [0, 1] for name in 'abcdefghi'})
    whole = (root / 'images' / 'a.png').read_bytes()
    (root / 'images' / 'b.png').write_bytes(whole[:len(whole) // 2])
    (root / 'images' / 'c.png').write_bytes(b'')
    (root / 'masks' / 'd.png').write_text('no mask')
    picture(root / 'images' / 'e.png', 'e', HEIGHT, WIDTH + 1)
    mask(root / 'masks' / 'f.png', [0, 1], format='JPEG')
    (root / 'images' / 'g.png').unlink()
    (root / 'masks' / 'h.png').unlink()
    checked = check(root)
    assert names(checked.collection.train) == 'ai'
    assert len(checked.left_out) == 7
    for part, name, says in [
            ('images', 'b', 'damaged'), ('images', 'c', 'empty'), ('masks', 'd', 'not an image'),
            ('masks', 'e', '24 x 16 pixels, but its picture e.png has 25 x 16'), ('masks', 'f', 'JPEG smears'),
            ('masks', 'g', 'no picture of its name'), ('images', 'h', 'no mask of its name')]:
        assert line_about(checked.left_out, says).startswith(f'{root / part / name}.png: ')
    assert set(checked.content) >= {pair.picture for pair in checked.collection.train}


def test_a_mask_drawn_on_a_photograph_that_was_not_yet_turned_is_told_so(folder):
    root = folder(a=[0, 1], b=[0, 1], c=[0, 1])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / 'images' / 'b.png', 'b', exif=exif)
    picture(root / 'images' / 'c.png', 'c', height=WIDTH, width=HEIGHT, exif=exif)
    checked = check(root)
    assert 'once its EXIF orientation is applied; turn the mask too' in line_about(checked.left_out, 'b.png: 24 x 16')
    assert names(checked.collection.train) == 'ac'
    assert line_about(checked.notes, 'EXIF') == (
        f'1 of 2 pictures: EXIF-rotated, turned upright, as their masks have to be (first: {root / "images"}/c.png).')


def test_what_had_to_be_converted_is_counted(folder):
    root = folder(a=[0, 1], b=[0, 1])
    Image.open(root / 'images' / 'a.png').convert('L').save(root / 'images' / 'a.png')
    assert check(root).notes == (f'1 of 2 pictures: grey, repeated in three channels (first: {root}/images/a.png).',)


def test_validation_pictures_are_not_trained_on(folder):
    root = folder('train', a=[0, 1], b=[0, 1])
    folder('val', c=[0, 1], d=[0, 1])
    shutil.copy(root / 'val' / 'images' / 'd.png', root / 'train' / 'images' / 'b.png')
    checked = check(root)
    assert (names(checked.collection.train), names(checked.collection.val)) == ('a', 'cd')
    [line] = checked.left_out
    assert line.startswith(f'{root / "train" / "images" / "b.png"}: the same picture as {root / "val" / "images"}')


def test_a_picture_in_both_lists_is_judged_by_alone(folder):
    train = load_masks(str(folder(a=[0, 1], b=[0, 1], c=[0, 1]))).train
    checked = check_masks(MaskedCollection('lists', train[:2], train[1:]))
    assert (names(checked.collection.train), names(checked.collection.val)) == ('a', 'bc')
    assert 'is for training and for validation' in line_about(checked.left_out, 'b.png')


def test_a_copy_of_a_validation_picture_that_is_itself_left_out_stays(folder):
    root = folder('train', a=[0, 1], b=[0, 1])
    folder('val', c=[0, 1], d=[255])
    shutil.copy(root / 'val' / 'images' / 'd.png', root / 'train' / 'images' / 'b.png')
    checked = check(root)
    assert (names(checked.collection.train), names(checked.collection.val)) == ('ab', 'c')


@pytest.mark.parametrize('part', ['train', 'val'])
def test_a_part_of_which_nothing_is_left_is_refused_with_the_reason(folder, part):
    root = folder('train', a=[0, 1], b=[0, 1])
    folder('val', c=[0, 1])
    for path in (root / part / 'images').iterdir():
        path.write_bytes(b'')
    message = refusal(root)
    assert f'no {"training" if part == "train" else "validation"} pictures can be used' in message
    assert 'the file is empty' in message


def test_one_picture_only_is_told(folder):
    root = folder(a=[0, 1])
    assert 'only one picture' in line_about(check(root).notes, 'only')
    for folder_of in ('images', 'masks'):
        shutil.copy(root / folder_of / 'a.png', root / folder_of / 'copy.png')
    assert 'only one picture' in line_about(check(root).notes, 'only')
    assert check(folder(b=[0, 1])).notes == ()


def test_palettes_that_number_their_colours_anew_are_told(folder):
    root = folder(a=[0, 1], b=[0, 1])
    for name, colours in (('a', (VOID, ROAD)), ('b', (VOID, SKY))):
        image = Image.open(root / 'masks' / f'{name}.png').convert('L')
        image.putpalette([value for colour in (*colours, *[(9, 9, 9)] * 254) for value in colour])
        image.save(root / 'masks' / f'{name}.png')
    note = line_about(check(root).notes, 'Palettes differ')
    assert f'1 is the colour {ROAD} in {root}/masks/a.png and {SKY} in {root}/masks/b.png' in note
    shutil.copy(root / 'masks' / 'a.png', root / 'masks' / 'b.png')
    assert check(root).notes == ()


def test_every_mask_is_decoded_once(folder, monkeypatch):
    decoded_files = []
    load = PngImageFile.load_end
    monkeypatch.setattr(PngImageFile, 'load_end', lambda image: decoded_files.append(image.size) or load(image))
    check(folder(a=[0, 1], b=[0, 1], c=[0, 2]))
    assert len(decoded_files) == 3 * 2  # a picture and a mask each


def test_progress_ends_with_all_pictures(folder):
    told = []
    check(folder(**{name: [0, 1] for name in 'abcde'}), progress=lambda *call: told.append(call))
    assert told == [('checking pictures', done, 5) for done in range(1, 6)]

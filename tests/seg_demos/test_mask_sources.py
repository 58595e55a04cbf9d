"""Which picture has which mask, in the layouts that are around."""
import os
import shutil
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from rsq_backbone.datasets.food_scene import CLASSES
from rsq_backbone.errors import UserError
from seg_demos.mask_sources import load_masks
from seg_demos.masks import IGNORED, read_mask


def files(folder, *names):
    """Empty files, as none is opened here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def pairs(images, root):
    return [(pair.picture.relative_to(root).as_posix(), pair.mask.relative_to(root).as_posix()) for pair in images]


def line_about(lines, name):
    found = [line for line in lines if line.startswith(f'{name}: ')]
    assert len(found) == 1, f'{name} in {lines}'
    return found[0]


def refusal(source):
    with pytest.raises(UserError) as raised:
        load_masks(str(source))
    assert '\n' not in str(raised.value)
    return str(raised.value)


def test_images_beside_masks(tmp_path):
    files(tmp_path, 'images/b.jpg', 'images/a.PNG', 'masks/a.png', 'masks/b.png', 'readme.txt', 'images/list.txt')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [('images/a.PNG', 'masks/a.png'), ('images/b.jpg', 'masks/b.png')]
    assert (found.name, found.val, found.coding, found.left_out, found.notes) == (tmp_path.name, None, None, (), ())


@pytest.mark.parametrize(('train', 'val'), [
    ('training_set', 'validation_set'), ('seg_train', 'seg_val'), ('train', 'dev'), ('Train', 'Valid')])
@pytest.mark.parametrize('layout', ['{part}/images {part}/masks', 'images/{part} masks/{part}', '{part} {part}annot'])
def test_parts_go_by_many_names(tmp_path, train, val, layout):
    for part in (train, val):
        for folder in layout.format(part=part).split():
            files(tmp_path, f'{folder}/{part}.png')
    found = load_masks(str(tmp_path))
    assert [pair.picture.stem for pair in found.train] == [train]
    assert [pair.picture.stem for pair in found.val] == [val]


def test_folders_of_systems_are_not_looked_into(tmp_path):
    files(tmp_path, 'images/a.jpg', 'masks/a.png', 'images/@eaDir/b.jpg', 'masks/__MACOSX/b.png')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [('images/a.jpg', 'masks/a.png')]
    assert found.left_out == ()


@pytest.mark.parametrize(('picture', 'mask'), [
    ('a.jpg', 'a_mask.png'),
    ('a.jpg', 'a-mask.png'),
    ('0001TP_006690.png', '0001TP_006690_L.png'),  # the original CamVid
    ('a.jpg', 'a_label.tif'),
    ('a.jpg', 'a.jpg.png'),
    ('a.jpg', 'a.PNG'),
    ('a_mask.jpg', 'a_mask.png'),
    ('a_L.jpg', 'a_L_mask.png'),
    ('v1.2 (3).jpg', 'v1.2 (3).png'),
    ('день.jpg', 'день.png'),
    (unicodedata.normalize('NFD', 'é.jpg'), unicodedata.normalize('NFC', 'é.png')),  # as a Mac may have renamed one
])
def test_a_mask_is_known_by_its_picture_s_name(tmp_path, picture, mask):
    files(tmp_path, f'images/{picture}', 'images/z.jpg', f'masks/{mask}', 'masks/z.png')
    found = load_masks(str(tmp_path))
    assert sorted(pairs(found.train, tmp_path)) == sorted([
        (f'images/{picture}', f'masks/{mask}'), ('images/z.jpg', 'masks/z.png')])
    assert found.left_out == ()


def test_a_picture_whose_name_ends_like_a_mask_s_keeps_its_own(tmp_path):
    files(tmp_path, 'images/a.jpg', 'images/a_mask.jpg', 'masks/a.png', 'masks/a_mask.png')
    assert pairs(load_masks(str(tmp_path)).train, tmp_path) == [
        ('images/a.jpg', 'masks/a.png'), ('images/a_mask.jpg', 'masks/a_mask.png')]


def test_each_file_without_a_partner_is_named(tmp_path):
    files(tmp_path, 'images/a.jpg', 'images/b.jpg', 'images/c.jpg', 'masks/a.png', 'masks/d.png', 'masks/e_mask.png')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [('images/a.jpg', 'masks/a.png')]
    assert len(found.left_out) == 4
    for name in ('b', 'c'):
        assert f'no mask of its name in {tmp_path / "masks"}; add {name}.png' in line_about(
            found.left_out, tmp_path / 'images' / f'{name}.jpg')
    for name in ('d', 'e_mask'):
        assert f'no picture of its name in {tmp_path / "images"}' in line_about(
            found.left_out, tmp_path / 'masks' / f'{name}.png')


def test_pictures_that_would_share_a_mask_are_all_left_out(tmp_path):
    files(tmp_path, 'images/a.bmp', 'images/a.jpg', 'images/a.png', 'images/b.jpg', 'masks/a.png', 'masks/b.png')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [('images/b.jpg', 'masks/b.png')]
    assert len(found.left_out) == 3
    for name, other in [('a.bmp', 'a.jpg'), ('a.jpg', 'a.bmp'), ('a.png', 'a.bmp')]:
        assert f'of the same name as {other}' in line_about(found.left_out, tmp_path / 'images' / name)


def test_a_picture_with_two_masks_is_left_out(tmp_path):
    files(tmp_path, *(f'images/{name}.jpg' for name in 'abc'), 'masks/a.png', 'masks/a.tif', 'masks/b.png',
          'masks/b_mask.png', 'masks/c.png')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [('images/c.jpg', 'masks/c.png')]
    assert len(found.left_out) == 2
    line = line_about(found.left_out, tmp_path / 'images' / 'b.jpg')
    assert f'has two masks, {tmp_path / "masks" / "b.png"} and {tmp_path / "masks" / "b_mask.png"}' in line


def test_folders_below_hold_their_own_names(tmp_path):
    files(tmp_path, 'images/x/0.jpg', 'images/y/0.jpg', 'images/y/deep/1.jpg', 'masks/x/0.png', 'masks/y/0.png',
          'masks/y/deep/1_mask.png', 'masks/0.png')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [
        ('images/x/0.jpg', 'masks/x/0.png'), ('images/y/0.jpg', 'masks/y/0.png'),
        ('images/y/deep/1.jpg', 'masks/y/deep/1_mask.png')]
    assert len(found.left_out) == 1
    line_about(found.left_out, tmp_path / 'masks' / '0.png')


def test_hidden_files_are_skipped_and_counted(tmp_path):
    files(tmp_path, 'images/a.jpg', 'images/._a.jpg', 'images/.DS_Store', 'masks/a.png', 'masks/._a.png')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [('images/a.jpg', 'masks/a.png')]
    assert found.left_out == ()
    assert [note.split(': ', 1)[1] for note in found.notes] == ['1 (first: ._a.jpg).', '1 (first: ._a.png).']


@pytest.mark.skipif(sys.platform != 'linux', reason='file names are bytes on Linux alone')
def test_names_that_fit_into_no_line_are_left_out_in_a_line(tmp_path):
    files(tmp_path, 'images/a.jpg', 'masks/a.png', 'images/b\n.jpg')
    with open(os.fsencode(tmp_path / 'masks') + b'/\xff.png', 'wb'):
        pass
    found = load_masks(str(tmp_path))
    assert len(found.train) == 1
    assert len(found.left_out) == 2
    assert 'UTF-8' in line_about(found.left_out, tmp_path / 'images' / 'b\\n.jpg')
    assert 'UTF-8' in line_about(found.left_out, tmp_path / 'masks' / '\\udcff.png')
    ''.join(found.left_out).encode()
    folder = files(tmp_path / 'a\nb', 'images/a.jpg', 'masks/a.png')
    assert 'a\\nb: a path with such characters' in refusal(folder)


def test_links_are_followed_and_rings_are_not(tmp_path):
    files(tmp_path / 'elsewhere', 'p/a.jpg', 'b.png')
    files(tmp_path / 'data', 'images/b.jpg', 'masks/deep/a.png')
    (tmp_path / 'data' / 'images' / 'deep').symlink_to(tmp_path / 'elsewhere' / 'p')
    (tmp_path / 'data' / 'images' / 'ring').symlink_to(tmp_path / 'data')
    (tmp_path / 'data' / 'masks' / 'ring').symlink_to('.')
    (tmp_path / 'data' / 'masks' / 'b.png').symlink_to(tmp_path / 'elsewhere' / 'b.png')
    (tmp_path / 'named').symlink_to('data')
    found = load_masks(str(tmp_path / 'named'))
    assert found.name == 'named'
    assert pairs(found.train, tmp_path / 'named') == [
        ('images/b.jpg', 'masks/b.png'), ('images/deep/a.jpg', 'masks/deep/a.png')]
    assert found.left_out == ()


def test_a_broken_link_is_kept_to_be_named_once_it_is_opened(tmp_path):
    files(tmp_path, 'images/a.jpg', 'masks/a.png', 'masks/b.png')
    (tmp_path / 'images' / 'b.jpg').symlink_to('gone.jpg')
    assert pairs(load_masks(str(tmp_path)).train, tmp_path)[1] == ('images/b.jpg', 'masks/b.png')


@pytest.mark.parametrize(('train', 'val'), [
    (('train/images', 'train/masks'), ('val/images', 'val/masks')),
    (('training/images', 'training/masks'), ('validation/images', 'validation/masks')),
    (('train/images', 'train/masks'), ('valid/images', 'valid/masks')),
    (('images/train', 'masks/train'), ('images/val', 'masks/val')),
    (('train', 'trainannot'), ('val', 'valannot')),
])
def test_what_the_author_set_apart_stays_apart(tmp_path, train, val):
    test = [folder.replace('training', 'test').replace('train', 'test') for folder in train]
    files(tmp_path, *(f'{folder}/{name}.png' for part, names in ((train, 'ab'), (val, 'cd'), (test, 'ef'))
                      for folder in part for name in names), 'train.txt')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [tuple(f'{folder}/{name}.png' for folder in train) for name in 'ab']
    assert pairs(found.val, tmp_path) == [tuple(f'{folder}/{name}.png' for folder in val) for name in 'cd']
    assert found.left_out == ()
    [note] = found.notes
    assert note.endswith('is left alone.')
    assert 'test' in note


def test_train_alone_is_still_to_be_split(tmp_path):
    files(tmp_path, 'train/images/a.jpg', 'train/masks/a.png')
    found = load_masks(str(tmp_path))
    assert len(found.train) == 1
    assert found.val is None


def test_validation_pictures_without_masks_are_not_replaced_in_silence(tmp_path):
    files(tmp_path, 'train/images/a.jpg', 'train/masks/a.png', 'val/images/b.jpg')
    message = refusal(tmp_path)
    assert message.startswith(f'{tmp_path / "val"}: no masks for it')
    files(tmp_path, 'val/masks/c.png')
    message = refusal(tmp_path)
    assert 'no validation picture has a mask' in message
    assert 'c.png' in message


@pytest.mark.parametrize(('names', 'says'), [
    (['a.jpg', 'a.png'], 'no pictures with masks found; put them into images/ and masks/'),
    (['images/a.jpg'], 'no pictures with masks found'),
    (['train/a.jpg', 'val/a.jpg'], 'no pictures with masks found'),
    (['images/a.jpg', 'masks/b.png'], 'no training picture has a mask'),
    (['images/a.txt', 'masks/a.txt'], 'no training picture has a mask'),
])
def test_folders_of_no_layout_are_refused_with_what_to_do(tmp_path, names, says):
    assert says in refusal(files(tmp_path, *names))


def test_what_is_no_folder_is_refused(tmp_path):
    files(tmp_path, 'a.zip')
    for name in ('a.zip', 'gone', 'oxford'):
        assert refusal(tmp_path / name).endswith(
            'no such folder; name a folder of pictures with masks, synthetic, synthetic-food or oxford-pet.')


def test_a_folder_that_may_not_be_read_is_refused_in_a_line(tmp_path, monkeypatch):
    def forbidden(folder):
        raise PermissionError(13, 'Permission denied', str(folder))

    files(tmp_path, 'images/a.jpg', 'masks/a.png')
    monkeypatch.setattr('pathlib.Path.iterdir', forbidden)  # root, whom tests may run as, can read anything
    assert 'check its permissions' in refusal(tmp_path)


def voc(root, names='abcdef', **lists):
    files(root, *(f'JPEGImages/{name}.jpg' for name in names + 'xyz'), *(f'SegmentationClass/{n}.png' for n in names))
    for name, text in lists.items():
        files(root, f'ImageSets/Segmentation/{name}.txt').joinpath(
            f'ImageSets/Segmentation/{name}.txt').write_text(text)
    return root


def stems(images):
    return ''.join(pair.picture.stem for pair in images)


def test_a_voc_tree_is_read_by_its_lists(tmp_path):
    files(tmp_path, 'SegmentationClass/of no list.png')
    voc(tmp_path, train='c\na\n\nc\n', val='b\r\n d.jpg\n', trainval='a\nb\nc\nd\n')
    found = load_masks(str(tmp_path))
    assert pairs(found.train, tmp_path) == [
        ('JPEGImages/a.jpg', 'SegmentationClass/a.png'), ('JPEGImages/c.jpg', 'SegmentationClass/c.png')]
    assert stems(found.val) == 'bd'
    assert found.left_out == ()  # x, y and z are of VOC's other tasks


@pytest.mark.parametrize(('lists', 'expected'), [
    ({'train': 'a\nb'}, 'ab'), ({'trainval': 'a\nb\nc'}, 'abc'), ({'test': 'a\nb'}, 'abcdef'), ({}, 'abcdef')])
def test_of_a_voc_tree_without_a_validation_list_its_training_pictures_are_to_be_split(tmp_path, lists, expected):
    found = load_masks(str(voc(tmp_path, **lists)))
    assert stems(found.train) == expected
    assert found.val is None


def test_lines_of_a_voc_list_that_name_no_picture_are_told_and_lead_nowhere(tmp_path):
    outside = files(tmp_path / 'outside', 'secret.jpg')
    root = voc(tmp_path / 'VOC2012', train=f'a\ngone\n../../outside/secret\n{outside}/secret.jpg\nx\n', val='b')
    found = load_masks(str(root))
    assert stems(found.train) == 'a'
    assert len(found.left_out) == 4
    listed = [line for line in found.left_out if line.startswith(str(root / 'ImageSets/Segmentation/train.txt'))]
    assert len(listed) == 3
    assert all('no such picture in' in line for line in listed)
    assert 'no mask' in line_about(found.left_out, root / 'JPEGImages' / 'x.jpg')


def test_a_voc_list_that_cannot_be_read_does_not_pass_for_none(tmp_path):
    voc(tmp_path, train='a', val='b')
    (tmp_path / 'ImageSets' / 'Segmentation' / 'train.txt').write_bytes(b'stra\xdfe')
    assert 'UTF-8' in refusal(tmp_path)
    voc(tmp_path, train='gone', val='b')
    assert 'no training picture has a mask' in refusal(tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('RSQ_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def test_drawn_plates_say_what_their_values_mean(cache, monkeypatch):
    def few(progress):
        from rsq_backbone.datasets.synthetic import load_synthetic
        return load_synthetic(1, 64, progress=progress)

    monkeypatch.setattr('seg_demos.mask_sources.load_synthetic', few)
    found = load_masks('synthetic')
    assert found.coding.classes == ('background', *CLASSES)
    assert len(found.train) == len(CLASSES)
    assert 'drawn' in found.notes[0]
    for label, pair in enumerate(found.train):
        assert pair.picture.parent.name == CLASSES[label]
        mask = read_mask(pair.mask, found.coding)
        assert found.coding.classes[np.bincount(mask[mask > 0]).argmax()] == CLASSES[label]
    food_or_not = load_masks('synthetic-food')
    assert food_or_not.train == found.train
    assert food_or_not.coding.classes == ('background', 'food')
    for pair in food_or_not.train:
        np.testing.assert_array_equal(read_mask(pair.mask, food_or_not.coding), read_mask(pair.mask, found.coding) > 0)
    # The folder itself is one that a user may name.
    again = load_masks(str(found.train[0].picture.parents[2]))
    assert sorted(pair.mask for pair in again.train) == sorted(pair.mask for pair in found.train)


def oxford_pet(cache):
    """A copy of its layout with a picture a part."""
    root = cache / 'oxford-pet' / 'oxford-iiit-pet'
    (root / 'annotations' / 'trimaps').mkdir(parents=True)
    (root / 'images').mkdir()
    trimap = np.ones((30, 40), np.uint8)  # 1 the animal, 2 the background, 3 not classified (its README)
    trimap[:, 20:] = 2
    trimap[:, 18:22] = 3
    for part, name in (('trainval', 'Abyssinian_100'), ('test', 'yorkshire_terrier_9')):
        Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(root / 'images' / f'{name}.jpg')
        Image.fromarray(trimap).save(root / 'annotations' / 'trimaps' / f'{name}.png')
        (root / 'annotations' / f'{part}.txt').write_text(f'{name} 1 1 1\n')
    return root


def test_oxford_pet_s_trimaps_become_pet_background_and_ignored(cache):
    root = oxford_pet(cache)
    found = load_masks('oxford-pet')
    assert (found.name, found.coding.classes) == ('oxford-pet', ('background', 'pet'))
    assert pairs(found.train, root) == [('images/Abyssinian_100.jpg', 'annotations/trimaps/Abyssinian_100.png')]
    assert [pair.picture.stem for pair in found.val] == ['yorkshire_terrier_9']
    mask = read_mask(found.train[0].mask, found.coding)
    assert (mask[:, :18] == 1).all()
    assert (mask[:, 18:22] == IGNORED).all()
    assert (mask[:, 22:] == 0).all()


@pytest.mark.parametrize(
    'error', [OSError('no route\nto host'), RuntimeError('File not found or corrupted.'), EOFError('too short')])
def test_oxford_pet_without_a_network_says_how_to_have_it(cache, monkeypatch, error):
    def offline(*args, **kwargs):
        raise error

    monkeypatch.setattr('torchvision.datasets.oxford_iiit_pet.download_and_extract_archive', offline)
    message = refusal('oxford-pet')
    assert 'where there is a network' in message
    assert str(cache / 'oxford-pet') in message
    assert ' '.join(str(error).split()) in message


def test_half_a_copy_of_oxford_pet_is_refused(cache):
    root = oxford_pet(cache)
    shutil.rmtree(root / 'annotations' / 'trimaps')
    (root / 'annotations' / 'test.txt').unlink()
    assert f'delete {cache / "oxford-pet"}' in refusal('oxford-pet')

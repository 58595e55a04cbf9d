import gc
import hashlib
import shutil
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from rsq_backbone.datasets.checks import check
from rsq_backbone.datasets.folders import load_collection
from rsq_backbone.datasets.labelled_images import Collection, LabelledImages
from rsq_backbone.datasets.split import split
from rsq_backbone.errors import UserError
from rsq_backbone.images import inspect_image


def picture(seed, height=70, width=90):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def pets(root, seed=0, **counts):
    """Folders of different sound pictures: 0.png, 1.png, ..."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(seed).save(root / name / f'{i}.png')
            seed += 1
    return root


def lines_about(lines, *parts):
    found = [line for line in lines if all(str(part) in line for part in parts)]
    assert len(found) == 1, f'{parts} in {lines}'
    return found[0]


def names(images):
    return [f'{path.parent.name}/{path.name}' for path in images.paths]


def test_sound_pictures_pass_without_a_word(tmp_path):
    collection = load_collection(pets(tmp_path, cats=3, dogs=2))
    checked = check(collection)
    assert checked.collection == collection
    assert checked.left_out == ()
    assert checked.notes == ()
    assert checked.content == {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in collection.train.paths}


def test_unusable_pictures_are_left_out_with_a_line_each(tmp_path):
    pets(tmp_path, cats=3, dogs=3)
    whole = (tmp_path / 'cats' / '0.png').read_bytes()
    (tmp_path / 'cats' / 'empty.jpg').touch()
    (tmp_path / 'cats' / 'text.jpg').write_text('this is no picture')
    (tmp_path / 'cats' / 'truncated.png').write_bytes(whole[:len(whole) // 2])
    (tmp_path / 'dogs' / 'gone.png').symlink_to('nowhere.png')
    Image.new('RGB', (7, 100)).save(tmp_path / 'dogs' / 'small.png')
    Image.new('1', (10_001, 10_000)).save(tmp_path / 'dogs' / 'large.png')
    checked = check(load_collection(tmp_path))
    assert len(checked.left_out) == 6
    for name, says in [('empty.jpg', 'empty'), ('text.jpg', 'not an image'), ('truncated.png', 'damaged'),
                       ('gone.png', 'no such file'), ('small.png', 'too small'), ('large.png', 'million pixels')]:
        assert says in lines_about(checked.left_out, name)
    assert checked.collection.train.class_counts == (3, 3)
    assert set(checked.content) == set(checked.collection.train.paths)


def test_copies_of_different_classes_are_all_left_out(tmp_path):
    pets(tmp_path, cats=3, dogs=3, cows=2)
    for name in ('dogs/x.png', 'cows/y.png', 'cats/z.png'):
        shutil.copy(tmp_path / 'cats' / '0.png', tmp_path / name)
    checked = check(load_collection(tmp_path))
    assert checked.collection.train.classes == ('cats', 'cows', 'dogs')
    assert names(checked.collection.train) == [
        'cats/1.png', 'cats/2.png', 'cows/0.png', 'cows/1.png', 'dogs/0.png', 'dogs/1.png', 'dogs/2.png']
    assert len(checked.left_out) == 4
    line = next(line for line in checked.left_out if line.startswith(str(tmp_path / 'dogs' / 'x.png')))
    assert str(tmp_path / 'cats' / '0.png') in line
    assert 'of class dogs here and cats there' in line


def test_copies_in_a_class_are_kept_and_noted_once(tmp_path):
    pets(tmp_path, cats=3, dogs=2)
    for i in range(3):
        shutil.copy(tmp_path / 'cats' / '1.png', tmp_path / 'cats' / f'1 ({i}).png')
    checked = check(load_collection(tmp_path))
    assert checked.left_out == ()
    assert checked.collection.train.class_counts == (6, 2)
    [note] = checked.notes
    assert note.startswith('3 of 8 pictures: copies of another')
    assert f'{tmp_path / "cats" / "1 (0).png"} and {tmp_path / "cats" / "1 (1).png"}' in note
    train, val = split(checked.collection.train, 0.5, 0, checked.content)
    assert not {checked.content[path] for path in train.paths} & {checked.content[path] for path in val.paths}


def author_split(root):
    pets(root / 'train', cats=3, dogs=3)
    pets(root / 'val', seed=100, cats=2, dogs=2)
    return root


def test_the_author_s_validation_pictures_are_not_trained_on(tmp_path):
    author_split(tmp_path)
    shutil.copy(tmp_path / 'val' / 'cats' / '1.png', tmp_path / 'train' / 'cats' / 'leak.png')
    checked = check(load_collection(tmp_path))
    [line] = checked.left_out
    assert line.startswith(f'{tmp_path / "train" / "cats" / "leak.png"}: ')
    assert str(tmp_path / 'val' / 'cats' / '1.png') in line
    assert 'a validation picture' in line
    assert names(checked.collection.train) == [f'{name}/{i}.png' for name in ('cats', 'dogs') for i in range(3)]
    assert names(checked.collection.val) == [f'{name}/{i}.png' for name in ('cats', 'dogs') for i in range(2)]


@pytest.mark.parametrize('part', ['train', 'val'])
def test_of_copies_within_the_author_s_parts_the_first_is_kept(tmp_path, part):
    author_split(tmp_path)
    shutil.copy(tmp_path / part / 'dogs' / '1.png', tmp_path / part / 'dogs' / '2 copy.png')
    checked = check(load_collection(tmp_path))
    [line] = checked.left_out
    assert line.startswith(f'{tmp_path / part / "dogs" / "2 copy.png"}: the same picture as ')
    assert 'validation' not in line.replace(str(tmp_path), '')
    assert checked.notes == ()


def test_a_contradiction_across_the_author_s_parts_is_left_out_of_both(tmp_path):
    author_split(tmp_path)
    shutil.copy(tmp_path / 'val' / 'cats' / '0.png', tmp_path / 'train' / 'dogs' / 'x.png')
    checked = check(load_collection(tmp_path))
    assert [line.split(': ')[0] for line in checked.left_out] == [
        str(tmp_path / 'train' / 'dogs' / 'x.png'), str(tmp_path / 'val' / 'cats' / '0.png')]
    assert checked.collection.val.class_counts == (1, 2)


def test_classes_that_cannot_be_learnt_are_left_out_and_the_others_renumbered(tmp_path):
    pets(tmp_path, ants=1, bees=2, cows=3, dogs=2, eels=1)
    (tmp_path / 'dogs' / '1.png').write_bytes((tmp_path / 'dogs' / '0.png').read_bytes())  # one picture, twice
    (tmp_path / 'eels' / '0.png').write_bytes(b'')
    checked = check(load_collection(tmp_path))
    train = checked.collection.train
    assert train.classes == ('bees', 'cows')
    assert train.labels == (0, 0, 1, 1, 1)
    assert 'ants, dogs, eels' in lines_about(checked.notes, 'two different pictures')
    # Every picture is either kept or named.
    assert len(checked.left_out) + len(train) == 9
    for name in ('ants/0.png', 'dogs/0.png', 'dogs/1.png'):
        assert 'add some' in lines_about(checked.left_out, tmp_path / name)
    assert 'empty' in lines_about(checked.left_out, tmp_path / 'eels' / '0.png')


def test_a_class_whose_training_pictures_are_all_damaged_leaves_validation_too(tmp_path):
    author_split(tmp_path)
    pets(tmp_path / 'train', seed=200, eels=2, ants=2)
    pets(tmp_path / 'val', seed=300, eels=2)
    for path in tmp_path.glob('train/eels/*'):
        path.write_bytes(b'')
    checked = check(load_collection(tmp_path))
    assert checked.collection.train.classes == checked.collection.val.classes == ('ants', 'cats', 'dogs')
    assert checked.collection.val.labels == (1, 1, 2, 2)
    assert 'eels' in lines_about(checked.notes, 'training pictures')
    assert 'ants' in lines_about(checked.notes, 'without validation pictures')
    assert len(checked.left_out) == 4


def test_too_few_classes_are_refused_with_the_reason(tmp_path):
    pets(tmp_path, cats=5, dogs=2)
    (tmp_path / 'dogs' / '0.png').write_bytes(b'')
    with pytest.raises(UserError) as raised:
        check(load_collection(tmp_path))
    message = str(raised.value)
    assert '\n' not in message
    assert 'fewer than two classes' in message
    assert '2 of 7' in message
    assert f'{tmp_path / "dogs" / "0.png"}: the file is empty' in message


def test_a_collection_without_pictures_is_refused():
    nothing = LabelledImages((), (), ('a', 'b'))
    with pytest.raises(UserError, match='fewer than two classes'):
        check(Collection('nothing', nothing))


def test_an_author_s_split_without_usable_validation_pictures_is_refused(tmp_path):
    author_split(tmp_path)
    for path in tmp_path.glob('val/*/*.png'):
        path.write_bytes(b'')
    with pytest.raises(UserError, match='no validation pictures can be used; 4 of 10'):
        check(load_collection(tmp_path))


def test_what_had_to_be_converted_is_counted_with_the_first_file(tmp_path):
    pets(tmp_path, cats=2, dogs=2)
    for i in range(3):
        picture(100 + i).convert('L').save(tmp_path / 'dogs' / f'grey{i}.png')
    picture(110).convert('CMYK').save(tmp_path / 'cats' / 'print.jpg')
    exif = Image.Exif()
    exif[0x0112] = 3
    picture(111).save(tmp_path / 'cats' / 'turned.jpg', exif=exif)
    picture(112).save(tmp_path / 'cats' / 'moving.webp', save_all=True, append_images=[picture(113)])
    checked = check(load_collection(tmp_path))
    assert checked.left_out == ()
    assert checked.notes == (
        f'3 of 10 pictures: grey, repeated in three channels (first: {tmp_path / "dogs" / "grey0.png"}).',
        f'1 of 10 pictures: CMYK, converted to RGB (first: {tmp_path / "cats" / "print.jpg"}).',
        f'1 of 10 pictures: EXIF-rotated, turned upright (first: {tmp_path / "cats" / "turned.jpg"}).',
        f'1 of 10 pictures: several frames, only the first is used (first: {tmp_path / "cats" / "moving.webp"}).')


def test_suspicious_pictures_are_kept_and_noted(tmp_path):
    pets(tmp_path, cats=42, dogs=1)
    Image.new('RGB', (80, 80), 'blue').save(tmp_path / 'dogs' / 'blue.png')
    picture(100, 200, 63).save(tmp_path / 'cats' / 'slim.png')
    picture(101, 64, 64).save(tmp_path / 'cats' / 'square.png')
    checked = check(load_collection(tmp_path))
    assert checked.left_out == ()
    assert len(checked.notes) == 3
    assert lines_about(checked.notes, 'blue.png').startswith('1 of 46 pictures: of a single colour')
    assert lines_about(checked.notes, 'slim.png').startswith('1 of 46 pictures: shorter than 64 pixels')
    assert 'cats has 44 training pictures, dogs 2' in lines_about(checked.notes, 'Unequal')


def test_twenty_times_as_many_pictures_are_not_yet_extreme(tmp_path):
    assert check(load_collection(pets(tmp_path, cats=40, dogs=2))).notes == ()


def test_the_source_s_own_notes_stay_with_the_collection(tmp_path):
    pets(tmp_path, cats=2, dogs=2)
    (tmp_path / 'readme.txt').touch()
    collection = load_collection(tmp_path)
    checked = check(collection)
    assert checked.collection.notes == collection.notes != ()
    assert checked.notes == ()


def test_a_picture_named_twice_counts_as_its_copy(tmp_path):
    collection = load_collection(pets(tmp_path, cats=2, dogs=2))
    images = collection.train.subset([0, 1, 0, 2, 3])
    assert lines_about(check(Collection('twice', images)).notes, 'copies').startswith('1 of 5')
    with pytest.raises(UserError, match='listed as class cats and as class dogs; take out the wrong line'):
        check(Collection('both', LabelledImages(
            images.paths[:2] * 2, (0, 0, 1, 1), ('cats', 'dogs'))))


def test_progress_ends_with_all_pictures(tmp_path):
    calls = []
    check(load_collection(pets(tmp_path, cats=9, dogs=11)), lambda *call: calls.append(call))
    assert calls == [('checking pictures', done, 20) for done in range(1, 21)]


def test_the_process_s_warning_filters_are_left_as_they_were(tmp_path):
    collection = load_collection(pets(tmp_path, cats=20, dogs=20))
    before = list(warnings.filters)
    check(collection)
    assert warnings.filters == before


def live_pictures():
    gc.collect()
    return sum(isinstance(thing, Image.Image) for thing in gc.get_objects())


def test_neither_sound_nor_damaged_pictures_pile_up_in_memory(tmp_path):
    collection = load_collection(pets(tmp_path, cats=30, dogs=30))
    for path in collection.train.paths[::2]:
        path.write_bytes(path.read_bytes()[:5000])
    before = live_pictures()
    alive = []

    def progress(what, done, total):
        if done % 20 == 0:
            alive.append(live_pictures())

    assert len(check(collection, progress).left_out) == 30
    assert max(alive) - before <= 4 * 3  # threads; a picture, its upright copy and its RGB copy


def test_at_most_four_pictures_are_decoded_at_a_time_on_any_machine(tmp_path, monkeypatch):
    collection = load_collection(pets(tmp_path, cats=15, dogs=15))
    places, found_one = threading.Semaphore(4), []

    def slow(path):
        found_one.append(places.acquire(blocking=False))
        time.sleep(0.01)
        places.release()
        return inspect_image(path)

    monkeypatch.setattr('rsq_backbone.datasets.checks.inspect_image', slow)
    monkeypatch.setattr('os.cpu_count', lambda: 64)
    check(collection)
    assert all(found_one)

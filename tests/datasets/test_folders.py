import os

import pytest

from rsq_backbone.datasets.folders import load_collection
from rsq_backbone.errors import UserError


def make(root, *names):
    """Files that are named like pictures; nothing here opens them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'x')
    return root


def pairs(images, root):
    return [(path.relative_to(root).as_posix(), images.classes[label])
            for path, label in zip(images.paths, images.labels, strict=True)]


def refusal(source):
    with pytest.raises(UserError) as raised:
        load_collection(source)
    message = str(raised.value)
    assert '\n' not in message
    return message


def test_folders_are_classes_in_alphabetical_order(tmp_path):
    make(tmp_path / 'pets', 'dogs/2.jpg', 'dogs/1.PNG', 'cats/a.jpeg')
    collection = load_collection(tmp_path / 'pets')
    assert collection.name == 'pets'
    assert collection.val is None
    assert collection.notes == ()
    assert collection.train.classes == ('cats', 'dogs')
    assert pairs(collection.train, tmp_path / 'pets') == [
        ('cats/a.jpeg', 'cats'), ('dogs/1.PNG', 'dogs'), ('dogs/2.jpg', 'dogs')]


def test_pictures_are_found_at_any_depth(tmp_path):
    make(tmp_path, 'cats/2020/may/a.jpg', 'cats/b.jpg', 'dogs/c.jpg')
    assert pairs(load_collection(tmp_path).train, tmp_path) == [
        ('cats/2020/may/a.jpg', 'cats'), ('cats/b.jpg', 'cats'), ('dogs/c.jpg', 'dogs')]


def test_class_names_may_hold_spaces_and_any_script(tmp_path):
    names = ['hot dog', 'naïve', '寿司', '🍕', 'a\u00a0b']  # the last with a no-break space
    make(tmp_path, *(f'{name}/1.jpg' for name in names))
    assert load_collection(tmp_path).train.classes == tuple(sorted(names))


@pytest.mark.parametrize(('source', 'name'), [('.', 'pets'), ('cats/..', 'pets'), ('../link', 'link')])
def test_a_collection_has_the_name_of_its_folder(tmp_path, monkeypatch, source, name):
    make(tmp_path / 'pets', 'cats/a.jpg', 'dogs/a.jpg')
    (tmp_path / 'link').symlink_to('pets')
    monkeypatch.chdir(tmp_path / 'pets')
    assert load_collection(source).name == name


def test_what_is_passed_over_is_counted_by_kind(tmp_path):
    make(tmp_path, 'cats/a.jpg', 'cats/notes.txt', 'dogs/b.jpg', 'dogs/x/c.heic', 'dogs/.DS_Store', '.git/d.jpg',
         'cats/.thumbs/e.jpg', 'loose.jpg', 'readme.md')
    (tmp_path / 'birds').mkdir()
    collection = load_collection(tmp_path)
    assert collection.train.classes == ('cats', 'dogs')
    assert len(collection.train) == 2
    assert sorted(collection.notes) == [
        'Skipped class folders without pictures: 1 (first: birds).',
        'Skipped files not named like pictures: 3 (first: readme.md).',
        'Skipped hidden files and folders: 3 (first: .git).',
        'Skipped pictures outside the class folders: 1 (first: loose.jpg).',
    ]


@pytest.mark.parametrize('name', [b'caf\xe9', b'two\nlines', b'\x1b[31mred'])
def test_names_that_fit_into_no_report_are_skipped_and_shown_escaped(tmp_path, name):
    make(tmp_path, 'cats/a.jpg', 'dogs/b.jpg')
    try:
        open(os.fsencode(tmp_path / 'cats') + b'/' + name + b'.jpg', 'wb').close()
    except OSError:
        pytest.skip('this file system refuses such names')
    collection = load_collection(tmp_path)
    assert len(collection.train) == 2
    [note] = collection.notes
    note.encode()
    assert '\n' not in note
    assert '\x1b' not in note
    assert 'not UTF-8' in note
    assert '(first: cats/' in note


def test_links_are_followed_but_never_in_circles(tmp_path):
    make(tmp_path / 'elsewhere', 'deep/c.jpg')
    make(tmp_path / 'pets', 'cats/a.jpg', 'dogs/b.jpg')
    (tmp_path / 'pets' / 'cows').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'pets' / 'cats' / 'up').symlink_to('..')
    (tmp_path / 'pets' / 'cats' / 'self').symlink_to('.')
    (tmp_path / 'pets' / 'dogs' / 'top').symlink_to('/')
    (tmp_path / 'elsewhere' / 'deep' / 'back').symlink_to('..')
    (tmp_path / 'pets' / 'itself').symlink_to('itself')
    collection = load_collection(tmp_path / 'pets')
    assert pairs(collection.train, tmp_path / 'pets') == [
        ('cats/a.jpg', 'cats'), ('cows/deep/c.jpg', 'cows'), ('dogs/b.jpg', 'dogs')]
    assert 'Skipped links to folders that are read anyway: 4 (first: cats/up).' in collection.notes


def test_many_links_to_one_folder_are_read_once(tmp_path):
    """Thirty folders that each link twice to the next would otherwise be a billion."""
    for i in range(30):
        make(tmp_path, f'cats/{i}/{i}.jpg')
        for link in 'ab':
            (tmp_path / 'cats' / str(i) / link).symlink_to(tmp_path / 'cats' / str(i + 1))
    make(tmp_path, 'dogs/b.jpg')
    assert load_collection(tmp_path).train.class_counts == (30, 1)


def test_a_broken_link_is_kept_to_be_named_when_it_is_opened(tmp_path):
    make(tmp_path, 'cats/a.jpg', 'dogs/b.jpg')
    (tmp_path / 'cats' / 'gone.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    assert (tmp_path / 'cats' / 'gone.jpg') in load_collection(tmp_path).train.paths


@pytest.mark.parametrize(('train', 'val'), [
    ('train', 'val'), ('train', 'valid'), ('Train', 'Validation'), ('train', 'test'), ('Training', 'Testing')])
def test_a_split_by_the_author_is_kept(tmp_path, train, val):
    make(tmp_path, f'{train}/cats/a.jpg', f'{train}/dogs/b.jpg', f'{val}/cats/c.jpg', f'{val}/dogs/d.jpg')
    collection = load_collection(tmp_path)
    assert collection.train.classes == collection.val.classes == ('cats', 'dogs')
    assert pairs(collection.train, tmp_path) == [(f'{train}/cats/a.jpg', 'cats'), (f'{train}/dogs/b.jpg', 'dogs')]
    assert pairs(collection.val, tmp_path) == [(f'{val}/cats/c.jpg', 'cats'), (f'{val}/dogs/d.jpg', 'dogs')]
    assert collection.notes == ()


@pytest.mark.parametrize(('train', 'val'), [
    ('training_set', 'test_set'), ('seg_train', 'seg_test'), ('train', 'dev'), ('Train-2020', 'valid-2020'),
    ('training', 'my.holdout.val')])
def test_parts_by_other_names_are_told_by_the_folders_that_they_share(tmp_path, train, val):
    make(tmp_path, *(f'{part}/{name}/1.jpg' for part in (train, val) for name in ('cats', 'dogs')), 'docs/a.jpg')
    collection = load_collection(tmp_path)
    assert pairs(collection.train, tmp_path) == [(f'{train}/cats/1.jpg', 'cats'), (f'{train}/dogs/1.jpg', 'dogs')]
    assert pairs(collection.val, tmp_path) == [(f'{val}/cats/1.jpg', 'cats'), (f'{val}/dogs/1.jpg', 'dogs')]
    assert f'{train}/ is taken for training and {val}/ for validation: both hold the same folders.' in collection.notes


def test_parts_that_an_archive_has_wrapped_in_folders_of_their_own_name_are_unwrapped(tmp_path):
    make(tmp_path, *(f'seg_{part}/seg_{part}/{name}/1.jpg' for part in ('train', 'test') for name in ('cats', 'dogs')),
         'seg_pred/seg_pred/7.jpg')
    collection = load_collection(tmp_path)
    assert collection.train.classes == ('cats', 'dogs')
    assert {path.parts[-4] for path in collection.train.paths} == {'seg_train'}
    assert {path.parts[-4] for path in collection.val.paths} == {'seg_test'}
    make(tmp_path / 'plain', *(
        f'{part}/{part}/{name}/1.jpg' for part in ('train', 'val') for name in ('cats', 'dogs')))
    assert load_collection(tmp_path / 'plain').val.classes == ('cats', 'dogs')


def test_parts_by_name_may_share_a_single_class(tmp_path):
    make(tmp_path, 'training_data/a/1.jpg', 'training_data/b/1.jpg', 'validation_data/a/2.jpg')
    assert load_collection(tmp_path).val.classes == ('a', 'b')


def test_runs_are_no_classes(tmp_path):
    make(tmp_path, 'cats/1.jpg', 'dogs/1.jpg', 'runs/a/confusion.png', 'runs/a/settings.json', 'runs/a/metrics.json',
         'runs/b/.lock', 'runs/b/curves.png')
    collection = load_collection(tmp_path)
    assert collection.train.classes == ('cats', 'dogs')
    assert 'Skipped folders of training runs: 2 (first: runs/a).' in collection.notes


@pytest.mark.parametrize('parts', [('fold1', 'fold2', 'fold3'), ('left', 'right'), ('train_a', 'train_b')])
def test_folders_that_may_be_classes_or_parts_are_refused(tmp_path, parts):
    make(tmp_path, *(f'{part}/{name}/1.jpg' for part in parts for name in ('cats', 'dogs')))
    message = refusal(tmp_path)
    assert f'{parts[0]}/ and {parts[1]}/ both hold cats/ and dogs/' in message
    assert 'call them train/ and val/' in message


def test_classes_may_have_one_inner_folder_of_the_same_name_and_train_in_theirs(tmp_path):
    make(tmp_path, 'test tubes/images/a.jpg', 'train station/images/b.jpg', 'val/c.jpg')
    assert load_collection(tmp_path).train.classes == ('test tubes', 'train station', 'val')


@pytest.mark.parametrize('folder', ['@eaDir', '$RECYCLE.BIN', 'lost+found', '__MACOSX', '#recycle', '.cache'])
def test_folders_of_systems_are_neither_classes_nor_looked_into(tmp_path, folder):
    make(tmp_path, 'cats/1.jpg', f'cats/{folder}/1.jpg/thumb.jpg', 'dogs/1.jpg', f'{folder}/a.jpg')
    collection = load_collection(tmp_path)
    assert pairs(collection.train, tmp_path) == [('cats/1.jpg', 'cats'), ('dogs/1.jpg', 'dogs')]
    assert [note.split(':')[0] for note in collection.notes] == ['Skipped hidden files and folders']


@pytest.mark.parametrize('suffix', ['.pgm', '.pbm', '.pnm', '.ppm', '.jpe', '.PGM'])
def test_every_ending_of_a_format_that_is_read_is_found(tmp_path, suffix):
    make(tmp_path, f'cats/1{suffix}', f'dogs/1{suffix}')
    assert len(load_collection(tmp_path).train) == 2


def test_a_table_that_lists_a_file_more_than_once_is_told_the_lines(tmp_path):
    make(tmp_path, 'a.jpg', 'b.jpg', 'deep/c.jpg')
    (tmp_path / 'x.csv').write_text('path,label\na.jpg,cat\nb.jpg,dog\n\ndeep/../a.jpg,dog\ndeep/c.jpg,cat\n')
    [note] = load_collection(tmp_path / 'x.csv').notes
    assert note == f'x.csv lists {tmp_path.resolve() / "a.jpg"} more than once: line 2 as cat, line 5 as dog.'


def test_val_is_preferred_to_test_which_is_noted(tmp_path):
    make(tmp_path, *(f'{part}/{name}/1.jpg' for part in ('train', 'val', 'test') for name in ('cats', 'dogs')),
         'train/loose.jpg', 'top.jpg')
    collection = load_collection(tmp_path)
    assert {path.parts[-3] for path in collection.val.paths} == {'val'}
    assert sorted(collection.notes) == [
        'Skipped folders beside train/ and val/: 1 (first: test).',
        'Skipped pictures outside the class folders: 2 (first: top.jpg).']


def test_a_class_without_validation_pictures_keeps_its_number(tmp_path):
    make(tmp_path, 'train/ants/a.jpg', 'train/bees/b.jpg', 'train/cows/c.jpg', 'val/cows/d.jpg', 'val/ants/e.jpg')
    collection = load_collection(tmp_path)
    assert collection.val.classes == ('ants', 'bees', 'cows')
    assert collection.val.labels == (0, 2)


def test_a_class_with_validation_pictures_only_is_refused_by_name(tmp_path):
    make(tmp_path, 'train/cats/a.jpg', 'train/hot dog/b.jpg', 'val/cats/c.jpg', 'val/hot_dog/d.jpg')
    assert 'hot_dog' in refusal(tmp_path)


def test_train_without_val_is_a_class_like_any_other(tmp_path):
    make(tmp_path, 'bus/a.jpg', 'train/b.jpg')
    assert load_collection(tmp_path).train.classes == ('bus', 'train')


def test_an_unlabelled_test_folder_points_to_train_alone(tmp_path):
    make(tmp_path, 'train/cats/a.jpg', 'train/dogs/b.jpg', 'test/1.jpg')
    message = refusal(tmp_path)
    assert message.startswith(str(tmp_path / 'test'))
    assert f'name {tmp_path / "train"} alone' in message


def test_folders_that_cannot_be_classes_are_refused_with_the_way_to_arrange_them(tmp_path):
    (tmp_path / 'empty').mkdir()
    make(tmp_path / 'flat', 'a.jpg', 'b.jpg')
    make(tmp_path / 'other', 'cats/a.heic', 'dogs/b.heic')
    for name in ('empty', 'flat', 'other'):
        message = refusal(tmp_path / name)
        assert message.startswith(str(tmp_path / name))
        assert 'a folder of their own' in message
    assert 'outside the class folders: 2 (first: a.jpg)' in refusal(tmp_path / 'flat')
    assert 'not named like pictures: 2 (first: cats/a.heic)' in refusal(tmp_path / 'other')


def test_a_single_class_is_refused(tmp_path):
    make(tmp_path, 'download/cats/a.jpg', 'download/dogs/b.jpg')  # unpacked one folder too deep
    message = refusal(tmp_path)
    assert 'download' in message
    assert 'two classes' in message


def test_a_path_that_is_not_there_is_refused(tmp_path):
    assert 'no such folder or CSV file' in refusal(tmp_path / 'nowhere')
    assert 'no such folder or CSV file' in refusal(tmp_path / ('x' * 5000))


def table(tmp_path, text, encoding='utf-8'):
    make(tmp_path, 'cats/a.jpg', 'dogs/b.jpg', 'dogs/c, d.jpg')
    path = tmp_path / 'pets.csv'
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize('text', [
    'path,label\ncats/a.jpg,cat\ndogs/b.jpg,dog\n',
    'path;label\r\ncats/a.jpg;cat\r\n\r\ndogs/b.jpg;dog\r\n;\r\n',
    'Label\tsize\tPath\ncat\t3\tcats/a.jpg\ndog\t\tdogs/b.jpg',
    'path, label\n"cats/a.jpg", cat \ndogs/b.jpg, "dog",,\n',
])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_a_table_names_pictures_and_labels(tmp_path, text, encoding):
    collection = load_collection(table(tmp_path, text, encoding))
    assert collection.name == 'pets'
    assert collection.val is None
    assert pairs(collection.train, tmp_path) == [('cats/a.jpg', 'cat'), ('dogs/b.jpg', 'dog')]


def test_a_table_may_name_paths_elsewhere_and_quote_separators(tmp_path):
    outside = make(tmp_path / 'other', 'x.jpg') / 'x.jpg'
    path = table(tmp_path / 'tables', f'path,label\n../other/x.jpg,a\n{outside},a\n"dogs/c, d.jpg",b\n')
    collection = load_collection(path)
    assert [path.resolve() for path in collection.train.paths] == [
        outside, outside, tmp_path / 'tables' / 'dogs' / 'c, d.jpg']


def test_a_table_may_set_validation_pictures_apart(tmp_path):
    make(tmp_path, 'cats/v.jpg')
    collection = load_collection(table(
        tmp_path, 'path,label,split\ncats/a.jpg,cat,train\ncats/v.jpg,cat,VAL\ndogs/b.jpg,dog,train\n'))
    assert pairs(collection.train, tmp_path) == [('cats/a.jpg', 'cat'), ('dogs/b.jpg', 'dog')]
    assert pairs(collection.val, tmp_path) == [('cats/v.jpg', 'cat')]
    assert collection.val.classes == ('cat', 'dog')


@pytest.mark.parametrize(('text', 'says'), [
    ('', 'line 1: the columns path and label'),
    ('path,class\ncats/a.jpg,cat\n', 'line 1: the columns path and label'),
    ('cats/a.jpg,cat\n', 'line 1: the columns path and label'),
    ('path,label\n\ncats/a.jpg,\n', 'line 3: no label'),
    ('path,label\ncats/a.jpg\n', 'line 2: no label'),
    ('path,label\n ,cat\n', 'line 2: no path'),
    ('path,label,split\ncats/a.jpg,cat,train\ndogs/b.jpg,dog,tset\n', "line 3: split is 'tset'"),
    ('path,label,split\ncats/a.jpg,cat\n', "line 2: split is ''"),
    ('path,label\ndogs/c, d.jpg,dog\n', 'line 2: more cells than columns'),
    ('path,label\ncats/a.jpg,cat\n"dogs/b.jpg,dog\n\n', 'after line 2: unexpected end of data'),
    ('path,label\n"cats/a.jpg\n",cat\n"a\nb",cat\n', 'line 5: the path'),
    ('path,label\ncats/a.jpg,c\x01at\n', 'line 2: the label'),
    ('path,label\ncats/a.jpg,cat\ndogs/b.jpg,cat\n', 'two classes'),
    ('path,label\n', 'two classes'),
    ('path,label,split\ncats/a.jpg,cat,train\ndogs/b.jpg,dog,train\n', 'no line says val'),
    ('path,label,split\ncats/a.jpg,cat,val\ndogs/b.jpg,dog,val\n', 'no line says train'),
    ('path,label,split\ncats/a.jpg,cat,train\ndogs/b.jpg,dog,val\n', 'no training pictures of dog'),
])
def test_faults_of_a_table_are_told_with_their_line(tmp_path, text, says):
    path = table(tmp_path, text)
    message = refusal(path)
    assert message.startswith(str(path))
    assert says in message


def test_files_missing_from_a_table_are_named_with_their_lines(tmp_path):
    lines = ''.join(f'gone/{i}.jpg,dog\n' for i in range(5))
    message = refusal(table(tmp_path, f'path,label\ncats/a.jpg,cat\n{lines}cats,cat\n{"x" * 5000},cat\n'))
    assert '7 of the files' in message
    assert 'line 3: gone/0.jpg, line 4: gone/1.jpg, line 5: gone/2.jpg and 4 more' in message
    assert str(tmp_path) in message


def test_a_label_in_another_encoding_is_refused_with_its_line(tmp_path):
    path = table(tmp_path, 'path,label\ncats/a.jpg,cat\ndogs/b.jpg,dög\n', 'latin-1')
    assert 'line 3: the label is not UTF-8' in refusal(path)


@pytest.mark.parametrize('data', [
    b'PK\x03\x04' + bytes(range(256)) * 9, b'\x89PNG\r\n\x1a\n' + b'\0' * 100, 'path,label\n'.encode('utf-16'),
    b'\xff\xd8\xff\xe0' + b'\xaa' * 100_000])
def test_files_of_other_kinds_are_no_tables(tmp_path, data):
    (tmp_path / 'data').write_bytes(data)
    assert 'neither a folder nor a CSV file' in refusal(tmp_path / 'data')

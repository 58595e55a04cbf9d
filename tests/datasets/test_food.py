import hashlib
import io
import json
import resource
import shutil
import signal
import socketserver
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler

import pytest
from PIL import Image

from rsq_backbone.datasets.food import FOOD_URL, load_food
from rsq_backbone.errors import UserError

# Table 1 of the paper rests on these.
COUNTS = {
    'caesar_salad': 26, 'caprese_salad': 15, 'french_fries': 181, 'greek_salad': 24, 'hamburger': 238, 'hot_dog': 31,
    'pizza': 299, 'sashimi': 40, 'sushi': 124,
}
ZIP = 'ExampleFoodImageDataset.zip'


def picture(colour):
    file = io.BytesIO()
    Image.new('RGB', (8, 8), (colour % 256, colour // 256, 0)).save(file, 'JPEG')
    return file.getvalue()


@pytest.fixture(scope='module')
def pictures():
    """A file for each picture of the data set, named and counted like there, all different."""
    names = [f'{c}/{c}_{i:03}.jpg' for c, count in COUNTS.items() for i in range(count)]
    return {name: picture(i) for i, name in enumerate(names)}


def write_zip(path, pictures):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as file:
        for name, data in pictures.items():
            file.writestr(name, data)
    return path


def write_folder(path, pictures):
    for name, data in pictures.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder that the data set is kept in; not there yet."""
    monkeypatch.setenv('RSQ_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'food'


@pytest.fixture
def server(tmp_path, pictures, monkeypatch):
    """Has the zip at `server.url`, and writes down what is asked for."""
    write_zip(tmp_path / 'www' / ZIP, pictures)
    monkeypatch.setenv('no_proxy', '*')

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, text, *args):
            server.log.append(text % args)

    with socketserver.ThreadingTCPServer(
            ('127.0.0.1', 0), partial(Handler, directory=tmp_path / 'www')) as server:
        server.log, server.zip = [], tmp_path / 'www' / ZIP
        server.url = f'http://127.0.0.1:{server.server_address[1]}/{ZIP}'
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def refusal(**kwargs):
    with pytest.raises(UserError) as raised:
        load_food(**kwargs)
    message = str(raised.value)
    assert message.isprintable()
    assert '; ' in message  # what is wrong; how to mend it
    return message


def assert_complete(collection, pictures):
    """978 pictures with the right classes, in a stable order, and every one the file that it should be."""
    train = collection.train
    assert (collection.name, collection.val) == ('food', None)
    assert train.classes == tuple(sorted(COUNTS))
    assert dict(zip(train.classes, train.class_counts, strict=True)) == COUNTS
    assert len(train) == 978
    names = [f'{path.parent.name}/{path.name}' for path in train.paths]
    assert names == sorted(pictures)
    assert [train.classes[label] for label in train.labels] == [path.parent.name for path in train.paths]
    assert [path.read_bytes() for path in train.paths] == [pictures[name] for name in names]


# ---- where the pictures come from ----

def test_the_url_is_that_of_the_papers_data():
    assert FOOD_URL == 'https://www.mathworks.com/supportfiles/nnet/data/ExampleFoodImageDataset.zip'


def test_the_pictures_are_downloaded_once_and_their_origin_is_written_beside_them(home, server, pictures):
    told = []
    collection = load_food(lambda *args: told.append(args), server.url)
    assert_complete(collection, pictures)
    assert collection.notes == ()
    assert all(path.is_relative_to(home / 'pictures') for path in collection.train.paths)
    assert told[-1] == ('extracting food pictures', 978, 978)
    assert ('downloading food pictures, MB', 1, 1) in told
    told.clear()
    assert load_food(lambda *args: told.append(args), server.url) == collection
    assert told == []
    assert len(server.log) == 1
    record = json.loads((home / 'pictures.json').read_text())
    data = server.zip.read_bytes()
    assert record['url'] == server.url
    assert record['sha256'] == hashlib.sha256(data).hexdigest()
    assert record['bytes'] == len(data)
    assert record['counts'] == COUNTS


def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(home, network_gate):
    message = refusal()
    assert network_gate.attempts
    network_gate.attempts.clear()  # they would fail this test
    assert message.startswith(f'{FOOD_URL}: cannot be reached')
    assert message.endswith(f'fetch it by other means and put it at {home / ZIP}.')


@pytest.mark.parametrize('top', ['', 'ExampleFoodImageDataset/'])
def test_a_zip_put_there_by_hand_is_used_without_a_network(home, pictures, top):
    write_zip(home / ZIP, {top + name: data for name, data in pictures.items()})
    assert_complete(load_food(), pictures)


@pytest.mark.parametrize('top', ['', 'ExampleFoodImageDataset'])
def test_a_folder_of_extracted_pictures_put_there_by_hand_is_used_without_a_network(home, pictures, top):
    write_folder(home / 'pictures' / top, pictures)
    write_folder(home / 'pictures' / '__MACOSX', {name.replace('/', '/._'): b'' for name in pictures})
    write_folder(home / 'pictures' / top, {'.DS_Store': b'', 'pizza/._pizza_000.jpg': b''})
    collection = load_food()
    assert_complete(collection, pictures)
    assert collection.notes == ()
    assert load_food() == collection


def test_several_processes_at_once_download_once(home, server, pictures):
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_food(url=server.url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.log) == 1
    assert len(found) == 3
    for collection in found:
        assert_complete(collection, pictures)


# ---- what may be wrong with them ----

def test_a_zip_with_too_few_pictures_is_refused_with_the_counts(home, server, pictures):
    few = {name: data for name, data in pictures.items() if not name.startswith(('sushi/', 'pizza/pizza_00'))}
    write_zip(server.zip, few)
    assert refusal(url=server.url) == (
        f'{home / ZIP}: pictures are missing (pizza 289 of 299, sushi 0 of 124); delete it and run the command again.')
    assert not (home / 'pictures').exists()
    (home / ZIP).unlink()
    write_zip(server.zip, pictures)
    assert_complete(load_food(url=server.url), pictures)


def test_a_zip_with_surplus_pictures_is_used_and_said(home, server, pictures):
    write_zip(server.zip, {**pictures, 'pizza/pizza_299.jpg': picture(0), 'tacos/1.jpg': picture(0)})
    for _ in range(2):
        collection = load_food(url=server.url)
        assert collection.train.class_counts == (26, 15, 181, 24, 238, 31, 300, 40, 124)
        assert collection.notes == (
            "More pictures than in the paper's data: pizza 300 instead of 299.",
            "Left out, as not in the paper's data: 'tacos/1.jpg'.")


def test_pictures_that_disappear_later_are_named(home, server, pictures):
    load_food(url=server.url)
    (home / 'pictures' / 'pizza' / 'pizza_007.jpg').unlink()
    shutil.rmtree(home / 'pictures' / 'hot_dog')
    message = refusal(url=server.url)
    assert message == (
        f"{home / 'pictures'}: pictures are missing (hot_dog 0 of 31, without 'hot_dog_000.jpg', 'hot_dog_001.jpg', "
        "'hot_dog_002.jpg' and 28 more; pizza 298 of 299, without 'pizza_007.jpg'); delete the folder and run the "
        'command again.')
    shutil.rmtree(home / 'pictures')
    assert_complete(load_food(url=server.url), pictures)
    assert len(server.log) == 1  # the zip was still there


def test_pictures_that_disappear_from_a_folder_put_there_by_hand_are_named(home, pictures):
    write_folder(home / 'pictures', pictures)
    load_food()
    (home / 'pictures' / 'pizza' / 'pizza_007.jpg').unlink()
    assert "pizza 298 of 299, without 'pizza_007.jpg'" in refusal()


def test_a_folder_put_there_by_hand_with_too_few_pictures_is_refused_with_the_counts(home, pictures):
    write_folder(home / 'pictures', {name: data for name, data in pictures.items() if name != 'pizza/pizza_007.jpg'})
    assert 'pictures are missing (pizza 298 of 299)' in refusal()
    write_folder(home / 'pictures', pictures)
    assert_complete(load_food(), pictures)


def test_pictures_added_later_are_left_out_and_said(home, server, pictures):
    load_food(url=server.url)
    write_folder(home / 'pictures', {'pizza/mine.jpg': picture(0), 'tacos/1.jpg': picture(0)})
    collection = load_food(url=server.url)
    assert_complete(collection, pictures)
    assert collection.notes == ("Left out, as not in the paper's data: 'pizza/mine.jpg', 'tacos/1.jpg'.",)


def test_another_zip_than_before_is_said_from_then_on(home, server, pictures):
    load_food(url=server.url)
    first = hashlib.sha256(server.zip.read_bytes()).hexdigest()
    changed = {**pictures, 'pizza/pizza_000.jpg': picture(5)}
    write_zip(server.zip, changed)
    second = hashlib.sha256(server.zip.read_bytes()).hexdigest()
    (home / ZIP).unlink()
    for _ in range(2):  # downloaded, then extracted once more
        shutil.rmtree(home / 'pictures')
        collection = load_food(url=server.url)
        assert_complete(collection, changed)
        assert load_food(url=server.url) == collection
        assert collection.notes == (f'The zip is not the one used before: sha256 {second}, formerly {first}.',)


def test_the_same_zip_again_is_not_worth_a_word(home, server):
    load_food(url=server.url)
    (home / ZIP).unlink()
    shutil.rmtree(home / 'pictures')
    assert load_food(url=server.url).notes == ()
    assert len(server.log) == 2


def test_a_damaged_record_is_written_anew(home, server, pictures):
    load_food(url=server.url)
    record = json.loads((home / 'pictures.json').read_text())
    for files in (None, 3, {}, {**record['files'], 'pizza': [1]}):
        for text in ('', '[]', '{}', 'null', '\x00', json.dumps({**record, 'files': files})):
            (home / 'pictures.json').write_text(text)
            collection = load_food(url=server.url)
            assert collection.train.class_counts == tuple(COUNTS.values())
            assert json.loads((home / 'pictures.json').read_text())['files'] == record['files']


def test_a_login_page_instead_of_the_zip_is_refused(home, server):
    server.zip.write_text('<!DOCTYPE html><title>Log in</title>')
    assert f'{home / ZIP}: is not a whole zip file' in refusal(url=server.url)
    assert not (home / 'pictures').exists()


# ---- what may happen on the way ----

def test_a_cache_that_cannot_be_used_is_told(home, server):
    home.parent.write_text('not a folder')
    message = refusal(url=server.url)
    assert message.startswith(f'{home}: cannot be used')
    assert 'RSQ_CACHE' in message


def test_a_full_disk_is_told_in_one_line(home, server, pictures):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the closest to a full disk that a test can have
    try:
        message = refusal(url=server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 'cannot be used ([Errno 27] File too large' in message
    assert not (home / ZIP).exists()
    assert_complete(load_food(url=server.url), pictures)


DYING = '''
import os, signal, sys
from rsq_backbone.datasets.food import load_food

def die_at(moment):
    if moment == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

def before_renaming(event, args):
    if event == 'os.rename':
        die_at('renaming ' + os.path.basename(args[1]))

sys.addaudithook(before_renaming)
load_food(lambda what, done, total: die_at(f'{what.split()[0]} {done}'), sys.argv[1])
'''


@pytest.mark.parametrize('moment', [
    f'renaming {ZIP}', 'extracting 500', 'renaming pictures.json', 'renaming pictures',
])
def test_killed_at_any_moment_leaves_nothing_that_looks_finished_and_can_be_run_again(
        home, server, pictures, run_python, moment):
    assert run_python(DYING, server.url, moment, check=False).returncode == -signal.SIGKILL
    assert not (home / 'pictures').exists()
    collection = load_food(url=server.url)
    assert_complete(collection, pictures)
    assert collection.notes == ()
    assert not (home / 'pictures.part').exists()

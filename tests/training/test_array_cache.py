"""Arrays on disk: computed once, never damaged, never without bound."""
import errno
import os
import shutil
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from rsq_backbone.training import array_cache
from rsq_backbone.training.array_cache import NotKept, array_key, cached_array

SHAPE = (10, 100)


@pytest.fixture
def folder(own_cache):
    return own_cache / 'arrays'


class Fill:
    """Fills with 0, 1, 2, ... and counts how often it is asked to."""

    def __init__(self):
        self.calls = 0

    def __call__(self, array):
        self.calls += 1
        array[:] = np.arange(array.size).reshape(array.shape)


def get(key='key', fill=None, shape=SHAPE, dtype=np.float16):
    return cached_array(key, shape, dtype, fill or Fill())


def kept(folder):
    return {file.stem for file in folder.iterdir()}


EXPECTED = np.arange(1000).reshape(SHAPE).astype(np.float16)


def test_an_array_is_computed_once_and_cannot_be_written_to(folder):
    fill = Fill()
    for _ in range(3):
        array = get(fill=fill)
        np.testing.assert_array_equal(array, EXPECTED)
        assert array.dtype == np.float16
        assert not array.flags.writeable
    assert fill.calls == 1
    assert kept(folder) == {'key'}


@pytest.mark.parametrize(('shape', 'dtype'), [((100, 10), np.float16), (SHAPE, np.uint8), ((10, 101), np.float16)])
def test_an_array_of_another_shape_or_type_is_not_taken_for_it(shape, dtype):
    get()
    fill = Fill()
    array = get(fill=fill, shape=shape, dtype=dtype)
    assert (array.shape, array.dtype, fill.calls) == (shape, dtype, 1)


def test_a_file_cut_off_anywhere_is_computed_anew(folder):
    get()
    data = (folder / 'key.npy').read_bytes()
    for cut in [*range(0, 140, 3), len(data) // 2, len(data) - 1]:
        (folder / 'key.npy').write_bytes(data[:cut])
        fill = Fill()
        np.testing.assert_array_equal(get(fill=fill), EXPECTED)
        assert fill.calls == 1


def test_a_file_with_a_damaged_header_is_computed_anew(folder):
    get()
    file = folder / 'key.npy'
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(128):
        for value in (0, 0x28, 0x27, 0x5C, 0xFF, int(rng.integers(256))):
            damaged = bytearray(data)
            damaged[place] = value
            file.write_bytes(damaged)
            array = get()
            assert array.shape == SHAPE
            assert array.dtype == np.float16
            np.testing.assert_array_equal(array, EXPECTED)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_of_another_kind_is_replaced_and_not_executed(folder, tmp_path):
    folder.mkdir(parents=True)
    file = folder / 'key.npy'

    def pickled():
        with file.open('wb') as stream:
            np.save(stream, np.array([Evil(tmp_path / 'executed')], dtype=object), allow_pickle=True)

    def zipped():
        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('x', 'y')

    for write in (pickled, zipped, lambda: file.write_bytes(b'PK\x03\x04'), lambda: file.write_text('no array'),
                  lambda: file.write_bytes(b'')):
        write()
        np.testing.assert_array_equal(get(), EXPECTED)
    assert not (tmp_path / 'executed').exists()


def test_what_was_not_used_for_longest_goes_first(folder, monkeypatch):
    for age, key in enumerate(('a', 'b', 'c')):
        get(key)
        then = time.time() - 1000 + age
        os.utime(folder / f'{key}.npy', (then, then))
    fill = Fill()
    get('a', fill)  # used again, though it is the oldest
    assert fill.calls == 0
    size = (folder / 'a.npy').stat().st_size
    monkeypatch.setattr(array_cache, 'LIMIT_BYTES', 3 * size)
    get('d')
    assert kept(folder) == {'a', 'c', 'd'}
    monkeypatch.setattr(array_cache, 'LIMIT_BYTES', 2 * size)
    get('e')
    assert kept(folder) == {'d', 'e'}


def test_the_cache_never_grows_beyond_its_limit(folder, monkeypatch):
    monkeypatch.setattr(array_cache, 'LIMIT_BYTES', 20_000)
    for i in range(30):
        get(str(i), shape=(10, 100 + 10 * i))
        files = list(folder.iterdir())
        assert sum(file.stat().st_size for file in files) <= 20_000 + 128 * len(files)  # a header of 128 bytes each


def test_an_array_that_was_taken_can_be_read_after_it_was_removed(folder, monkeypatch):
    array = get('a')
    monkeypatch.setattr(array_cache, 'LIMIT_BYTES', 2200)
    get('b')
    assert kept(folder) == {'b'}
    np.testing.assert_array_equal(array, EXPECTED)


def test_too_large_an_array_is_not_kept_and_costs_the_others_nothing(folder, monkeypatch):
    get('a')
    monkeypatch.setattr(array_cache, 'LIMIT_BYTES', 3000)
    fill = Fill()
    with pytest.raises(NotKept, match='GB'):
        get('b', fill, shape=(100, 100))
    assert fill.calls == 0
    assert kept(folder) == {'a'}


def test_a_disk_that_is_nearly_full_is_left_alone(folder, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(10**12, 10**12 - 10**8, 10**8))
    with pytest.raises(NotKept, match='disk'):
        get()


def test_leftovers_of_killed_processes_are_removed_once_they_are_old(folder):
    folder.mkdir(parents=True)
    for name, days in (('.old-1.npy', 2), ('.young-1.npy', 0.5)):
        (folder / name).touch()
        then = time.time() - days * 24 * 3600
        os.utime(folder / name, (then, then))
    get()
    assert {file.name for file in folder.iterdir()} == {'.young-1.npy', 'key.npy'}


@pytest.mark.parametrize('error', [RuntimeError('no'), KeyboardInterrupt(), NotKept('no')])
def test_what_could_not_be_computed_leaves_nothing_behind(folder, error):
    def fail(array):
        array[:5] = 1
        raise error

    with pytest.raises(type(error)):
        get(fill=fail)
    assert kept(folder) == set()
    np.testing.assert_array_equal(get(), EXPECTED)


def test_a_full_disk_is_an_error_before_anything_is_computed(folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'posix_fallocate', full, raising=False)
    fill = Fill()
    with pytest.raises(OSError, match='No space left'):
        get(fill=fill)
    assert fill.calls == 0
    assert kept(folder) == set()


@pytest.mark.skipif(not hasattr(os, 'posix_fallocate'), reason='the system cannot reserve space')
def test_the_space_is_reserved_before_the_array_is_written_to(folder):
    """Else a disk that fills up meanwhile kills the process with a bus error."""
    reserved = []

    def fill(array):
        reserved.extend(file.stat().st_blocks * 512 for file in folder.iterdir())

    get(fill=fill, shape=(1000, 1000), dtype=np.uint8)
    assert reserved[0] >= 1_000_000


@pytest.mark.parametrize('name', ['vanished.npy', '.vanished.npy'])
def test_a_file_that_another_process_removes_meanwhile_does_not_matter(folder, name):
    folder.mkdir(parents=True)
    (folder / name).symlink_to(folder / 'nowhere')  # listed, but gone when it is looked at
    np.testing.assert_array_equal(get(), EXPECTED)


def test_a_cache_that_may_only_be_read_is_read(monkeypatch):
    get()

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, 'touch', refuse)
    fill = Fill()
    np.testing.assert_array_equal(get(fill=fill), EXPECTED)
    assert fill.calls == 0


def test_a_cache_folder_that_cannot_be_made_means_that_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('RSQ_CACHE', str(tmp_path / 'file' / 'cache'))
    with pytest.raises(NotKept):
        get()


def test_keys_differ_where_anything_differs():
    parts = [
        ('features', 'a', [0.5, 0.5], 1), ('features', 'b', [0.5, 0.5], 1), ('features', 'a', [0.5, 0.6], 1),
        ('pictures', 'a', [0.5, 0.5], 1), ('features', 'a', [0.5, 0.5], 2), ('features', 'a', 0.5, 0.5, 1)]
    assert len({array_key(*p) for p in parts}) == len(parts)
    assert array_key(*parts[0]) == array_key(*parts[0])
    assert array_key(*parts[0]).isalnum()

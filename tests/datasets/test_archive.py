import random
import resource
import shutil
import signal
import stat
import struct
import warnings
import zipfile

import pytest

from rsq_backbone.datasets.archive import extracted
from rsq_backbone.errors import UserError

FILES = {
    'pizza/1.jpg': b'first', 'pizza/2.jpg': random.Random(0).randbytes(100_000), 'sushi/1.jpg': b'', 'notes.txt': b'x',
}


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / 'archive.zip', FILES)


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    """From names or ZipInfo to bytes; entries may be as wrong as the test wants them."""
    with zipfile.ZipFile(path, 'w', compression) as file, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of duplicates
        for name, data in files.items() if isinstance(files, dict) else files:
            file.writestr(name, data)
    return path


def extract(archive, max_entries=100, max_bytes=1_000_000):
    """Extract to `pictures` beside the archive; gives what lies in there, and the progress that was told."""
    told = []
    folder = archive.parent / 'pictures'
    with extracted(archive, folder, 'extracting', max_entries, max_bytes, lambda *args: told.append(args)) as temporary:
        assert not folder.exists()
        assert temporary.parent == folder.parent  # the same disk, so that renaming is one step
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}, told


def refusal(archive, **kwargs):
    """The one line that refuses an archive, of which nothing must be left."""
    with pytest.raises(UserError) as raised:
        extract(archive, **kwargs)
    message = str(raised.value)
    assert message.startswith(f'{archive}: ')
    assert message.endswith('; delete it and download it again.')
    assert message.isprintable()
    assert list(archive.parent.iterdir()) == [archive]
    return message


def test_all_files_are_extracted_with_progress(archive):
    files, told = extract(archive)
    assert files == FILES
    assert told == [('extracting', i, 4) for i in (1, 2, 3, 4)]


def test_what_macos_and_windows_leave_behind_is_passed_over(tmp_path):
    clutter = ('__MACOSX/pizza/._1.jpg', 'pizza/._1.jpg', '.DS_Store', 'pizza/.DS_Store', 'pizza/Thumbs.db')
    archive = write_zip(tmp_path / 'a.zip', {'pizza/': b'', **FILES, **dict.fromkeys(clutter, b'clutter')})
    assert extract(archive)[0] == FILES


@pytest.mark.parametrize('name', [
    '/etc/passwd', '../1.jpg', 'pizza/../../1.jpg', 'pizza/..', '..', '../outside/', '__MACOSX/../../1.jpg',
    'C:/1.jpg', 'C:1.jpg', '..\\1.jpg', 'pizza\\1.jpg', '\\\\server\\1.jpg', '//server/1.jpg', 'pizza/1.jpg:stream',
    'pizza/\n1.jpg', 'pizza/\x1b[2J.jpg', 'pizza/\u20281.jpg', 'a/' * 1000 + '1.jpg',
])
def test_paths_that_lead_elsewhere_are_refused(tmp_path, name):
    archive = write_zip(tmp_path / 'a.zip', {**FILES, name: b'evil'})
    assert 'no plain path inside a folder' in refusal(archive)


def test_a_name_that_is_cut_at_a_zero_byte_is_refused(tmp_path):
    archive = write_zip(tmp_path / 'a.zip', {'pizza/1.jpg#.exe': b'evil'})
    archive.write_bytes(archive.read_bytes().replace(b'1.jpg#', b'1.jpg\0'))
    assert 'no plain path inside a folder' in refusal(archive)


@pytest.mark.parametrize('kind', [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo('pizza/link')
    info.external_attr = (kind | 0o777) << 16
    assert 'no ordinary file' in refusal(write_zip(tmp_path / 'a.zip', {info: '/etc'}))


def test_encrypted_files_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as file:
        file.writestr('1.jpg', b'secret')
        file.filelist[0].flag_bits |= 1
    assert 'encrypted' in refusal(tmp_path / 'a.zip')


@pytest.mark.parametrize('names', [('1.jpg', '1.jpg'), ('a', 'a/1.jpg'), ('a', 'a/b/1.jpg'), ('a/1.jpg', 'a')])
def test_two_files_at_one_place_are_refused(tmp_path, names):
    archive = write_zip(tmp_path / 'a.zip', [(name, name) for name in names])
    assert f'holds {names[1]!r} twice' in refusal(archive)


@pytest.mark.parametrize('compression', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_zipfile_inflates_without_bounds_is_refused(tmp_path, compression):
    assert 'unusual' in refusal(write_zip(tmp_path / 'a.zip', {'1.jpg': bytes(100_000)}, compression))


def test_too_many_files_are_refused_before_zipfile_reads_their_names(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / 'a.zip', {f'{i}.jpg': b'' for i in range(101)})
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, '__init__', lambda *args: pytest.fail('opened'))
        assert 'more than 100 files' in refusal(archive)
    assert len(extract(archive, max_entries=101)[0]) == 101


def test_too_many_bytes_are_refused(tmp_path):
    archive = write_zip(tmp_path / 'a.zip', {f'{i}.jpg': bytes(1000) for i in range(11)}, zipfile.ZIP_STORED)
    assert 'inflates to more than 10,999 bytes' in refusal(archive, max_bytes=10_999)
    assert len(extract(archive, max_bytes=11_000)[0]) == 11


def test_a_zip_bomb_is_refused_by_its_ratio(tmp_path):
    archive = write_zip(tmp_path / 'a.zip', {f'{i}.jpg': bytes(10_000_000) for i in range(3)})
    limit = 100 * archive.stat().st_size
    assert limit < 3_100_000  # deflate makes a thousandth of zeros
    assert f'inflates to more than {limit:,} bytes' in refusal(archive, max_bytes=10 ** 9)


def test_a_bomb_whose_directory_announces_small_files_is_refused(tmp_path):
    archive = write_zip(tmp_path / 'a.zip', {'1.jpg': bytes(10_000_000)})
    lie = archive.read_bytes().replace(struct.pack('<I', 10_000_000), struct.pack('<I', 100))
    archive.write_bytes(lie)
    with zipfile.ZipFile(archive) as file:
        assert file.infolist()[0].file_size == 100
    assert "damaged at '1.jpg' (Bad CRC-32" in refusal(archive)


def test_a_bomb_of_overlapping_files_is_refused(tmp_path):
    """Many entries that share one piece of compressed data, so that no single one has a high ratio."""
    archive = tmp_path / 'a.zip'
    with zipfile.ZipFile(archive, 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('1.jpg', random.Random(0).randbytes(50_000) * 2)
        file.filelist *= 90
    assert archive.stat().st_size < 110_000
    refusal(archive, max_bytes=10 ** 9)


@pytest.mark.parametrize('data', [b'', b'PK', b'PK\5\6', b'<!DOCTYPE html><title>Log in</title>', bytes(100_000)])
def test_what_is_no_zip_is_refused(tmp_path, data):
    archive = tmp_path / 'a.zip'
    archive.write_bytes(data)
    assert 'is not a whole zip file' in refusal(archive)


def test_every_truncation_is_refused(archive):
    data = archive.read_bytes()
    for cut in [*range(0, 1000, 50), *range(1000, len(data), 9973), *range(len(data) - 300, len(data), 7)]:
        archive.write_bytes(data[:cut])
        assert 'is not a whole zip file' in refusal(archive)


def test_every_damaged_byte_is_refused_or_without_effect(tmp_path):
    """Flip a bit of any byte: never an exception of another kind, never another content, never a file left behind."""
    files = {'pizza/1.jpg': b'first' * 10, 'sushi/2.jpg': b'second'}
    folder = tmp_path / 'folder'
    folder.mkdir()
    archive = write_zip(folder / 'a.zip', files)
    data = archive.read_bytes()
    refused = 0
    for position in range(len(data)):
        archive.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1:])
        try:
            found, _ = extract(archive)
        except UserError:
            refused += 1
        else:
            assert set(found.values()) <= set(files.values())
            shutil.rmtree(folder / 'pictures')
        assert list(folder.iterdir()) == [archive]
    assert refused > len(data) // 2


def test_a_full_disk_is_told_and_leaves_nothing(archive):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the closest to a full disk that a test can have
    try:
        with pytest.raises(OSError, match='File too large'):
            extract(archive)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(archive.parent.iterdir()) == [archive]


def test_what_is_found_wrong_inside_leaves_nothing(archive):
    with pytest.raises(UserError, match='not these pictures'), \
            extracted(archive, archive.parent / 'pictures', 'extracting', 100, 1_000_000):
        raise UserError('not these pictures')
    assert list(archive.parent.iterdir()) == [archive]


def test_killed_in_between_leaves_no_folder_and_can_be_run_again(archive, run_python):
    done = run_python('''
        import os, signal, sys
        from pathlib import Path
        from rsq_backbone.datasets.archive import extracted

        archive = Path(sys.argv[1])
        with extracted(archive, archive.parent / 'pictures', '', 100, 1_000_000, lambda what, done, total:
                       os.kill(os.getpid(), signal.SIGKILL) if done == 2 else None):
            pass
    ''', str(archive), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (archive.parent / 'pictures').exists()
    assert (archive.parent / 'pictures.part').exists()
    assert extract(archive)[0] == FILES
    assert not (archive.parent / 'pictures.part').exists()

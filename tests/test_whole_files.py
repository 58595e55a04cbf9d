"""Files are whole or not there; links stay links, and what is no file is written to."""
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import List

import pytest

from rsq_backbone.files import write_rows, write_text


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / 'real').mkdir()
    (tmp_path / 'real' / 'target.txt').write_text('old')
    (tmp_path / 'link.txt').symlink_to(tmp_path / 'real' / 'target.txt')
    (tmp_path / 'to be.txt').symlink_to(tmp_path / 'real' / 'new.txt')
    for link, target in (('link.txt', 'target.txt'), ('to be.txt', 'new.txt')):
        write_text(tmp_path / link, 'new')
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / 'real' / target).read_text() == 'new'
    assert sorted(os.listdir(tmp_path)) == ['link.txt', 'real', 'to be.txt']


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_pipe_is_written_to_and_one_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(OSError, match='No such device or address'):
        write_text(tmp_path / 'pipe', 'lost')
    read: List[str] = []
    text = 'x' * 1_000_000  # more than a pipe holds
    reader = threading.Thread(target=lambda: read.append((tmp_path / 'pipe').read_text()))
    reader.start()
    for _ in range(1000):
        try:
            write_text(tmp_path / 'pipe', text)
            break
        except OSError:  # the reader has not come yet
            time.sleep(0.01)
    reader.join()
    assert read == [text]
    assert (tmp_path / 'pipe').is_fifo()


@pytest.mark.skipif(not Path('/dev/fd').exists(), reason='this system does not show open files')
def test_an_open_file_is_gone_on_with_and_not_replaced(tmp_path: Path) -> None:
    code = (
        'import pathlib, rsq_backbone.files as f; print("head"); '
        'f.write_text(pathlib.Path("/dev/stdout"), "rows\\n")')
    (tmp_path / 'log').write_text('before\n')
    with (tmp_path / 'log').open('a') as log:
        subprocess.run([sys.executable, '-c', code + '; print("foot")'], stdout=log, check=True)
    assert (tmp_path / 'log').read_text() == 'before\nhead\nrows\nfoot\n'


@pytest.mark.skipif(not os.access('/dev/shm', os.W_OK), reason='there is no file system in memory')
def test_a_file_system_below_dev_is_one_like_any_other() -> None:
    with tempfile.TemporaryDirectory(dir='/dev/shm') as folder:
        for text in ('a longer text', 'short'):
            write_text(Path(folder) / 'x', text)
            assert (Path(folder) / 'x').read_text() == text


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / 'secret').touch()
    (tmp_path / 'secret').chmod(0o600)
    write_text(tmp_path / 'secret', 'new')
    assert (tmp_path / 'secret').stat().st_mode & 0o777 == 0o600


def test_a_folder_in_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, Path('.')):
        with pytest.raises(OSError, match=r'[Dd]irectory'):
            write_text(path, 'text')


def test_names_that_are_not_utf_8_are_written_as_they_are_on_disk(tmp_path: Path) -> None:
    name = os.fsdecode(b'b-\xff.png')
    write_rows(tmp_path / 'a.csv', [('path',), (name,), ('\u00fc.png',)])
    assert (tmp_path / 'a.csv').read_bytes().splitlines() == [b'path', b'b-\xff.png', '\u00fc.png'.encode()]
    with (tmp_path / 'a.csv').open(newline='', encoding='utf-8', errors='surrogateescape') as stream:
        assert list(csv.reader(stream))[1] == [name]

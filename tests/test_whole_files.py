"""Files are whole or not there; links stay links, and what is no file is written to."""
import csv
import os
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


def test_names_that_are_not_utf_8_are_written_as_they_are_on_disk(tmp_path: Path) -> None:
    name = os.fsdecode(b'b-\xff.png')
    write_rows(tmp_path / 'a.csv', [('path',), (name,), ('\u00fc.png',)])
    assert (tmp_path / 'a.csv').read_bytes().splitlines() == [b'path', b'b-\xff.png', '\u00fc.png'.encode()]
    with (tmp_path / 'a.csv').open(newline='', encoding='utf-8', errors='surrogateescape') as stream:
        assert list(csv.reader(stream))[1] == [name]

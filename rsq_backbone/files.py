"""Files and folders that are either whole or not there, and what tells one file from another."""
import csv
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterable, Iterator, Sequence

__all__ = [
    'replaced_folder', 'set_aside', 'sha256_of', 'whole_file', 'whole_folder', 'write_rows', 'write_text',
]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffix, which takes its place once the block has ended well.

    Whoever is killed in between leaves a hidden file that does not look like a result; an error removes it. A symbolic
    link stays one, and what it leads to is replaced. What is no file, such as a pipe or /dev/stdout, is written to.
    """
    if path.exists() and (not path.is_file() or os.path.realpath(path).startswith(('/dev/', '/proc/'))):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.with_suffix(path.suffix or '.out').name
            temporary.touch()
            yield temporary
            # Of a pipe that nobody reads this says so, and does not wait.
            with open(os.open(path, os.O_WRONLY | getattr(os, 'O_NONBLOCK', 0)), 'wb') as stream:
                if hasattr(os, 'set_blocking'):
                    os.set_blocking(stream.fileno(), True)
                stream.write(temporary.read_bytes())
        return
    path = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=f'.{path.stem}-', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open('rb') as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are for the owner only
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, `path` + '.part', which takes its place once the block has ended well.

    Whoever is killed in between leaves it to the next call, which removes it; an error removes it at once. Only one
    call at a time may work on the same folder.
    """
    temporary = path.with_name(f'{path.name}.part')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """As `whole_folder`, in the place of a folder that may be there already.

    That one is set aside at once, not deleted file by file: a stop leaves either of the two whole.
    """
    before = set_aside(path)
    try:
        with whole_folder(path) as temporary:
            yield temporary
            if path.exists():
                shutil.rmtree(before, ignore_errors=True)
                path.rename(before)
    finally:
        if not path.exists() and before.exists():
            before.rename(path)
        shutil.rmtree(before, ignore_errors=True)


def set_aside(path: Path) -> Path:
    """Where a folder that is replaced stays until the new one is there."""
    return path.with_name(f'{path.name}.before')


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file in UTF-8; the first row is the head."""
    # Names of files that are not UTF-8 come out as they are on disk.
    with whole_file(path) as temporary, temporary.open(
            'w', newline='', encoding='utf-8', errors='surrogateescape') as stream:
        csv.writer(stream).writerows(rows)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def sha256_of(file: BinaryIO) -> str:
    """Of all its bytes, in hexadecimal."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()

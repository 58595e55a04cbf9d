"""Files and folders that are either whole or not there, and what tells one file from another."""
import csv
import hashlib
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterable, Iterator, Optional, Sequence

__all__ = [
    'is_stream', 'replaced_folder', 'set_aside', 'sha256_of', 'whole_file', 'whole_folder', 'write_rows', 'write_text',
]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffix, which takes its place once the block has ended well.

    Whoever is killed in between leaves a hidden file that does not look like a result; an error removes it. A symbolic
    link stays one, and what it leads to is replaced. What is no file, such as a pipe or /dev/stdout, is written to.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / f'out{path.suffix}'
            temporary.touch()
            yield temporary
            with _opened_stream(path) as stream:
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
        # mkstemp's files are for the owner only; one that is replaced keeps its permissions.
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_stream(path: Path) -> bool:
    """Whether what is there is written to and not replaced: a pipe, a device, or an open file by its number."""
    return _descriptor(path) is not None or (path.exists() and not path.is_file())


def _descriptor(path: Path) -> Optional[int]:
    """The number of the open file that a path such as /dev/stdout stands for."""
    named = {'/dev/stdout': 1, '/dev/stderr': 2}
    found = re.fullmatch(r'/(?:dev|proc/self)/fd/(\d+)', str(path))
    return named.get(str(path), int(found.group(1)) if found else None)


def _opened_stream(path: Path) -> BinaryIO:
    """Raises an OSError for a pipe that nobody reads, and does not wait for a reader."""
    number = _descriptor(path)
    if number is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        return os.fdopen(os.dup(number), 'wb')  # opened anew, a file would be written from its beginning
    opened = os.fdopen(os.open(path, os.O_WRONLY | getattr(os, 'O_NONBLOCK', 0)), 'wb')
    if hasattr(os, 'set_blocking'):
        os.set_blocking(opened.fileno(), True)
    return opened


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
        csv.writer(stream).writerows([_storable(cell) for cell in row] for row in rows)


def _storable(cell: Any) -> Any:
    try:
        str(cell).encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:  # half of a character, which no file's name gives
        return str(cell).encode('utf-8', 'backslashreplace').decode('utf-8')
    return cell


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

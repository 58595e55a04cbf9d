"""Files that are either whole or not there."""
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

__all__ = ['whole_file', 'write_text']


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffix, which takes its place once the block has ended well.

    Whoever is killed in between leaves a hidden file that does not look like a result; an error removes it.
    """
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


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding='utf-8')

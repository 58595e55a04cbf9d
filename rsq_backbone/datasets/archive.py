"""Extraction of zip files from anywhere."""
import mmap
import stat
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import whole_folder
from rsq_backbone.progress import Progress, silent

__all__ = ['extracted']

MAX_RATIO = 100  # of the extracted size to the zip's; pictures hardly shrink
MAX_DEPTH = 20
# What macOS and Windows leave behind.
_CLUTTER = frozenset({'__MACOSX', '.DS_Store', 'Thumbs.db', 'desktop.ini'})


@contextmanager
def extracted(archive: Path, folder: Path, what: str, max_entries: int, max_bytes: int,
              progress: Progress = silent) -> Iterator[Path]:
    """A temporary folder beside `folder` that holds the zip's files and takes its place once the block has ended well.

    Whoever is killed in between leaves `folder` + '.part', which the next call removes; an error removes it at once.
    Only one call at a time may work on the same folder.

    Args:
        what: For the progress, which counts files; e.g. 'extracting pictures'.
        max_bytes: Of all files, as they are really inflated.

    Raises:
        UserError: if the zip is damaged, has more entries, bytes or compression than allowed, or holds anything but
            ordinary files with different paths inside a folder.
        OSError: if the files cannot be written.
    """
    with whole_folder(folder) as temporary:
        _extract(archive, temporary, what, max_entries, max_bytes, progress)
        yield temporary


def _extract(archive: Path, folder: Path, what: str, max_entries: int, max_bytes: int, progress: Progress) -> None:
    limit = min(max_bytes, MAX_RATIO * archive.stat().st_size)
    written = 0
    with _open(archive, max_entries) as file:
        members = _members(archive, file)
        for done, member in enumerate(members, 1):
            path = folder / member.filename
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                output = path.open('xb')
            except (FileExistsError, NotADirectoryError):
                raise _refusal(archive, f'holds {_quoted(member)} twice') from None
            with output:
                for piece in _inflated(archive, file, member):
                    written += len(piece)
                    if written > limit:
                        raise _refusal(archive, f'inflates to more than {limit:,} bytes, which pictures do not')
                    output.write(piece)
            progress(what, done, len(members))


def _refusal(archive: Path, why: str) -> UserError:
    return UserError(f'{archive}: {why}; delete it and download it again.')


def _quoted(member: zipfile.ZipInfo) -> str:
    return repr(member.filename[:100])


def _open(archive: Path, max_entries: int) -> zipfile.ZipFile:
    try:
        # Counted before zipfile reads the whole directory into memory; a chance hit in compressed data does no harm.
        with archive.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entries, position = 0, data.find(b'PK\1\2')
            while position >= 0 and entries <= max_entries:
                entries, position = entries + 1, data.find(b'PK\1\2', position + 4)
        if entries <= max_entries:
            return zipfile.ZipFile(archive)
    except Exception as e:  # on damaged files zipfile raises anything: BadZipFile, struct.error, OSError, ...
        raise _refusal(archive, f'is not a whole zip file ({one_line(e)})') from e
    raise _refusal(archive, f'holds more than {max_entries:,} files')


def _members(archive: Path, file: zipfile.ZipFile) -> List[zipfile.ZipInfo]:
    for member in file.infolist():
        if objection := _objection(member):
            raise _refusal(archive, f'holds {_quoted(member)}, which {objection}')
    return [m for m in file.infolist() if not m.is_dir() and not _is_clutter(m)]


def _is_clutter(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.split('/')
    return not _CLUTTER.isdisjoint(parts) or parts[-1].startswith('._')


def _objection(member: zipfile.ZipInfo) -> Optional[str]:
    for name in (member.filename, member.orig_filename):  # zipfile replaces backslashes and cuts at zeros
        parts = name.split('/')
        if (not parts[0] or '..' in parts or len(parts) > MAX_DEPTH or '\\' in name or ':' in name
                or not name.isprintable()):
            return 'is no plain path inside a folder'
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return 'is no ordinary file'
    if member.flag_bits & 0x1:
        return 'is encrypted'
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile inflates others unboundedly
        return 'is compressed in an unusual way'
    return None


def _inflated(archive: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with file.open(member) as stream:
            while piece := stream.read(1 << 16):
                yield piece
    except Exception as e:
        raise _refusal(archive, f'is damaged at {_quoted(member)} ({one_line(e)})') from e

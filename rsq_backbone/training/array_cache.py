"""Arrays on disk that are computed once: one row a picture, keyed by all that they depend on."""
import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
from numpy.lib.format import open_memmap

from rsq_backbone.cache_folder import cache_folder
from rsq_backbone.files import whole_file

__all__ = ['LIMIT_BYTES', 'NotKept', 'array_key', 'cached_array']

LIMIT_BYTES = 8 * 10**9  # of all arrays together
_KEEP_FREE_BYTES = 10**9
_ABANDONED_AFTER_S = 24 * 3600


def array_key(*parts: Any) -> str:
    """A name for what the JSON-able `parts` determine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


class NotKept(Exception):
    """The array is too large to be kept; the message says why."""


def cached_array(key: str, shape: Sequence[int], dtype: Any, fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """The read-only array of this key, memory-mapped; `fill` computes it into its argument if it is not there.

    The file appears when it is whole. To make room, the arrays that were not used for longest are removed, and so are
    the leftovers of processes that were killed.

    Raises:
        NotKept: if there is no room for it even so.
    """
    folder = _folder()
    file = folder / f'{key}.npy'
    try:
        array = open_memmap(file, mode='r')
        whole = file.stat().st_size == array.offset + array.nbytes
        if whole and array.shape == tuple(shape) and array.dtype == dtype:
            with suppress(OSError):  # a cache that may only be read
                file.touch()
            return array
    except Exception:  # not there, or damaged, on which the reader raises anything: computed anew
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise NotKept(f'{folder} cannot be made ({e.strerror})') from e
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    _make_room(size)
    with whole_file(file) as temporary:
        array = open_memmap(temporary, mode='w+', dtype=dtype, shape=tuple(shape))
        if hasattr(os, 'posix_fallocate'):
            # A full disk is an error here; while the map is filled it would kill the process with a bus error.
            with temporary.open('r+b') as raw:
                os.posix_fallocate(raw.fileno(), 0, temporary.stat().st_size)
        fill(array)
        array.flush()
    return open_memmap(file, mode='r')


def _folder() -> Path:
    return cache_folder() / 'arrays'


def _make_room(size: int) -> None:
    folder = _folder()
    for leftover in folder.glob('.*.npy'):
        with suppress(FileNotFoundError):  # its process has just ended
            if time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER_S:
                leftover.unlink()
    if size > LIMIT_BYTES:
        raise NotKept(f'{size / 1e9:.1f} GB are more than the {LIMIT_BYTES / 1e9:.0f} GB that the cache may hold')
    by_age = []
    for file in folder.glob('[!.]*.npy'):
        with suppress(FileNotFoundError):  # another process has just made room
            status = file.stat()
            by_age.append((status.st_mtime, status.st_size, file))
    by_age.sort()
    total = sum(bytes_ for _, bytes_, _ in by_age)
    while total + size > LIMIT_BYTES or size + _KEEP_FREE_BYTES > shutil.disk_usage(folder).free:
        if not by_age:
            raise NotKept(f'{size / 1e9:.1f} GB do not fit on the disk of {folder}')
        _, bytes_, oldest = by_age.pop(0)
        total -= bytes_
        oldest.unlink(missing_ok=True)  # a process that has it mapped keeps its pages

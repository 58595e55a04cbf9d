"""Faults of the machine and of settings, told in one line."""
import errno
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import torch
from safetensors import SafetensorError

from rsq_backbone.errors import UserError

__all__ = ['one_line_faults']


@contextmanager
def one_line_faults(folder: Path) -> Iterator[None]:
    """Turn a full disk, an unwritable folder and a lack of memory into errors that say how to mend them."""
    try:
        yield
    except OSError as e:
        where = e.filename or folder
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(where) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f'{where} may not be written; mend its permissions or choose another --output.') from e
        raise
    except MemoryError as e:
        raise _out_of_memory() from e
    except SafetensorError as e:
        if 'No space left' in str(e):
            raise _disk_full(folder) from e
        raise
    except RuntimeError as e:
        # PyTorch's CPU allocator has no exception type of its own.
        if isinstance(e, torch.OutOfMemoryError) or "can't allocate memory" in str(e):
            raise _out_of_memory() from e
        raise


def _disk_full(where: Any) -> UserError:
    return UserError(f'the disk is full ({where}); make room and run the same command with --resume.')


def _out_of_memory() -> UserError:
    return UserError('out of memory; lower --batch-size or --input-size and run again.')

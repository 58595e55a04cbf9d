"""Memory that training hands back and asks for again, batch by batch."""
import ctypes
import platform

__all__ = ['keep_freed_memory']

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed, instead of handing each back to the system.

    A feature map of some MB is otherwise mapped afresh in every layer of every batch, and the system clears its pages
    each time, which takes a good part of the training time. The process then stays at its peak size.
    Nothing happens where the C library is another one.
    """
    if platform.libc_ver()[0] == 'glibc':
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)

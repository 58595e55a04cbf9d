"""Memory of the process that asks, a limit for it, and what others say when it is used up."""
import re
from contextlib import suppress
from pathlib import Path
from typing import Optional, Union

import psutil

from rsq_backbone.errors import UserError
from rsq_backbone.machine import system_file

__all__ = ['anonymous', 'is_memory_failure', 'limit_memory', 'peak_resident', 'reset_peak', 'resident']


def peak_resident() -> Optional[int]:
    """Most bytes that were in memory at once, since this program was executed or `reset_peak`; None if not told.

    Linux's VmHWM. The kernel's other figure, ru_maxrss, starts from the peak of the process that started this one.
    """
    if psutil.LINUX:
        return _status('VmHWM')
    if psutil.WINDOWS:
        return int(psutil.Process().memory_info().peak_wset)
    if psutil.MACOS:  # which counts in bytes, and anew for each program
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def resident() -> Optional[int]:
    """Bytes that are in memory now, files that are mapped (the code of libraries) among them."""
    return _status('VmRSS') if psutil.LINUX else int(psutil.Process().memory_info().rss)


def anonymous() -> Optional[int]:
    """Bytes in memory now that no file holds, so that no other process shares them and only swapping frees them.

    Linux's RssAnon; elsewhere what this process alone uses (USS).
    """
    return _status('RssAnon') if psutil.LINUX else int(psutil.Process().memory_full_info().uss)


def reset_peak() -> bool:
    """Let `peak_resident` begin anew from what is in memory now; False where the system cannot."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return False
    return True


def limit_memory(size: int) -> None:
    """Let this process have about `size` bytes in memory at its peak: what would take it further fails to allocate.

    The runtime has to be imported before. What is in memory then counts as it is; from then on the system counts what
    the process may write to and shares with nobody (RLIMIT_DATA), touched or not. RLIMIT_AS would not do: PyTorch's
    libraries alone take 3 GB of addresses.

    Compared with `peak_resident`, that leaves out what is read from mapped files later (20 MB, PyTorch's kernels that
    are used for the first time), so the peak has to be compared with the cap as well. It counts what is reserved and
    never touched: 8 MB for the stack of each further thread, unless the process was started with OMP_STACKSIZE=1M.
    ResNet-18 on 8 pictures peaked 140 MB above the runtime in PyTorch, 180 in ONNX Runtime and 145 in OpenVINO. The
    least room in which it ran was 125 to 140 MB (160 with four threads and their stacks), 150 (ONNX Runtime adapts)
    and 145 to 160.

    What happens at the limit is up to whoever asks for memory: Python, PyTorch and ONNX Runtime raise an exception that
    `is_memory_failure` knows; libraries that do not look (OpenVINO's, now and then) end the process by SIGSEGV or
    SIGABRT.

    Raises:
        MemoryError: if more than that is in memory already.
        UserError: if the system has no such limit.
    """
    now, writable = resident(), _status('VmData')
    if not psutil.LINUX or now is None or writable is None:
        raise UserError('only Linux can limit the memory of a process: leave the memory cap out')
    if size <= now:
        raise MemoryError(f'{now / 1e6:.0f} MB are in memory before there is a network')
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = writable + size - now
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


_SAYS_NO_MEMORY = re.compile(
    r'MemoryError|std::bad_alloc|bad allocation|out of memory|not enough memory|can\'t alloc'
    r'|cannot allocate memory(?! in static TLS)|unable to allocate|failed to allocate memory|_ALLOC_FAILED',
    re.IGNORECASE)
# Said for other reasons too: oneDNN's only word, threads that get no stack, libraries that find no place.
_MAY_MEAN_NO_MEMORY = re.compile(
    r'could not create a primitive|can\'t start new thread|thread creation failed|resource temporarily unavailable'
    r'|failed to map segment',
    re.IGNORECASE)


def is_memory_failure(failure: Union[BaseException, str], limited: bool = False) -> bool:
    """Whether an exception, or what a process wrote before it ended, says that memory ran out.

    Args:
        failure: Of Python, NumPy, PyTorch (CPU or CUDA), ONNX Runtime, OpenVINO or the C++ library.
        limited: Whether the process had a limit; then messages count too that mean other things without one.
    """
    if isinstance(failure, MemoryError):
        return True
    if isinstance(failure, UserError) and failure.__cause__ is not None:  # which says it in other words, and shorter
        return is_memory_failure(failure.__cause__, limited)
    text = str(failure)
    return bool(_SAYS_NO_MEMORY.search(text) or (limited and _MAY_MEAN_NO_MEMORY.search(text)))


def _status(key: str) -> Optional[int]:
    for line in (system_file('/proc/self/status') or '').splitlines():
        if line.startswith(f'{key}:'):
            with suppress(ValueError, IndexError):
                return int(line.split()[1]) * 1024
    return None

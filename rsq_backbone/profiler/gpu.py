"""NVIDIA GPUs: which there are, who uses them, how much of their memory this process takes, and a limit for it.

What PyTorch does not know is asked of nvidia-smi, which comes with the driver and opens no context on the device.
"""
import os
import shutil
import subprocess
from typing import Dict, List, Optional

from rsq_backbone.errors import UserError
from rsq_backbone.profiler.profile import CudaMemory, Gpu

__all__ = ['cuda_memory', 'gpu_processes', 'gpus', 'limit_gpu_memory', 'open_device']

_MIB = 1 << 20


def gpus() -> List[Gpu]:
    """All NVIDIA GPUs of the machine, CUDA_VISIBLE_DEVICES or not; none without their driver."""
    rows = _ask('--query-gpu=name,driver_version,memory.total,memory.used') or []
    return [{'name': name, 'driver': driver, 'memory': int(total) * _MIB, 'memory_used': int(used) * _MIB}
            for name, driver, total, used in rows if total.isdigit() and used.isdigit()]


def gpu_processes() -> Optional[Dict[int, Optional[int]]]:
    """Bytes on all GPUs by process that computes there; None without a driver.

    The driver tells no sizes under Windows and WSL: these are None. In a container it may name processes by numbers
    that only the host knows.
    """
    rows = _ask('--query-compute-apps=pid,used_memory')
    if rows is None:
        return None
    found: Dict[int, Optional[int]] = {}
    for pid, used in rows:
        if pid.isdigit():  # nvidia-smi writes its complaints into the same place
            size = int(used) * _MIB if used.isdigit() else None
            found[int(pid)] = size if size is None else size + (found.get(int(pid)) or 0)
    return found


def open_device() -> Optional[int]:
    """Let CUDA make its context on the current device; bytes that it takes, None where the driver does not tell."""
    import torch

    torch.zeros(1, device='cuda')
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what PyTorch took for that one number
    return (gpu_processes() or {}).get(os.getpid())


def limit_gpu_memory(size: int, context: int = 0) -> None:
    """Let PyTorch take no more of the current CUDA device than a card of `size` bytes would have.

    PyTorch then raises torch.OutOfMemoryError where such a card would be full. The limit holds for tensors and what
    PyTorch keeps for them. The context of CUDA is beside it, so what it takes has to be given to count as well.

    Raises:
        UserError: if the GPU has not as much, or the context alone fills it.
    """
    import torch

    total = torch.cuda.mem_get_info()[1]
    if size > total:
        raise UserError(f'the GPU has {total / 1e9:.2f} GB, so it cannot stand for one of {size / 1e9:.2f} GB: '
                        'give less or leave the cap out')
    if size <= context:
        raise UserError(f'CUDA itself takes {context / 1e6:.0f} MB, which a GPU of {size / 1e6:.0f} MB does not have')
    torch.cuda.set_per_process_memory_fraction((size - context) / total)


def cuda_memory(context: Optional[int] = None) -> CudaMemory:
    """Peaks of this process on the current CUDA device, since torch.cuda.reset_peak_memory_stats or its start.

    PyTorch gives nothing back by itself, so what process and device hold now is what they held at the peak, unless
    torch.cuda.empty_cache was called.

    Args:
        context: Bytes of a process that has done nothing but open the device, as that one was told here.
    """
    import torch

    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return CudaMemory(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        process=(gpu_processes() or {}).get(os.getpid()),
        context=context,
        device=total - free,
    )


def _ask(query: str) -> Optional[List[List[str]]]:
    """Rows of what nvidia-smi answers; None where there is none, or it fails."""
    program = shutil.which('nvidia-smi')
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, query, '--format=csv,noheader,nounits'], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return [[field.strip() for field in line.split(',')] for line in done.stdout.splitlines() if line.strip()]

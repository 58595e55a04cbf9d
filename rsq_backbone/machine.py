"""What a result depends on besides the code: the machine and the versions."""
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict

__all__ = ['cpu_computes_bfloat16', 'cpu_name', 'machine', 'versions']

_PACKAGES = (
    'rsq-backbone', 'torch', 'torchvision', 'timm', 'segmentation-models-pytorch', 'lightning', 'albumentations',
    'opencv-python-headless', 'scikit-learn', 'numpy', 'pillow')


def versions() -> Dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {'python': platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine() -> Dict[str, Any]:
    import torch

    return {
        'cpu': cpu_name(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'gpus': [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        'system': platform.platform(),
    }


def cpu_name() -> str:
    return _cpu_info('model name') or platform.processor() or platform.machine()


def cpu_computes_bfloat16() -> bool:
    """Whether the processor has instructions for it; without them bfloat16 is slower than float32.

    Known of x86 processors under Linux; elsewhere the answer is no.
    """
    return not {'avx512_bf16', 'amx_bf16'}.isdisjoint(_cpu_info('flags').split())


def _cpu_info(key: str) -> str:
    """Of the first core, empty where the system does not tell."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith(key)), '')

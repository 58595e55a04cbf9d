"""What a result depends on besides the code: the machine and the versions."""
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict

__all__ = ['cpu_name', 'machine', 'versions']

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
    info = Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()

"""What a result depends on besides the code: the machine and the versions."""
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, FrozenSet, Optional

__all__ = ['cpu_computes_bfloat16', 'cpu_flags', 'cpu_name', 'machine', 'system_file', 'versions']

_ROOT = Path('/')  # tests put the files of another machine here

_PACKAGES = (
    'rsq-backbone', 'torch', 'torchvision', 'timm', 'segmentation-models-pytorch', 'lightning', 'albumentations',
    'opencv-python-headless', 'scikit-learn', 'numpy', 'pillow', 'onnx', 'onnxruntime', 'openvino')


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
    """Of the processor, or of the board where that is what the system knows (a Raspberry Pi, a Jetson)."""
    return (system_file('/proc/device-tree/model') or _cpu_info('model name') or _cpu_name_elsewhere()
            or platform.processor() or platform.machine())


def cpu_flags() -> FrozenSet[str]:
    """Instruction sets by Linux's names for them; none where the system does not tell."""
    return frozenset((_cpu_info('flags') or _cpu_info('Features')).split())


def cpu_computes_bfloat16() -> bool:
    """Whether the processor has instructions for it; without them bfloat16 is slower than float32.

    Known of x86 processors under Linux; elsewhere the answer is no.
    """
    return not cpu_flags().isdisjoint({'avx512_bf16', 'amx_bf16'})


def system_file(path: str) -> Optional[str]:
    """What a file of Linux's /proc or /sys says; None where there is none, or none that this process may read."""
    try:
        return (_ROOT / path.lstrip('/')).read_text(errors='replace').strip('\0 \n')
    except OSError:
        return None


def _cpu_info(key: str) -> str:
    """Of the first core, empty where the system does not tell."""
    for line in (system_file('/proc/cpuinfo') or '').splitlines():
        name, _, value = line.partition(':')
        if name.strip() == key:
            return value.strip()
    return ''


def _cpu_name_elsewhere() -> str:
    """On macOS and Windows, where Python itself knows only the kind of the processor."""
    with suppress(OSError, subprocess.SubprocessError):
        if sys.platform == 'darwin':
            command = ['sysctl', '-n', 'machdep.cpu.brand_string']
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        if sys.platform == 'win32':
            import winreg

            with winreg.OpenKey(
                    winreg.HKEY_LOCAL_MACHINE, r'HARDWARE\DESCRIPTION\System\CentralProcessor\0') as key:
                return str(winreg.QueryValueEx(key, 'ProcessorNameString')[0]).strip()
    return ''

"""GPU figures: from the driver's own tool, which a script stands for where there is none, and from PyTorch."""
import os
import sys

import pytest
import torch

from rsq_backbone.errors import UserError
from rsq_backbone.profiler.gpu import cuda_memory, gpu_processes, gpus, limit_gpu_memory, open_device
from rsq_backbone.profiler.process_memory import is_memory_failure

GB = 10 ** 9
MIB = 1 << 20
posix = pytest.mark.skipif(sys.platform == 'win32', reason='a script stands for nvidia-smi')
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A script in its place, which answers only to the question that it is given an answer for."""

    def answer(question, text, status=0):
        script = tmp_path / 'nvidia-smi'
        script.write_text(f"""#!/bin/sh
[ "$*" = "{question} --format=csv,noheader,nounits" ] || exit 2
cat <<'END'
{text}
END
exit {status}
""")
        script.chmod(0o755)
        monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)

    return answer


@posix
def test_gpus_are_those_of_the_driver(nvidia_smi):
    nvidia_smi('--query-gpu=name,driver_version,memory.total,memory.used',
               'NVIDIA GeForce MX130, 470.82.01, 2004, 3\nTesla T4, 470.82.01, 15109, 0')
    assert gpus() == [
        {'name': 'NVIDIA GeForce MX130', 'driver': '470.82.01', 'memory': 2004 * MIB, 'memory_used': 3 * MIB},
        {'name': 'Tesla T4', 'driver': '470.82.01', 'memory': 15109 * MIB, 'memory_used': 0},
    ]


@posix
@pytest.mark.parametrize(('text', 'found'), [
    ('4711, 312\n4712, 90\n4711, 100', {4711: 412 * MIB, 4712: 90 * MIB}),  # one of them on two GPUs
    ('4711, [N/A]', {4711: None}),
    ('', {}),
])
def test_processes_on_the_gpu_are_added_up(nvidia_smi, text, found):
    nvidia_smi('--query-compute-apps=pid,used_memory', text)
    assert gpu_processes() == found


@posix
def test_a_driver_that_fails_counts_as_none(nvidia_smi):
    message = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    nvidia_smi('--query-gpu=name,driver_version,memory.total,memory.used', message, status=9)
    assert gpus() == []
    assert gpu_processes() is None


def test_no_driver_is_no_gpu(monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert gpus() == []
    assert gpu_processes() is None


class FakeCuda:
    """A card of 4 GB, of which this process and others use 1.5."""

    fraction = None

    def mem_get_info(self):
        return 2.5 * GB, 4 * GB

    def set_per_process_memory_fraction(self, fraction):
        assert isinstance(fraction, float)
        self.fraction = fraction

    def max_memory_allocated(self):
        return 700

    def max_memory_reserved(self):
        return 900

    def synchronize(self):
        pass


@pytest.fixture
def fake_cuda(monkeypatch):
    fake = FakeCuda()
    for name in ('mem_get_info', 'set_per_process_memory_fraction', 'max_memory_allocated', 'max_memory_reserved',
                 'synchronize'):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_a_smaller_card_is_a_share_of_the_memory_of_this_one_less_what_cuda_itself_takes(fake_cuda):
    limit_gpu_memory(2 * GB)
    assert fake_cuda.fraction == 0.5
    limit_gpu_memory(2 * GB, context=GB // 2)
    assert fake_cuda.fraction == 0.375


def test_a_card_cannot_stand_for_a_larger_one_or_for_one_that_cuda_fills(fake_cuda):
    with pytest.raises(UserError, match=r'has 4\.00 GB, so it cannot stand for one of 8\.00 GB'):
        limit_gpu_memory(8 * GB)
    with pytest.raises(UserError, match='takes 500 MB, which a GPU of 256 MB does not have'):
        limit_gpu_memory(256 * 10 ** 6, context=GB // 2)
    assert fake_cuda.fraction is None


@posix
def test_memory_on_the_gpu_is_that_of_the_allocator_the_process_and_the_device(fake_cuda, nvidia_smi):
    nvidia_smi('--query-compute-apps=pid,used_memory', f'{os.getpid()}, 412\n1, 90')
    found = cuda_memory(context=300)
    assert (found.allocated, found.reserved, found.context) == (700, 900, 300)
    assert (found.process, found.device) == (412 * MIB, 1.5 * GB)
    nvidia_smi('--query-compute-apps=pid,used_memory', '1, 90')  # in a container, this process has another number
    assert cuda_memory().process is None


@posix
def test_the_context_is_what_the_driver_says_of_a_process_that_opened_the_device(fake_cuda, nvidia_smi, monkeypatch):
    opened = []
    monkeypatch.setattr(torch, 'zeros', lambda *size, device: opened.append(device))
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: opened.append('emptied'))
    nvidia_smi('--query-compute-apps=pid,used_memory', f'{os.getpid()}, 310')
    assert open_device() == 310 * MIB
    assert opened == ['cuda', 'emptied']
    nvidia_smi('--query-compute-apps=pid,used_memory', '1, 90')
    assert open_device() is None


@cuda
def test_an_open_device_holds_no_tensors():
    open_device()
    assert torch.cuda.memory_allocated() == 0


@cuda
def test_a_limit_on_the_gpu_holds_and_the_peak_is_what_was_allocated():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    block = torch.ones(64 * MIB, dtype=torch.uint8, device='cuda')
    assert cuda_memory().allocated - before == pytest.approx(64 * MIB, rel=0.05)
    limit_gpu_memory(256 * MIB)
    try:
        with pytest.raises(torch.OutOfMemoryError) as raised:
            torch.ones(512 * MIB, dtype=torch.uint8, device='cuda')
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        del block
    assert is_memory_failure(raised.value)

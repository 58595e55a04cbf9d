"""Memory figures are those of the process that asks, and a limit on it is a real one."""
import sys

import pytest

from rsq_backbone.errors import UserError
from rsq_backbone.profiler import process_memory
from rsq_backbone.profiler.process_memory import anonymous, is_memory_failure, limit_memory, peak_resident, resident

MB = 1 << 20
linux = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


def numbers(done):
    return [int(word) for word in done.stdout.split()]


def test_a_module_that_allocates_256_mb_is_found_to_take_256_mb(run_python):
    done = run_python('''
        import torch
        from rsq_backbone.profiler.process_memory import anonymous, peak_resident, resident

        class Holder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.empty(64 * 1024 ** 2))  # of 4 bytes
                torch.nn.init.ones_(self.weight)

        torch.nn.init.ones_(torch.empty(1000))
        before = resident(), anonymous(), peak_resident()
        holder = Holder()
        print(*(now - then for now, then in zip((resident(), anonymous(), peak_resident()), before)))
        print(before[0], before[2])
    ''')
    grown = numbers(done)
    assert grown[:2] == pytest.approx([256 * MB, 256 * MB], rel=0.05)
    # The peak before may have been above what was resident then, and the growth starts from there.
    assert grown[2] + grown[4] - grown[3] == pytest.approx(256 * MB, rel=0.05)


@linux
def test_the_peak_stays_after_memory_is_given_back_until_it_is_reset(run_python):
    done = run_python('''
        from rsq_backbone.profiler.process_memory import peak_resident, reset_peak, resident
        before = resident()
        block = bytearray(b'x') * (128 << 20)
        del block
        print(peak_resident() - before, resident() - before)
        assert reset_peak()
        print(peak_resident() - before)
    ''')
    peak, now, reset = numbers(done)
    assert peak == pytest.approx(128 * MB, rel=0.05)
    assert abs(now) < 5 * MB
    assert abs(reset) < 5 * MB


@linux
def test_a_child_does_not_inherit_the_peak_of_the_process_that_started_it(run_python):
    done = run_python('''
        import subprocess, sys
        from rsq_backbone.profiler.process_memory import peak_resident
        block = bytearray(b'x') * (256 << 20)
        child = 'from rsq_backbone.profiler.process_memory import peak_resident; print(peak_resident())'
        print(peak_resident(), subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)
    ''')
    parent, child = numbers(done)
    assert parent > 256 * MB
    assert child < 128 * MB


def test_figures_of_this_process_stand_in_their_order():
    assert 0 < anonymous() < resident() <= peak_resident()


def test_a_system_that_tells_nothing_gives_none(other_machine, monkeypatch):
    other_machine({'/proc/self/status': 'Name:\tpython\nVmHWM:\t  123 kB\n'})
    monkeypatch.setattr(process_memory.psutil, 'LINUX', True)
    assert peak_resident() == 123 * 1024
    assert resident() is None
    assert anonymous() is None


@linux
def test_the_peak_under_a_limit_ends_at_the_limit(run_python):
    """Taken in steps of 1 MB until no more is given."""
    done = run_python('''
        import numpy as np
        from rsq_backbone.profiler.process_memory import limit_memory, peak_resident, resident
        cap = resident() + (100 << 20)
        limit_memory(cap)
        blocks = []
        try:
            while True:
                blocks.append(np.ones(1 << 17))
        except MemoryError:
            peak = peak_resident()
        print(cap, peak)
    ''')
    cap, peak = numbers(done)
    assert cap - 5 * MB < peak < cap + 5 * MB


TORCH = '''
    import sys
    import torch
    from rsq_backbone.profiler.process_memory import is_memory_failure, limit_memory, resident
    limit_memory(resident() + (int(sys.argv[1]) << 20))
    try:
        torch.ones(10 * 1024 ** 2)  # of 4 bytes
    except Exception as e:
        print('fails', is_memory_failure(e), repr(str(e)))
    else:
        print('runs')
'''
RESNET = '''
    import sys
    import torch
    from rsq_backbone.profiler.process_memory import is_memory_failure, limit_memory, peak_resident, resident
    from torchvision.models import resnet18
    cap = resident() + (int(sys.argv[1]) << 20)
    limit_memory(cap)
    try:
        with torch.inference_mode():
            resnet18().eval()(torch.ones(8, 3, 224, 224))
    except Exception as e:
        print('fails', is_memory_failure(e, limited=True), repr(str(e)))
    else:
        print('runs', peak_resident() <= cap)
'''
ONNX = '''
    import sys
    import onnx
    import onnxruntime
    from rsq_backbone.profiler.process_memory import is_memory_failure, limit_memory, resident
    # Fills 40 MB, so that it holds them twice at the most.
    node = onnx.helper.make_node('Tile', ['x', 'repeats'], ['y'])
    repeats = onnx.helper.make_tensor('repeats', onnx.TensorProto.INT64, [1], [10 * 1024 ** 2])
    graph = onnx.helper.make_graph(
        [node], 'g', [onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, None)], [repeats])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8)
    limit_memory(resident() + (int(sys.argv[1]) << 20))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ['CPUExecutionProvider'])
        session.run(None, {'x': [1.0]})
    except Exception as e:
        print('fails', is_memory_failure(e), repr(str(e)))
    else:
        print('runs')
'''


@linux
@pytest.mark.parametrize(('code', 'room', 'outcome'), [
    (ONNX, 20, 'fails True'),
    (ONNX, 160, 'runs'),
    (TORCH, 20, 'fails True'),
    (TORCH, 60, 'runs'),
    # 45 MB of weights, and two of the first maps, of 26 MB each.
    pytest.param(RESNET, 60, 'fails True', marks=pytest.mark.slow),
    pytest.param(RESNET, 200, 'runs True', marks=pytest.mark.slow),
])
def test_what_needs_more_than_the_limit_fails_with_words_that_are_known_and_what_needs_less_runs(
        run_python, code, room, outcome):
    assert run_python(code, str(room)).stdout.startswith(outcome)


def test_a_limit_below_what_is_in_memory_already_does_not_fit():
    with pytest.raises(MemoryError, match=r'^\d+ MB are in memory'):
        limit_memory(MB)


def test_a_system_that_cannot_limit_says_so(monkeypatch):
    monkeypatch.setattr(process_memory.psutil, 'LINUX', False)
    with pytest.raises(UserError, match='only Linux'):
        limit_memory(10 ** 9)


# As they were said by PyTorch 2.14, ONNX Runtime 1.32, OpenVINO 2026.4, NumPy 2, libgomp and CUDA 12 drivers.
OUT_OF_MEMORY = [
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    '9437184 bytes. Error code 12 (Cannot allocate memory)',
    'DefaultCPUAllocator: not enough memory: you tried to allocate 9437184 bytes.',
    '[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc',
    '[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 268435456',
    "Exception from src/inference/src/cpp/core.cpp:132:\nException from src/inference/src/dev/plugin.cpp:59:\n"
    "can't alloc\n\n",
    'Unable to allocate 763. MiB for an array with shape (10000, 10000) and data type float64',
    "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n",
    'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nMemoryError',
    'CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 2.00 GiB',
    'CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`',
]
ONLY_UNDER_A_LIMIT = [
    'could not create a primitive',
    "can't start new thread",
    'libgomp: Thread creation failed: Resource temporarily unavailable',
    'libfoo.so: failed to map segment from shared object',
]
SOMETHING_ELSE = [
    'libgomp.so.1: cannot allocate memory in static TLS block',
    'mat1 and mat2 shapes cannot be multiplied (1x512 and 256x10)',
    '[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x',
    'CUDA error: an illegal memory access was encountered',
    '',
]


@pytest.mark.parametrize('text', OUT_OF_MEMORY)
def test_words_for_memory_that_ran_out_are_known(text):
    assert is_memory_failure(text)
    assert is_memory_failure(RuntimeError(text))


@pytest.mark.parametrize('text', ONLY_UNDER_A_LIMIT)
def test_words_that_may_mean_something_else_count_only_under_a_limit(text):
    assert is_memory_failure(text, limited=True)
    assert not is_memory_failure(text)


@pytest.mark.parametrize('text', SOMETHING_ELSE)
def test_other_failures_are_not_blamed_on_memory(text):
    assert not is_memory_failure(text, limited=True)


def test_pythons_own_error_needs_no_words():
    assert is_memory_failure(MemoryError())
    assert not is_memory_failure(ValueError())


def test_what_a_runtime_says_in_its_own_words_is_judged_by_what_it_was_told():
    error = UserError('OpenVINO cannot load model.onnx (Exception from core.cpp: Loading input model std::bad_al ...)')
    assert not is_memory_failure(error, limited=True)
    error.__cause__ = RuntimeError('Loading input model std::bad_alloc')
    assert is_memory_failure(error)
    error.__cause__ = RuntimeError('no such operation')
    assert not is_memory_failure(error)

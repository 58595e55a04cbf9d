import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn

from rsq_backbone.errors import UserError
from rsq_backbone.runtimes import ISAS, RUNTIMES, isa_environment, obeys
from rsq_backbone.runtimes.eager import Eager
from rsq_backbone.runtimes.export import export
from rsq_backbone.runtimes.openvino import computes

HALF = {'openvino-bf16': 'bf16', 'openvino-fp16': 'f16'}
HERE = [name for name in RUNTIMES if name not in HALF or computes(HALF[name])]
IN_PYTORCH = [name for name in HERE if not RUNTIMES[name].needs_file]
OF_FILES = [name for name in HERE if RUNTIMES[name].needs_file]
# Ten seconds of a C++ compiler and more.
EACH = [pytest.param(name, marks=[pytest.mark.slow] if name == 'compile' else []) for name in HERE]
# float32 kernels add up some thousand products an output, layer after layer, in an order of their own: the differences
# lie near 1e-6 of the largest output. Computing in bfloat16, as OpenVINO would by default, costs 1e-3 and more: its
# numbers have eight bits, of which each layer may lose half of the last. float16's have eleven.
TOLERANCE = {name: {'openvino-bf16': 3e-2, 'openvino-fp16': 4e-3}.get(name, 1e-4) for name in HERE}


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


class Case:
    def __init__(self, network, x, file):
        self.network, self.x, self.file = network.eval(), x, file
        export(self.network, [x], file)
        with torch.inference_mode():
            outputs = self.network(torch.from_numpy(x))
        self.expected = [o.numpy() for o in (outputs if isinstance(outputs, tuple) else [outputs])]


@pytest.fixture(scope='module', params=['classifier', 'segmenter'])
def case(request, tmp_path_factory):
    file = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    torch.manual_seed(0)
    if request.param == 'classifier':
        return Case(timm.create_model('res_squeezenet', pretrained=True), noise(2, 3, 64, 64), file)
    # With a second head: two outputs, whose order has to be the network's.
    network = smp.Unet(
        'res_squeezenet', encoder_depth=3, encoder_weights=None, decoder_channels=(16, 8, 8), classes=2,
        aux_params={'classes': 5})
    return Case(network, noise(1, 3, 32, 64), file)


def loaded(name, network, file, inputs, threads=1):
    runtime = RUNTIMES[name].load()(threads)
    runtime.load(file if RUNTIMES[name].needs_file else network)
    runtime.bind(inputs)
    runtime.prepare()
    return runtime


@pytest.mark.parametrize('name', EACH)
def test_every_runtime_computes_what_pytorch_does(name, case):
    runtime = loaded(name, case.network, case.file, [case.x])
    runtime.run()
    outputs = runtime.outputs()
    assert [o.shape for o in outputs] == [o.shape for o in case.expected]
    for output, expected in zip(outputs, case.expected, strict=True):
        assert np.abs(output - expected).max() < TOLERANCE[name] * np.abs(expected).max()


class Tiny(nn.Module):
    """Makes denormals of what it gets, in the first and the last of its values."""

    def forward(self, x):
        return x * 1e-10


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp('onnx') / 'tiny.onnx'
    export(Tiny(), [np.ones((1, 4, 256, 256), np.float32)], file)
    return file


@pytest.mark.parametrize('name', [one for one in EACH if one.values[0] in IN_PYTORCH])
def test_denormals_are_flushed_to_zero_in_all_threads(name, run_python):
    """In a process of its own: a thread of PyTorch's pool keeps how it treats them, and lives on."""
    done = run_python('''
        import sys
        import numpy as np
        import torch
        from rsq_backbone.runtimes import RUNTIMES

        class Tiny(torch.nn.Module):
            def forward(self, x):
                return x * 1e-10

        x = np.full((1, 4, 256, 256), 1e-30, np.float32)
        torch.set_num_threads(1)
        print((Tiny()(torch.from_numpy(x)) > 0).all().item())
        runtime = RUNTIMES[sys.argv[1]].load()(2)
        runtime.load(Tiny().eval())
        runtime.bind([x])
        runtime.prepare()
        runtime.run()
        print(runtime.flushes_denormals(), (runtime.outputs()[0] == 0).all())
    ''', name)
    assert done.stdout.split() == ['True', 'True', 'True']


# 1e-10 is nothing in float16.
@pytest.mark.parametrize('name', [name for name in HERE if name not in ('compile', 'openvino-fp16')])
def test_a_run_reads_what_is_bound_at_the_time(name, tiny):
    x = np.ones((1, 4, 256, 256), np.float32)
    runtime = loaded(name, Tiny(), tiny, [x])
    for value in (1, 2):
        runtime.bind([value * x])
        runtime.run()
        np.testing.assert_allclose(
            runtime.outputs()[0], 1e-10 * value * x, rtol=2 ** -8 if name == 'openvino-bf16' else 1e-7)


@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='only Linux tells how many threads a process has')
@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('name', [name for name in HERE if name != 'compile'])
def test_threads_are_as_many_as_asked_for(name, threads, tiny):
    runtime = loaded(name, Tiny(), tiny, [np.ones((1, 4, 256, 256), np.float32)], threads=threads)
    runtime.run()
    # OpenVINO starts no more than there are cores to use.
    most = len(os.sched_getaffinity(0)) if name.startswith('openvino') else threads
    assert runtime.verified_threads() == min(threads, most)


def test_a_file_runs_in_a_process_without_pytorch_or_telemetry_and_flushes_denormals(tiny, run_python):
    done = run_python('''
        import os, sys
        from pathlib import Path
        import numpy as np
        import rsq_backbone
        from rsq_backbone.runtimes import RUNTIMES
        heavy = {'torch', 'timm', 'onnxruntime', 'openvino', 'onnx'}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        for name in sys.argv[2:]:
            runtime = RUNTIMES[name].load()(2)
            runtime.load(Path(sys.argv[1]))
            runtime.bind([np.full((1, 4, 256, 256), 1e-30, np.float32)])
            runtime.run()
            output, = runtime.outputs()
            assert runtime.flushes_denormals()
            print(name, output.shape, (output == 0).all())
        assert not {'torch', 'timm', 'openvino_telemetry'} & set(sys.modules)
        assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'
    ''', str(tiny), *OF_FILES)
    assert done.stdout.splitlines() == [f'{name} (1, 4, 256, 256) True' for name in OF_FILES]


# ---- what is not there, and what is damaged ----

@pytest.mark.parametrize(('name', 'library', 'line'), [
    ('openvino', 'openvino', 'pip install "rsq-backbone[openvino]"'),
    ('onnxruntime', 'onnxruntime', 'pip install "rsq-backbone[onnx]"'),
    ('compile', 'torch', 'pip install rsq-backbone'),
])
def test_a_runtime_that_is_not_installed_says_what_installs_it(name, library, line, monkeypatch):
    assert RUNTIMES[name].missing() is None
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not there
    assert RUNTIMES[name].missing() == line


@pytest.mark.parametrize('name', OF_FILES)
@pytest.mark.parametrize('spoil', ['missing', 'cut', 'text'])
def test_a_damaged_file_is_refused_in_one_line(name, spoil, tiny, tmp_path):
    file = tmp_path / 'model.onnx'
    if spoil == 'cut':
        file.write_bytes(tiny.read_bytes()[:60])
    if spoil == 'text':
        file.write_text('no model')
    runtime = RUNTIMES[name].load()(1)
    with pytest.raises(UserError, match=r'cannot load .*model\.onnx') as raised:
        runtime.load(file)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('name', OF_FILES)
@pytest.mark.parametrize('inputs', [
    [np.ones((2, 4, 256, 256), np.float32)], [np.ones((1, 4, 256), np.float32)],
    [np.ones((1, 4, 256, 256), np.float32)] * 2, []])
def test_inputs_that_do_not_fit_the_file_are_refused(name, inputs, tiny):
    runtime = RUNTIMES[name].load()(1)
    runtime.load(tiny)
    with pytest.raises(UserError, match='wants 1 x 4 x 256 x 256 and not'):
        runtime.bind(inputs)


def test_a_network_that_cannot_be_exported_leaves_no_file(tmp_path):
    class Moody(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x.mean()

    with pytest.raises(UserError, match='cannot export this Moody') as raised:
        export(Moody(), [noise(1, 3, 8, 8)], tmp_path / 'model.onnx')
    assert '\n' not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_export_names_the_packages_that_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(UserError, match=r'rsq-backbone\[onnx\]'):
        export(Tiny(), [noise(1, 3, 8, 8)], tmp_path / 'model.onnx')


def test_an_export_holds_everything_in_one_file_for_that_batch_and_size(case):
    assert [path.name for path in case.file.parent.iterdir()] == ['model.onnx']
    (entry,) = onnx.load(case.file).graph.input
    assert tuple(d.dim_value for d in entry.type.tensor_type.shape.dim) == case.x.shape


@pytest.mark.slow
def test_a_compiler_that_is_not_there_is_one_line(run_python, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    done = run_python('''
        import numpy as np
        import torch
        from rsq_backbone.errors import UserError
        from rsq_backbone.runtimes import RUNTIMES
        runtime = RUNTIMES['compile'].load()(1)
        runtime.load(torch.nn.Sequential(torch.nn.Conv2d(3, 5, 7), torch.nn.GELU()))
        runtime.bind([np.ones((1, 3, 9, 11), np.float32)])
        try:
            runtime.prepare()
        except UserError as e:
            print(e)
    ''')
    (line,) = done.stdout.splitlines()
    assert line.startswith('torch.compile cannot compile this network')
    assert 'it needs a C++ compiler' in line


# ---- instruction sets ----

SHOW_TORCH = '''
    import torch
    print(torch.backends.cpu.get_cpu_capability())
    torch.nn.Conv2d(64, 64, 3)(torch.randn(1, 64, 32, 32))
'''
SHOW_OPENVINO = '''
    import sys
    from rsq_backbone.runtimes.openvino import openvino
    config = {'INFERENCE_PRECISION_HINT': 'f32'}
    model = openvino.Core().compile_model(sys.argv[1], 'CPU', config)
    for operation in model.get_runtime_model().get_ordered_ops():
        print(operation.get_rt_info()['primitiveType'].astype(str))
'''


@pytest.fixture(scope='module')
def convolution(tmp_path_factory):
    file = tmp_path_factory.mktemp('onnx') / 'convolution.onnx'
    export(nn.Conv2d(64, 64, 3).eval(), [noise(1, 64, 32, 32)], file)
    return file


@pytest.mark.skipif(
    'avx2' not in (Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''),
    reason='not known to be an x86 processor with AVX2')
@pytest.mark.parametrize(('isa', 'capability', 'kernel'), [
    ('sse41', 'DEFAULT', 'sse4'), pytest.param('avx2', 'AVX2', 'avx2', marks=pytest.mark.slow)])
def test_pytorch_and_openvino_compute_with_no_newer_instructions(
        isa, capability, kernel, convolution, run_python, monkeypatch):
    with monkeypatch.context() as environment:
        environment.setenv('ONEDNN_VERBOSE', '1')
        for variable, value in isa_environment('eager', isa).items():
            environment.setenv(variable, value)
        lines = run_python(SHOW_TORCH).stdout.splitlines()
    assert capability in lines
    assert any(',convolution,' in line and kernel in line for line in lines)
    with monkeypatch.context() as environment:
        for variable, value in isa_environment('openvino', isa).items():
            environment.setenv(variable, value)
        lines = run_python(SHOW_OPENVINO, str(convolution)).stdout.splitlines()
    assert any(kernel in line for line in lines)
    assert not any('avx512' in line or 'amx' in line for line in lines)


def test_each_limit_has_a_value_for_each_variable_of_those_that_obey():
    assert not obeys('onnxruntime')
    assert [name for name in RUNTIMES if obeys(name)] == [name for name in RUNTIMES if name != 'onnxruntime']
    for isa in ISAS:
        assert isa_environment('onnxruntime', isa) == {}
        assert isa_environment('compile', isa).keys() == {
            'ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'MKL_ENABLE_INSTRUCTIONS'}
        assert isa_environment('openvino', isa).keys() == {'ONEDNN_MAX_CPU_ISA'}


# ---- CUDA ----

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
@pytest.mark.parametrize('name', IN_PYTORCH)
def test_without_a_cuda_device_one_line_says_so(name):
    with pytest.raises(UserError, match='no CUDA device; use --device cpu'):
        RUNTIMES[name].load()(1, 'cuda')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('name', EACH)
def test_cuda_computes_what_the_cpu_does(name, case):
    if 'cuda' not in RUNTIMES[name].devices:
        pytest.skip('runs on CPUs only')
    runtime = RUNTIMES[name].load()(1, 'cuda')
    runtime.load(case.network)
    runtime.bind([case.x])
    runtime.prepare()
    runtime.run()
    case.network.cpu()
    # TF32 in cuDNN's convolutions keeps ten bits of the mantissa.
    for output, expected in zip(runtime.outputs(), case.expected, strict=True):
        assert np.abs(output - expected).max() < 1e-2 * np.abs(expected).max()


def test_a_run_on_a_gpu_ends_when_the_gpu_is_done(monkeypatch):
    """With a GPU made of the CPU: nothing has to have been waited for when a call is only launched."""
    events = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: events.append('wait'))
    monkeypatch.setattr('rsq_backbone.runtimes.eager._device', lambda name: torch.device('cpu'))

    class Noting(nn.Module):
        def forward(self, x):
            events.append('launch')
            assert torch.is_inference_mode_enabled()
            return x + 1

    runtime = Eager(1, 'cuda')
    runtime.load(Noting())
    runtime.bind([np.zeros((1, 3, 4, 4), np.float32)])
    events.clear()
    runtime.launch()
    assert events == ['launch']
    runtime.run()
    assert events == ['launch', 'launch', 'wait']
    assert (runtime.outputs()[0] == 1).all()


def test_a_gpu_s_own_clock_is_read_from_first_event_to_last_and_in_seconds(monkeypatch):
    """Its work begins 4 ms after the call and takes 2.5 ms; to be launched takes no time."""
    clock = iter([4.0, 6.5])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def synchronize(self):
            self.waited_for = True

        def elapsed_time(self, other):
            assert other.waited_for
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr('rsq_backbone.runtimes.eager._device', lambda name: torch.device('cpu'))
    runtime = Eager(1, 'cuda')
    runtime.load(nn.Identity())
    runtime.bind([np.ones((1, 3, 4, 4), np.float32)])
    assert runtime.run_on_clock() == pytest.approx(0.0025)
    assert (runtime.outputs()[0] == 1).all()


@pytest.mark.parametrize('name', ['eager', 'onnxruntime', 'openvino'])
def test_a_processor_has_no_clock_of_its_own(name, tiny):
    runtime = loaded(name, Tiny(), tiny, [np.ones((1, 4, 256, 256), np.float32)])
    assert runtime.run_on_clock() is None
    assert np.isfinite(runtime.outputs()[0]).all()

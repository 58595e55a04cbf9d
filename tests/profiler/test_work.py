"""What a network asks for, against fvcore, against hand calculation and against what PyTorch really allocates."""
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn as nn
from fvcore.nn import FlopCountAnalysis
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from rsq_backbone.analysis import analyze
from rsq_backbone.errors import UserError
from rsq_backbone.profiler import work as work_module
from rsq_backbone.profiler.work import BETWEEN_LAYERS, REST, layer_times, work

FLOAT = 4


def build(name: str) -> nn.Module:
    if name.startswith('smp:'):
        _, architecture, encoder = name.split(':')
        return smp.create_model(architecture, encoder, encoder_weights=None)
    return timm.create_model(name)


@pytest.mark.parametrize('name', [
    'res_squeezenet', 'resnet18', 'mobilenetv2_100', 'smp:Unet:resnet18', 'smp:Unet:res_squeezenet'])
def test_multiply_accumulates_equal_fvcores(name):
    model = build(name)
    counted = FlopCountAnalysis(model.eval(), torch.randn(1, 3, 96, 64)).unsupported_ops_warnings(False).by_operator()
    assert work(model, (3, 96, 64)).macs == counted['conv'] + counted['linear']


def test_attention_is_counted_as_the_matrix_products_that_it_is():
    """DeiT tiny: 12 blocks of 197 tokens of width 192, and each block multiplies 197 x 197 scores twice by them."""
    model = build('deit_tiny_patch16_224')
    counted = FlopCountAnalysis(model.eval(), torch.randn(1, 3, 224, 224)).unsupported_ops_warnings(False).by_operator()
    attention = 12 * 2 * 197 * 197 * 192
    assert work(model, (3, 224, 224)).macs == counted['conv'] + counted['linear'] + attention


def test_attention_of_pytorch_itself_counts_though_it_has_a_fast_path():
    """Of 10 tokens of width 8: queries, keys, values and output, the scores of two heads, and two layers of 16."""
    layer = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    assert work(layer, (10, 2, 4)).macs == 10 * 8 * (4 * 8) + 2 * 10 * 10 * 8 + 2 * 10 * 8 * 16
    assert torch.backends.mha.get_fastpath_enabled()


def test_totals_are_the_papers():
    found = work(build('res_squeezenet'), (3, 227, 227), 'res_squeezenet')
    assert (found.model, found.input_size, found.parameters) == ('res_squeezenet', (3, 227, 227), 10_939_944)
    assert round(found.macs / 1e9, 3) == 0.788


@pytest.mark.parametrize('name', ['res_squeezenet', 'mobilenetv2_100', 'mobilevit_xxs', 'vit_tiny_patch16_224'])
def test_counts_are_the_analyzers(name):
    model = build(name)
    found, layers = work(model, (3, 224, 224)), analyze(model, (3, 224, 224))
    assert (found.macs, found.activations) == (layers.macs, layers.activations)


@pytest.mark.parametrize('name', ['res_squeezenet', 'smp:Unet:resnet18', 'smp:DeepLabV3Plus:res_squeezenet'])
def test_stages_add_up_to_the_whole(name):
    model = build(name)
    found = work(model, (3, 64, 64))
    for field in ('parameters', 'macs', 'activations', 'bytes_moved'):
        assert sum(getattr(stage, field) for stage in found.stages) == getattr(found, field)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert len({stage.name for stage in found.stages}) == len(found.stages)


def test_stages_are_the_parts_that_a_reader_knows():
    names = [stage.name for stage in work(build('res_squeezenet'), (3, 64, 64)).stages]
    assert names[:4] == ['stem.conv1', 'stem.relu1', 'pool1', 'stages.0.fire2']
    assert names[-4:] == ['stages.3.res5b', 'conv10', 'relu_conv10', 'global_pool']
    unet = [stage.name for stage in work(build('smp:Unet:tu-resnet18'), (3, 64, 64)).stages]
    assert unet[0] == 'encoder.model.conv1'
    assert unet[-6:] == [f'decoder.blocks.{i}' for i in range(5)] + ['segmentation_head']


class Small(nn.Module):
    """With 8 x 8 pictures: convolution to 4 maps of 8 x 8, ReLU, pooling to 4 x 4, addition, mean, 2 values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.conv(x))
        x = self.pool(x)
        x = x + x
        return self.fc(x.mean((2, 3)))


def test_hand_calculation():
    found = work(Small(), (3, 8, 8))
    picture, maps, pooled = 3 * 64, 4 * 64, 4 * 16
    assert {s.name: (s.parameters, s.macs, s.activations, s.bytes_moved) for s in found.stages} == {
        'conv': (112, 3 * 9 * 4 * 64, maps, FLOAT * (112 + picture + maps)),
        'relu': (0, 0, 0, FLOAT * 2 * maps),
        'pool': (0, 0, 0, FLOAT * (maps + pooled)),
        'fc': (10, 4 * 2, 2, FLOAT * (10 + 4 + 2)),
        REST: (0, 0, 0, FLOAT * (3 * pooled + pooled + 4)),
    }
    # The first two maps beside the picture; `x` lets go of the first only when the second is there.
    assert found.peak_activations == FLOAT * (picture + 2 * maps)
    assert found.not_counted == ('add', 'max_pool2d_with_indices', 'mean', 'relu')


class Concatenating(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x + 1
        view = a[:, :2].transpose(2, 3)  # of a, and keeps it in memory
        b = view + 2
        del a, view
        c = torch.cat([b, b, b], 1)
        return c.relu_()


def test_peak_counts_a_storage_once_and_until_the_last_view_is_gone():
    """Picture, a (both 3 x 16) and b (2 x 16), then picture, b and c (6 x 16): the latter is more."""
    assert work(Concatenating(), (3, 4, 4)).peak_activations == FLOAT * 16 * (3 + 2 + 6)


def test_peak_leaves_parameters_out_even_where_only_views_of_them_are_used():
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(50, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).transpose(1, 2) @ self.weight.t()

    found = work(Transposed(), (3, 2, 2))
    assert found.peak_activations == FLOAT * (3 * 4 + 50 * 4)
    assert found.macs == 50 * 3 * 4
    assert found.bytes_moved == FLOAT * (50 * 3 + 3 * 4 + 50 * 4)


def really_allocated(model: nn.Module, size: Tuple[int, int, int]) -> int:
    """Peak of PyTorch's allocator in one call, without what a oneDNN convolution takes and gives back while it runs."""
    model.eval()
    x = torch.randn(1, *size)
    with torch.inference_mode():
        model(x)
        with torch_profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
            model(x)
    events: List[Any] = []
    todo = list(measured.profiler.kineto_results.experimental_event_tree())
    while todo:
        event = todo.pop()
        todo += event.children
        if event.tag == _EventType.Allocation:
            events.append(event)
    events.sort(key=lambda e: e.start_time_ns)

    def convolution(event: Any) -> Any:
        while event is not None and event.name != 'aten::mkldnn_convolution':
            event = event.parent
        return None if event is None else event.id

    workspaces, taken = set(), {}
    for i, event in enumerate(events):
        fields = event.extra_fields
        if fields.alloc_size > 0:
            taken[fields.ptr] = i
        else:
            start = taken.pop(fields.ptr)
            if convolution(event) is not None and convolution(event) == convolution(events[start]):
                workspaces |= {start, i}
    now = peak = 0
    for i, event in enumerate(events):
        if i not in workspaces:
            now += event.extra_fields.alloc_size
            peak = max(peak, now)
    return peak + x.nbytes


@pytest.mark.parametrize('name', [
    'res_squeezenet', 'resnet18', 'mobilenetv3_small_100', 'convnext_atto', 'deit_tiny_patch16_224',
    'smp:Unet:res_squeezenet', 'smp:FPN:mobilenet_v2'])
def test_peak_is_what_a_real_run_allocates(name):
    model = build(name)
    size = (3, 224, 224)
    assert work(model, size).peak_activations == pytest.approx(really_allocated(model, size), rel=1e-3)


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='peak memory is read from /proc')
def test_tracing_a_huge_picture_takes_no_memory():
    def highest() -> int:
        line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM'))
        return int(line.split()[1]) * 1024

    model = build('smp:Unet:res_squeezenet')
    work(model, (3, 64, 64))
    before = highest()
    found = work(model, (3, 4096, 4096))
    assert found.peak_activations > 6 * 2 ** 30
    assert highest() - before < 50 * 2 ** 20


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if bool(torch.isfinite(x.sum())) else x


def test_a_network_that_looks_at_values_is_run_for_real():
    with pytest.raises(UserError):
        analyze(Branching(), (3, 8, 8))
    found = work(Branching(), (3, 8, 8))
    assert found.macs == 3 * 4 * 64
    assert found.peak_activations == FLOAT * (3 + 4) * 64
    assert {s.name for s in found.stages} == {'conv', REST}


def test_a_network_that_torchscript_has_compiled_is_one_stage():
    model = timm.create_model('resnet18', scriptable=True).eval()
    expected = work(model, (3, 64, 64))
    found = work(torch.jit.script(model), (3, 64, 64))
    assert [stage.name for stage in found.stages] == [REST]
    assert (found.parameters, found.macs) == (expected.parameters, expected.macs)


def test_both_ways_of_tracing_say_the_same(monkeypatch):
    model = build('smp:Unet:res_squeezenet')
    expected = work(model, (3, 64, 96))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(work_module, 'FakeTensorMode', refuse)
    assert work(model, (3, 64, 96)) == expected


@pytest.mark.parametrize(('model', 'size', 'says'), [
    (Branching(), (5, 8, 8), 'refuses an input of 5 x 8 x 8'),
    (smp.Linknet('resnet18', encoder_weights=None), (3, 65, 64), 'refuses an input of 3 x 65 x 64: .*divisible'),
])
def test_a_size_that_the_network_refuses_is_said_in_one_line(model, size, says):
    with pytest.raises(UserError, match=says) as raised:
        work(model, size)
    assert '\n' not in str(raised.value)


def test_model_is_left_as_it_was():
    model = Small().train()
    model.pool.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    work(model, (3, 8, 8))
    layer_times(model, [torch.randn(1, 3, 8, 8)], calls=1)
    assert model.training
    assert not model.pool.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Clock:
    """A clock that layers move."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Taking(nn.Module):
    def __init__(self, clock: Clock, *seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, list(seconds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds.pop(0)
        return x


class Timed(nn.Module):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.first = Taking(clock, 100.0, 1.0, 9.0, 2.0)
        self.twice = Taking(clock, 100.0, 100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
        self.never = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(self.first(x)))
        self.clock.now += 0.5
        return x


def test_layer_times_are_medians_over_the_calls_after_the_first(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(work_module, 'time', clock)
    found: Dict[str, Tuple[str, float]] = {
        layer.name: (layer.type, layer.seconds) for layer in layer_times(Timed(clock), [torch.zeros(1)], calls=3)}
    assert found == {'first': ('Taking', 2.0), 'twice': ('Taking', 7.0), BETWEEN_LAYERS: ('functions', 0.5)}

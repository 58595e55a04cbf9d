"""The network is the same graph whatever wraps the call: gradients on or off, any memory format, any program transform.

What computes the expected values is the plain eager call.
"""
from typing import Any, Callable, Dict, List

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.fx
import torch.nn as nn
from torch.fx.experimental.proxy_tensor import make_fx

MODEL = ''  # set by the fixture `variant`
pytestmark = pytest.mark.usefixtures('variant')

BUILD: Dict[str, Callable[[], nn.Module]] = {
    'classifier': lambda: timm.create_model(MODEL),
    'output stride 8': lambda: timm.create_model(MODEL, output_stride=8),
    'features': lambda: timm.create_model(MODEL, features_only=True),
    'smp encoder': lambda: smp.encoders.get_encoder(MODEL, weights=None),
    'smp.Unet': lambda: smp.Unet(MODEL, encoder_weights=None, decoder_channels=(32, 16, 16, 8, 8)),
}


@pytest.fixture(params=list(BUILD))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return BUILD[request.param]().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


def last(output: Any) -> torch.Tensor:
    """The logits, or the last level of a pyramid, which all others lead to."""
    return output if isinstance(output, torch.Tensor) else output[-1]


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(list(actual), list(expected))


def test_trace_passes_its_own_check_and_computes_the_same_at_another_size(model: nn.Module, x: torch.Tensor) -> None:
    """Its check runs without gradients what was recorded with them."""
    traced = torch.jit.trace(model, x)
    other = torch.randn(1, 3, 96, 128)
    assert_same(traced(other), model(other))


def test_a_training_network_is_traced_as_it_trains(x: torch.Tensor) -> None:
    model = BUILD['smp encoder']().train()  # without dropout
    traced = torch.jit.trace(model, x, check_trace=False)
    assert_same(last(traced(x)), last(model(x)))


def operations(model: nn.Module, x: torch.Tensor) -> List[str]:
    """Convolutions, pools and concatenations in their order, and whatever copies a tensor."""
    names = [str(node.target) for node in make_fx(model)(x).graph.nodes if node.op == 'call_function']
    return [name for name in names if any(
        kind in name for kind in ('convolution', 'max_pool', 'aten.cat', 'clone', 'copy', 'contiguous'))]


def test_the_operations_do_not_depend_on_gradients_or_memory_format(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        plain = operations(model, x)
    assert sum('max_pool' in name for name in plain) >= 3
    assert not [name for name in plain if 'clone' in name or 'copy' in name or 'contiguous' in name]
    channels_last = x.contiguous(memory_format=torch.channels_last)
    assert operations(model, x.requires_grad_()) == plain
    assert operations(model, channels_last) == plain
    assert operations(model.to(memory_format=torch.channels_last), channels_last) == plain
    with torch.no_grad():
        assert operations(model, channels_last) == plain


def test_fx_and_strict_export_compute_the_same(model: nn.Module, x: torch.Tensor) -> None:
    expected = model(x)
    assert_same(torch.export.export(model, (x,), strict=True).module()(x), expected)
    if not isinstance(model, smp.Unet):  # smp checks the input's shape by a branch
        assert_same(torch.fx.symbolic_trace(model)(x), expected)


@pytest.mark.slow
def test_compile_takes_it_as_one_graph_in_both_modes(model: nn.Module, x: torch.Tensor) -> None:
    torch._dynamo.reset()
    assert_same(torch.compile(model, fullgraph=True, backend='aot_eager')(x), model(x))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.
    last(torch.compile(model.train(), fullgraph=True, backend='aot_eager')(x)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_vmap_equals_a_loop(model: nn.Module) -> None:
    model.double()
    x = torch.randn(3, 1, 3, 64, 64, dtype=torch.float64)
    actual = torch.func.vmap(lambda image: last(model(image)))(x)
    torch.testing.assert_close(actual, torch.stack([last(model(image)) for image in x]))


def test_per_sample_gradients_by_functional_call_equal_those_of_a_loop(model: nn.Module, x: torch.Tensor) -> None:
    model.double()
    x = x.double()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters: Dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return last(torch.func.functional_call(model, (parameters, buffers), (image[None],))).square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(
        {name: p.detach() for name, p in parameters.items()}, x)
    for i, image in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, image), list(parameters.values()))
        for name, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(gradients[name][i], value)


def test_jvp_equals_the_product_with_the_gradient(model: nn.Module, x: torch.Tensor) -> None:
    """Forward mode, of which reverse mode is the check: <u, J v> = <J^T u, v>."""
    model.double()
    x, v = x.double().requires_grad_(), torch.randn_like(x, dtype=torch.float64)
    output, forward = torch.func.jvp(lambda image: last(model(image)), (x.detach(),), (v,))
    u = torch.randn_like(output)
    (backward,) = torch.autograd.grad(last(model(x)), x, u)
    torch.testing.assert_close((u * forward).sum(), (backward * v).sum())


def test_hooks_see_every_layer_once(model: nn.Module, x: torch.Tensor) -> None:
    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    calls: List[str] = []
    handles = [m.register_forward_hook(lambda *_, name=name: calls.append(name)) for name, m in leaves.items()]
    model(x)
    for handle in handles:
        handle.remove()
    weighted = [name for name, m in leaves.items() if list(m.parameters())]
    assert sorted(name for name in calls if name in weighted) == sorted(weighted)


@pytest.mark.slow
def test_ahead_of_time_compilation_computes_the_same(x: torch.Tensor, tmp_path: Any) -> None:
    """AOTInductor: export, compile to a library, load it back. Needs a C++ compiler, as torch.compile does."""
    model = timm.create_model(MODEL).eval()
    program = torch.export.export(model, (x,), strict=True)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / 'model.pt2'))
    torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x), model(x), rtol=1e-4, atol=1e-4)

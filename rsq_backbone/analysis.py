"""A network analyzer: every layer with its type, activation size, learnables and multiply-accumulates, and warnings.

The table is the one of the paper's figures 8 and 9 (MATLAB's network analyzer), in which additions and concatenations
are layers of their own.
"""
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import torch
import torch.fx
import torch.nn as nn
from timm.data import resolve_data_config
from timm.models import get_notrace_functions, get_notrace_modules

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.evaluation_mode import in_evaluation_mode
from rsq_backbone.model_loading import as_model
from rsq_backbone.operations import OperationCounter, countable

__all__ = ['Analysis', 'Layer', 'analyze', 'refusal']

_FUNCTION_TYPES = {'add': 'Addition', 'iadd': 'Addition', 'mul': 'Multiplication', 'cat': 'Concatenation'}


@dataclass(frozen=True)
class Layer:
    name: str
    type: str
    output_shape: Tuple[int, ...]  # for one image: channels, height, width
    learnables: Dict[str, Tuple[int, ...]]  # shape by parameter name
    parameters: int
    macs: int  # multiply-accumulates of convolutions, matrix products and attention, one image
    activations: int  # values that these put out, one image


@dataclass(frozen=True)
class Analysis:
    model: str
    input_size: Tuple[int, int, int]
    layers: Tuple[Layer, ...]
    parameters: int
    macs: int
    activations: int
    warnings: Tuple[str, ...]


@torch.no_grad()
def analyze(
        model: Union[str, nn.Module], input_size: Optional[Tuple[int, int, int]] = None, name: str = '') -> Analysis:
    """Run one image of noise through a network, layer by layer.

    Args:
        model: Name of a timm model, which gets random weights, or any network that torch.fx can trace. It is run in
            evaluation mode and left as it was.
        input_size: Channels, height, width; by default what the model's configuration says, else (3, 224, 224).
        name: What the analysis calls the model; by default the name that was given, else its class.

    Raises:
        UserError: if timm does not know the name, or the network cannot be traced, or not run at this size.
    """
    name = name or (model if isinstance(model, str) else type(model).__name__)
    model = as_model(model, pretrained=False)
    input_size = input_size or tuple(resolve_data_config(model=model)['input_size'])
    with in_evaluation_mode(model), countable():
        recorder = _Recorder(_trace(model))
        generator = torch.Generator().manual_seed(0)
        try:
            output = recorder.run(torch.randn(1, *input_size, generator=generator))
        except (RuntimeError, ValueError, AssertionError) as e:
            raise refusal(input_size, e) from e
        return Analysis(
            model=name,
            input_size=input_size,
            layers=tuple(recorder.layers),
            parameters=sum(p.numel() for p in model.parameters()),
            macs=sum(layer.macs for layer in recorder.layers),
            activations=sum(layer.activations for layer in recorder.layers),
            warnings=tuple(_warnings(model, recorder, output)),
        )


def refusal(input_size: Tuple[int, ...], error: Exception) -> UserError:
    size = ' x '.join(map(str, input_size))
    return UserError(f'the network refuses an input of {size}: {one_line(error)}')


def _trace(model: nn.Module) -> torch.fx.GraphModule:
    notrace = tuple(get_notrace_modules())

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, notrace) or not any(True for _ in m.children())

    try:
        tracer = Tracer(autowrap_functions=tuple(get_notrace_functions()))
        return torch.fx.GraphModule(model, tracer.trace(model))
    except Exception as e:  # tracing runs the model's own Python on stand-ins, so it may fail in any way
        raise UserError(f'{type(model).__name__} cannot be traced by torch.fx: {one_line(e)}') from e


class _Recorder(torch.fx.Interpreter):
    """Notes a layer for every node of the graph that puts out a tensor."""

    def __init__(self, graph_module: torch.fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.layers: List[Layer] = []
        self.inputs: Dict[str, List[torch.Size]] = {}  # of the modules, by their names

    def run_node(self, n: torch.fx.Node) -> Any:
        with OperationCounter() as counter:
            result = super().run_node(n)
        if not isinstance(result, torch.Tensor) or n.op in ('output', 'get_attr'):
            return result
        module = self.module.get_submodule(str(n.target)) if n.op == 'call_module' else None
        if module is not None:
            arguments, _ = self.fetch_args_kwargs_from_env(n)
            self.inputs[str(n.target)] = [a.shape for a in arguments if isinstance(a, torch.Tensor)]
            if isinstance(module, nn.Identity):
                return result
        learnables = {} if module is None else {k: tuple(p.shape) for k, p in module.named_parameters()}
        self.layers.append(Layer(
            name=_name(n),
            type=_type(n, module),
            output_shape=tuple(result.shape[1:]),
            learnables=learnables,
            parameters=0 if module is None else sum(p.numel() for p in module.parameters()),
            macs=counter.total.macs,
            activations=counter.total.activations,
        ))
        return result


def _name(n: torch.fx.Node) -> str:
    if n.op == 'placeholder':
        return 'input'
    if n.op == 'call_module':
        return str(n.target)
    scopes = [path for path, _ in (n.meta.get('nn_module_stack') or {}).values() if path]
    return '.'.join([*scopes[-1:], _function_name(n)])


def _type(n: torch.fx.Node, module: Optional[nn.Module]) -> str:
    if n.op == 'placeholder':
        return 'Input'
    if module is not None:
        return type(module).__name__
    return _FUNCTION_TYPES.get(_function_name(n), _function_name(n))


def _function_name(n: torch.fx.Node) -> str:
    return str(n.target if isinstance(n.target, str) else getattr(n.target, '__name__', n.target))


def _warnings(model: nn.Module, recorder: _Recorder, output: Any) -> Iterator[str]:
    modules = dict(model.named_modules())
    nodes = list(recorder.graph.nodes)
    yield from _unused_parameters(model, modules, nodes)
    yield from _unread_borders(modules, recorder.inputs)
    yield from _single_values(modules, recorder.inputs)
    yield from _missing_norms(modules, nodes)
    yield from _relu_on_logits(modules, nodes)
    if isinstance(output, torch.Tensor) and not bool(torch.isfinite(output).all()):
        yield 'The output holds values that are not finite.'


def _unused_parameters(
        model: nn.Module, modules: Dict[str, nn.Module], nodes: Iterable[torch.fx.Node],
) -> Iterator[str]:
    read = {str(n.target) for n in nodes if n.op == 'get_attr'}
    for n in nodes:
        if n.op == 'call_module':
            read.update(f'{n.target}.{name}' for name, _ in modules[str(n.target)].named_parameters())
    unused = [name for name, _ in model.named_parameters() if name not in read]
    if unused:
        yield f'{len(unused)} parameters are never used: {", ".join(unused[:4])}{" ..." if len(unused) > 4 else ""}.'


def _unread_borders(modules: Dict[str, nn.Module], inputs: Dict[str, List[torch.Size]]) -> Iterator[str]:
    for name, shapes in inputs.items():
        m = modules[name]
        if not isinstance(m, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) or getattr(m, 'ceil_mode', False):
            continue
        if isinstance(m.padding, str):  # 'same' reads all
            continue
        unread = {}
        for axis, side in ((0, 'row'), (1, 'column')):
            size = shapes[0][-2 + axis]
            kernel, stride, padding, dilation = (
                value[axis] if isinstance(value, tuple) else value
                for value in (m.kernel_size, m.stride, m.padding, getattr(m, 'dilation', 1)))
            if kernel < stride:  # skips on purpose
                continue
            rest = (size + 2 * padding - dilation * (kernel - 1) - 1) % stride - padding
            if rest > 0:
                unread[side] = rest
        if unread:
            last = ' and '.join(f'{rest} {side}{"s" * (rest > 1)}' for side, rest in unread.items())
            yield f'{name} never reads the last {last} of its input ({shapes[0][-2]} x {shapes[0][-1]}).'


def _single_values(modules: Dict[str, nn.Module], inputs: Dict[str, List[torch.Size]]) -> Iterator[str]:
    names = [
        name for name, shapes in inputs.items()
        if isinstance(modules[name], nn.modules.batchnorm._BatchNorm) and shapes[0][2:].numel() == 1
    ]
    if names:
        yield (f'{names[0]} and {len(names) - 1} more batch norms see maps of 1 x 1: a batch of one picture has no '
               'statistics to train on. Use a larger input.')


def _missing_norms(modules: Dict[str, nn.Module], nodes: Iterable[torch.fx.Node]) -> Iterator[str]:
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    convolutions = [n for n in nodes if n.op == 'call_module' and isinstance(modules[str(n.target)], nn.Conv2d)]
    bare = [
        n for n in convolutions
        if not any(u.op == 'call_module' and isinstance(modules[str(u.target)], norms) for u in n.users)
    ]
    if len(bare) > 1:
        yield (f'{len(bare)} of {len(convolutions)} convolutions have no normalisation after them: train them at a '
               'lower learning rate than the rest.')


def _relu_on_logits(modules: Dict[str, nn.Module], nodes: Iterable[torch.fx.Node]) -> Iterator[str]:
    node = next(n for n in nodes if n.op == 'output').args[0]
    while isinstance(node, torch.fx.Node) and node.op == 'call_module':
        module = modules[str(node.target)]
        source = node.args[0] if node.args else None
        if isinstance(module, nn.ReLU):
            if isinstance(source, torch.fx.Node) and source.op == 'call_module' and any(
                    True for _ in modules[str(source.target)].parameters()):
                yield (f'{node.target} holds the logits at zero or more: a class whose logits are all negative gets no '
                       'gradient. Keep learning rates low or switch it off (logit_relu=False).')
            return
        if any(True for _ in module.parameters()):
            return
        node = source

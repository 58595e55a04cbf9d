"""What one forward pass asks for, found without running it, and how long each layer takes, found by running it."""
import statistics
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Sequence, Set, Tuple

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from rsq_backbone.analysis import refusal
from rsq_backbone.evaluation_mode import in_evaluation_mode
from rsq_backbone.operations import Operations, count, countable, tensors
from rsq_backbone.profiler.profile import LayerTime, StageWork, Work

__all__ = ['BETWEEN_LAYERS', 'REST', 'layer_times', 'work']

REST = '(rest)'  # what a network does outside its stages, such as resizing and concatenating in its own `forward`
BETWEEN_LAYERS = '(between layers)'

_FLOAT32 = 4
_CREATIONS = {
    'arange', 'empty', 'empty_like', 'empty_strided', 'fill_', 'full', 'full_like', 'new_empty', 'new_full', 'new_ones',
    'new_zeros', 'ones', 'ones_like', 'scalar_tensor', 'zero_', 'zeros', 'zeros_like',
}
_COPIES = {'_to_copy', 'clone', 'copy', 'copy_'}
_REARRANGEMENTS = {
    'cat', 'constant_pad_nd', 'embedding', 'flip', 'gather', 'index', 'index_select', 'pixel_shuffle',
    'pixel_unshuffle', 'reflection_pad2d', 'repeat', 'replication_pad2d', 'roll', 'stack',
}


def work(
        model: nn.Module, input_size: Tuple[int, int, int], name: str = '', others: Sequence[torch.Tensor] = (),
) -> Work:
    """Trace one picture through `model` on tensors that have a shape but no values, at no cost of memory.

    A network that needs values, because its `forward` branches on them, runs for real instead, on a picture of noise.

    Multiply-accumulates and activations are those of `operations.Operations`. The peak of the activations is that
    of PyTorch in inference: each tensor counts from the operation that makes it until nothing refers to it any more,
    the input and the indices of max pooling too. What an operation needs for itself while it runs is not seen.

    Args:
        model: Takes a batch of pictures. Traced in evaluation mode; its own mode is restored.
        input_size: Channels, height, width.
        name: What the result calls the model; its class if not given.
        others: Its further inputs, each with a batch of one.

    Raises:
        UserError: if the network does not run at this size.
    """
    with in_evaluation_mode(model), torch.no_grad(), countable():
        try:
            tracer = _trace(model, input_size, others, fake=True)
        except Exception:  # a network's own Python fails in any way on tensors without values
            try:
                tracer = _trace(model, input_size, others, fake=False)
            except (RuntimeError, ValueError, AssertionError) as e:
                raise refusal(input_size, e) from e
    stages = tuple(_with_parameters(model, tracer.stages))
    return Work(
        model=name or type(model).__name__,
        input_size=input_size,
        parameters=sum(stage.parameters for stage in stages),
        macs=sum(stage.macs for stage in stages),
        activations=sum(stage.activations for stage in stages),
        bytes_moved=sum(stage.bytes_moved for stage in stages),
        peak_activations=tracer.peak,
        stages=stages,
        not_counted=tuple(sorted(tracer.not_counted)),
    )


def _trace(
        model: nn.Module, input_size: Tuple[int, int, int], others: Sequence[torch.Tensor], fake: bool) -> '_Tracer':
    own = [*model.parameters(), *model.buffers()]
    device = own[0].device if own else None
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    generator = torch.Generator().manual_seed(0)
    # A view of a parameter lies in the storage of its fake, for as long as that is kept.
    kept = [mode.from_tensor(tensor) for tensor in own] if mode else own
    with ExitStack() as stack:
        stack.enter_context(mode or nullcontext())
        x = torch.empty(1, *input_size, device=device) if mode else torch.randn(
            1, *input_size, generator=generator).to(device)
        inputs = [x, *(mode.from_tensor(tensor) if mode else tensor.to(device or 'cpu') for tensor in others)]
        tracer = _Tracer(inputs, {_storage(tensor) for tensor in [*own, *kept]})
        stack.enter_context(tracer)
        for stage, module in _stages(model):
            stack.enter_context(tracer.inside(stage, module))
        model(*inputs)
    return tracer


def _stages(module: nn.Module, prefix: str = '') -> Iterator[Tuple[str, nn.Module]]:
    """The parts that a reader knows a network by, with their names.

    A plain list of modules, the only child of a module, and an encoder with its decoder are no parts but hold them.
    What TorchScript has compiled takes no hooks, so that its work cannot be told apart.
    """
    children = {name: m for name, m in module.named_children() if not isinstance(m, torch.jit.ScriptModule)}
    for name, child in children.items():
        holds_parts = (
            type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
            or len(children) == 1
            or ({'encoder', 'decoder'} <= children.keys() and name in ('encoder', 'decoder')))
        if holds_parts and any(True for _ in child.children()):
            yield from _stages(child, f'{prefix}{name}.')
        else:
            yield prefix + name, child


@dataclass
class _Stage:
    operations: Operations = field(default_factory=Operations)
    bytes_moved: int = 0  # without the weights


class _Tracer(TorchDispatchMode):
    """Sees every operation, adds it to the stage that it belongs to, and keeps account of what is in memory."""

    def __init__(self, inputs: Sequence[torch.Tensor], own_storages: Set[int]) -> None:
        super().__init__()
        self.stages: Dict[str, _Stage] = {}
        self.not_counted: Set[str] = set()
        self.peak = 0
        self._own_storages = own_storages
        self._inside = [REST]
        self._alive: Dict[int, Tuple[StorageWeakRef, int]] = {}
        self._see_memory(inputs)

    def inside(self, name: str, module: nn.Module) -> ExitStack:
        """Operations belong to this stage while its module is called."""
        self.stages[name] = _Stage()

        def leave(*_: Any) -> None:
            self._inside.pop()

        hooks = ExitStack()
        hooks.enter_context(module.register_forward_pre_hook(lambda *_: self._inside.append(name)))
        hooks.enter_context(module.register_forward_hook(leave))
        return hooks

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = tensors(out)
        if not results or func.is_view:
            return out
        self._see_memory(results)
        sources = tensors((args, kwargs))
        in_place = func._schema.is_mutable
        if in_place or not {_storage(t) for t in results} <= {_storage(t) for t in sources}:
            self._see_work(func, args, kwargs, out, sources, [t for t in results if t.is_floating_point()])
        return out

    def _see_work(
            self, func: Any, args: Any, kwargs: Any, out: Any,
            sources: List[torch.Tensor], results: List[torch.Tensor],
    ) -> None:
        namespace, operation = func._overloadpacket._qualified_op_name.split('::')
        if operation in _CREATIONS:
            return
        stage = self.stages.setdefault(self._inside[-1], _Stage())
        counted = count(func, args, kwargs, out)
        if counted is not None:
            stage.operations += counted
        elif operation not in _COPIES | _REARRANGEMENTS:
            self.not_counted.add(operation if namespace == 'aten' else f'{namespace}::{operation}')
        read = [t for t in sources if _storage(t) not in self._own_storages]
        stage.bytes_moved += sum(t.numel() * t.element_size() for t in [*read, *results])

    def _see_memory(self, results: Sequence[torch.Tensor]) -> None:
        self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
        for tensor in results:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._own_storages and storage._cdata not in self._alive:
                self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _with_parameters(model: nn.Module, stages: Dict[str, _Stage]) -> Iterator[StageWork]:
    """The stages that hold or do something; a parameter belongs to the first that holds it."""
    own: Dict[str, Dict[int, int]] = {}
    placed: Set[int] = set()
    for name, module in [*_stages(model), (REST, model)]:
        own[name] = {id(p): p.numel() for p in module.parameters() if id(p) not in placed}
        placed.update(own[name])
    for name, sizes in own.items():
        stage = stages.get(name, _Stage())
        parameters = sum(sizes.values())
        if parameters or stage.bytes_moved:
            yield StageWork(
                name=name,
                parameters=parameters,
                macs=stage.operations.macs,
                activations=stage.operations.activations,
                bytes_moved=_FLOAT32 * parameters + stage.bytes_moved,
            )


@torch.inference_mode()
def layer_times(model: nn.Module, inputs: Sequence[torch.Tensor], calls: int) -> Tuple[LayerTime, ...]:
    """Time every layer, in the order in which they first run.

    Layers are the modules without children. What the network does in functions between them (adding, resizing,
    concatenating) no layer sees: the last entry, `BETWEEN_LAYERS`, is the rest of the call, the timers' own time
    included.

    Args:
        model: Called in evaluation mode; its own mode is restored.
        inputs: The batch that it is called on, a tensor for each of its inputs, on the model's device.
        calls: Timed calls, after one that is not.

    Returns:
        Medians over the calls. A layer that is called several times in one call takes the sum.
    """
    device = inputs[0].device
    layers = {module: name for name, module in model.named_modules() if not any(True for _ in module.children())}
    times: Dict[nn.Module, List[float]] = {}
    rest: List[float] = []
    started: List[float] = []
    current: Dict[nn.Module, float] = {}

    def before(*_: Any) -> None:
        started.append(_now(device))

    def after(module: nn.Module, *_: Any) -> None:
        current[module] = current.get(module, 0.0) + _now(device) - started.pop()

    with in_evaluation_mode(model), ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(before))
            hooks.enter_context(layer.register_forward_hook(after))
        for call in range(calls + 1):
            current.clear()
            start = _now(device)
            model(*inputs)
            total = _now(device) - start
            if call > 0:
                rest.append(total - sum(current.values()))
                for module, seconds in current.items():
                    times.setdefault(module, []).append(seconds)
    return (
        *(LayerTime(layers[m], type(m).__name__, statistics.median(seconds)) for m, seconds in times.items()),
        LayerTime(BETWEEN_LAYERS, 'functions', statistics.median(rest)),
    )


def _now(device: torch.device) -> float:
    """Once the device has done all it was told to."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()

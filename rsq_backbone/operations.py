"""The multiply-accumulates and activations of PyTorch's operations: what all counts of this package are made of."""
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

__all__ = ['OperationCounter', 'Operations', 'count', 'countable', 'tensors']


@dataclass(frozen=True)
class Operations:
    """Of one operation that multiplies and accumulates, or of several.

    Multiply-accumulates are those of convolutions, matrix products and attention. Activations are the values that these
    put out, as in Radosavovic et al. 2020, "Designing Network Design Spaces". fvcore counts both in the same way.
    """

    macs: int = 0
    activations: int = 0

    def __add__(self, other: 'Operations') -> 'Operations':
        return Operations(self.macs + other.macs, self.activations + other.activations)


def count(func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], out: Any) -> Optional[Operations]:
    """What a call of an ATen operator was; None if it does not multiply and accumulate.

    Fused attention counts as the two matrix products that it replaces, the scores among what they put out.
    """
    operation = func._overloadpacket
    if operation.__name__.startswith('_scaled_dot_product'):
        query, key, value = (tensor.shape for tensor in tensors((args, kwargs))[:3])
        # PyTorch's own registry knows the kernels of GPUs only.
        return Operations(
            int(sdpa_flop_count(query, key, value)) // 2,
            math.prod(query[:-1]) * (key[-2] + value[-1]))
    flops = flop_registry.get(operation)
    if flops is None:
        return None
    return Operations(
        int(flops(*args, **kwargs, out_val=out)) // 2,
        sum(t.numel() for t in tensors(out) if t.is_floating_point()))


@contextmanager
def countable() -> Iterator[None]:
    """Have `nn.MultiheadAttention` call the operators that are counted, and not kernels that do all of it in one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class OperationCounter(TorchDispatchMode):
    """Counts the operations that run inside its `with` block.

    Inference mode would hide some of them, and so would fast paths: use `no_grad` and `countable`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = Operations()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.total += count(func, args, kwargs, out) or Operations()
        return out


def tensors(tree: Any) -> List[torch.Tensor]:
    """The tensors among arguments or results, in their order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]

"""A network cut where its frozen part ends, so that the frozen part needs to be computed once only."""
import operator
from dataclasses import dataclass
from typing import Dict, Optional, Set

import torch
import torch.fx
import torch.nn as nn

from rsq_backbone.training.layers import is_frozen

__all__ = ['CutNetwork', 'cut_at_frozen']

# Where the classes of parameterless modules come from that give the same for the same input, whatever the mode. The
# random ones among them are named; of a class from elsewhere nothing is known.
_KNOWN = (
    'torch.nn.modules.', 'timm.layers.activations', 'timm.layers.adaptive_avgmax_pool', 'timm.layers.pool2d_same',
    'rsq_backbone.res_squeezenet')
_RANDOM_MODULES = (nn.modules.dropout._DropoutNd, nn.RReLU)
# Functions that give the same for the same input, whatever the mode; anything else ends the frozen part.
_PURE_FUNCTIONS = frozenset({
    operator.add, operator.iadd, operator.mul, operator.getitem, torch.add, torch.cat, torch.flatten, torch.mean,
    torch.mul, torch.nn.functional.relu, torch.relu,
})
_PURE_METHODS = frozenset({'add', 'add_', 'contiguous', 'flatten', 'mean', 'mul', 'permute', 'relu', 'reshape', 'view'})


@dataclass(frozen=True)
class CutNetwork:
    """`trained(frozen(x))` is what the network computes; both share their parameters with it.

    `trained` follows the mode (train or eval) of the network that was cut.
    """

    frozen: nn.Module  # in evaluation mode, without gradients
    trained: nn.Module


def cut_at_frozen(model: nn.Module) -> Optional[CutNetwork]:
    """Cut where a single tensor carries all that the trained part needs from the frozen one, as late as possible.

    Only the skeleton of the network is traced: a module that is frozen or trained as a whole, or holds no parameters,
    is one node, so that what happens inside of it does not matter.

    Returns:
        None if nothing before a trained layer is frozen, or if torch.fx cannot trace the skeleton.
    """
    was_training = model.training
    try:
        # Traced once per mode, because a forward may hand on self.training as a constant.
        graphs = {mode: _SkeletonTracer().trace(model.train(mode)) for mode in (True, False)}
    except Exception:  # tracing runs the model's own code on proxies, which may raise anything
        return None
    finally:
        model.train(was_training)
    # In evaluation mode dropout is no obstacle; the cut must hold in training.
    cut = _cut_node(model, graphs[True])
    if cut is None or not any(node.name == cut.name for node in graphs[False].nodes):
        return None
    frozen = {mode: _part(model, graph, cut.name, before=True) for mode, graph in graphs.items()}
    if str(frozen[True].graph) != str(frozen[False].graph):  # what is done in training only would be left out
        return None
    return CutNetwork(
        frozen=frozen[False],
        trained=_TrainedPart(*(_part(model, graphs[mode], cut.name, before=False) for mode in (True, False))))


class _SkeletonTracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_frozen(m) or all(p.requires_grad for p in m.parameters())


class _TrainedPart(nn.Module):
    def __init__(self, in_training: nn.Module, in_evaluation: nn.Module) -> None:
        super().__init__()
        self.in_training = in_training
        self.in_evaluation = in_evaluation

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.in_training(features) if self.training else self.in_evaluation(features)


def _cut_node(model: nn.Module, graph: torch.fx.Graph) -> Optional[torch.fx.Node]:
    """The last node that alone carries what the nodes after it need from the picture."""
    nodes = list(graph.nodes)
    fixed: Set[torch.fx.Node] = set()
    any_frozen = False
    cut = None
    for i, node in enumerate(nodes):
        if not (node.op == 'placeholder' or _is_fixed(model, node)) or not fixed.issuperset(node.all_input_nodes):
            continue
        fixed.add(node)
        any_frozen = any_frozen or (node.op == 'call_module' and is_frozen(model.get_submodule(str(node.target))))
        if any(user.target is operator.getitem for user in node.users):
            continue  # a tuple or a dictionary
        used_later = {n for later in nodes[i + 1:] for n in later.all_input_nodes}
        if any_frozen and used_later.isdisjoint(nodes[:i]):
            cut = node
    return cut


def _is_fixed(model: nn.Module, node: torch.fx.Node) -> bool:
    """Whether the node gives the same for the same input throughout training."""
    if node.op == 'call_module':
        module = model.get_submodule(str(node.target))
        if any(True for _ in module.parameters()):
            return is_frozen(module)
        return all(
            type(m).__module__.startswith(_KNOWN) and not isinstance(m, _RANDOM_MODULES) for m in module.modules())
    if node.op == 'call_function':
        return node.target in _PURE_FUNCTIONS
    return node.op == 'call_method' and node.target in _PURE_METHODS


def _part(model: nn.Module, graph: torch.fx.Graph, cut: str, before: bool) -> torch.fx.GraphModule:
    """What comes before the cut, the cut's node included, or what comes after it."""
    part = torch.fx.Graph()
    copies: Dict[torch.fx.Node, torch.fx.Node] = {}
    passed = False
    for node in graph.nodes:
        if node.name == cut:
            passed = True
            if not before:
                copies[node] = part.placeholder('features')
                continue
        elif passed == before:
            continue
        copies[node] = part.node_copy(node, copies.__getitem__)
        if passed and before:
            part.output(copies[node])
    return torch.fx.GraphModule(model, part)

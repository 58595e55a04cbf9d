"""The networks that the benchmark compares, and res_squeezenet's operations without its class."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import timm
import torch
import torch.nn as nn
import torchvision
from timm.utils import reparameterize_model

import rsq_backbone  # noqa: F401  registers res_squeezenet
from rsq_backbone.profiler.subjects import Subject, module_subject

OURS, LITE, REFERENCE = 'res_squeezenet', 'res_squeezenet_lite', 'resnet18'


@dataclass(frozen=True)
class Case:
    source: str
    build: Callable[[], nn.Module]
    input_size: int = 224


def subjects(cases: Mapping[str, Case], folder: Path) -> List[Subject]:
    """The networks for the profiler, with files of theirs in a folder."""
    found: List[Subject] = []
    for name, case in cases.items():
        own = folder / name
        own.mkdir()
        shape = torch.zeros(1, 3, case.input_size, case.input_size)  # the profiler fills it with noise
        found.append(module_subject(case.build().eval(), [shape], own, name))
    return found


def _timm(name: str) -> Case:
    return Case('timm', lambda: timm.create_model(name, pretrained=False, num_classes=1000))


CASES: Dict[str, Case] = {
    OURS: Case('rsq_backbone', lambda: timm.create_model(OURS, pretrained=False), 227),
    LITE: Case('rsq_backbone', lambda: timm.create_model(LITE, pretrained=False), 227),
    'squeezenet1_1': Case('torchvision', lambda: torchvision.models.squeezenet1_1(weights=None), 227),
    'shufflenet_v2_x1_0': Case('torchvision', lambda: torchvision.models.shufflenet_v2_x1_0(weights=None)),
    'googlenet': Case(
        'torchvision', lambda: torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False)),
    REFERENCE: Case('torchvision', lambda: torchvision.models.resnet18(weights=None)),
    'mobilenet_v2': Case('torchvision', lambda: torchvision.models.mobilenet_v2(weights=None)),
    'mobilenetv3_small_100': _timm('mobilenetv3_small_100'),
    'mobilenetv4_conv_small': _timm('mobilenetv4_conv_small'),
    'lcnet_100': _timm('lcnet_100'),
    # In its inference form: parallel branches and batch norms folded into one convolution each.
    'repvit_m0_9': Case('timm', lambda: reparameterize_model(timm.create_model('repvit_m0_9', pretrained=False))),
    'fasternet_t0': _timm('fasternet_t0'),
}


class _BareFire(nn.Module):
    def __init__(self, fire: Any) -> None:
        super().__init__()
        self.squeeze, self.expand1x1, self.expand3x3 = fire.squeeze, fire.expand1x1, fire.expand3x3
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat((self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))), 1)


class _BareResidual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


def _plain_norm(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps)
    plain.weight, plain.bias = norm.weight, norm.bias
    plain.running_mean, plain.running_var = norm.running_mean, norm.running_var
    return plain


def bare_sequential(model: Any) -> nn.Sequential:
    """The operations of `model` (paper geometry) in one flat nn.Sequential, weights shared."""
    # The network's own pools: they are faster on a CPU than torch's, which would flatter the network here.
    layers: List[nn.Module] = [model.stem.conv1, nn.ReLU(inplace=True), model.pool1]
    for stage in model.stages[:3]:
        layers += [_BareFire(module) if name.startswith('fire') else module for name, module in stage.named_children()]
    for block in model.stages[3]:
        body = nn.Sequential(
            block.conv1, _plain_norm(block.bn1), nn.ReLU(inplace=True), block.conv2, _plain_norm(block.bn2))
        projection = block is model.stages[3].res5a
        shortcut = nn.Sequential(block.shortcut.conv, _plain_norm(block.shortcut.bn)) if projection else nn.Identity()
        layers.append(_BareResidual(body, shortcut))
        if projection:
            layers.append(nn.ReLU(inplace=True))
    layers += [model.conv10, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers).eval()

"""Rescale a SqueezeNet start so that every feature map has a root mean square near 1, without changing the logits.

SqueezeNet's trunk has no norms, and the public ImageNet weights leave features with a root mean square (RMS) of up to
200, where decoders, detection heads and learning rates expect about 1. ReLU, max pooling and convolution with a bias
are positively homogeneous: multiply a layer's output channel by c > 0, divide the next layer's weights for that channel
by c, and the network computes the same. With powers of two the result is the same to the bit.

This module works on state dicts and imports nothing else of the package, so that checkpoint filters can use it.
"""
import math
from typing import Dict, List, Mapping

import torch
import torch.nn.functional as F

__all__ = ['dead_leaves', 'feature_rms', 'rescale', 'unit_scale', 'unit_scale_factors']

Tensors = Dict[str, torch.Tensor]

_CONV1 = 'stem.conv1'


def _fires(state_dict: Mapping[str, torch.Tensor]) -> List[str]:
    """Names of the fire modules, from input to output."""
    suffix = '.squeeze.weight'
    return sorted(key[:-len(suffix)] for key in state_dict if key.endswith(suffix))


@torch.no_grad()
def feature_rms(state_dict: Mapping[str, torch.Tensor], images: torch.Tensor) -> Tensors:
    """RMS per channel after conv1's ReLU and after the ReLUs of each squeeze and each fire module (paper's geometry).

    Args:
        state_dict: Of a Res-SqueezeNet; only the trunk is used.
        images: (N, C, H, W), normalized as the network expects.

    Returns:
        (channels,) float64 by layer: `stem.conv1`, `stages.0.fire2.squeeze`, `stages.0.fire2`, ...
    """
    sizes: Tensors = {}

    def layer(x: torch.Tensor, name: str, **kwargs: int) -> torch.Tensor:
        weight, bias = state_dict[f'{name}.weight'].float(), state_dict[f'{name}.bias'].float()
        return F.relu(F.conv2d(x, weight, bias, **kwargs))

    def measure(x: torch.Tensor, name: str) -> torch.Tensor:
        sizes[name] = x.double().square().mean((0, 2, 3)).sqrt()
        return x

    x = measure(layer(images, _CONV1, stride=2), _CONV1)
    stage = ''
    for fire in _fires(state_dict):
        if fire.rpartition('.')[0] != stage:  # each stage begins with a pool
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            stage = fire.rpartition('.')[0]
        x = measure(layer(x, f'{fire}.squeeze'), f'{fire}.squeeze')
        x = measure(torch.cat([layer(x, f'{fire}.expand1x1'), layer(x, f'{fire}.expand3x3', padding=1)], 1), fire)
    return sizes


def unit_scale_factors(sizes: Mapping[str, torch.Tensor]) -> Tensors:
    """Powers of two, one for each layer, that bring its RMS over all channels to between 0.71 and 1.41.

    Args:
        sizes: What `feature_rms` returns.
    """
    factors = {}
    for name, by_channel in sizes.items():
        rms = by_channel.square().mean().sqrt().item()
        exponent = -round(math.log2(rms)) if rms > 0 and math.isfinite(rms) else 0
        factors[name] = torch.full_like(by_channel, 2.0 ** exponent)
    return factors


@torch.no_grad()
def rescale(state_dict: Mapping[str, torch.Tensor], factors: Mapping[str, torch.Tensor]) -> Tensors:
    """Multiply the outputs of the trunk's layers, and make up for it in the layers that read them and in conv10.

    With powers of two the logits stay the same to the bit, as long as the residual stage passes features on unchanged
    at any scale. Its batch norms are not touched: statistics of features have to be taken after this step.

    Args:
        state_dict: Trunk and conv10 of a Res-SqueezeNet. It is not changed.
        factors: Positive, (channels,) by layer, as `unit_scale_factors` returns them.
    """
    out = dict(state_dict)

    def scale(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
        out[f'{name}.weight'] = (weight.double() * (outputs[:, None] / inputs)[..., None, None]).to(weight.dtype)
        out[f'{name}.bias'] = (bias.double() * outputs).to(bias.dtype)

    scale(_CONV1, torch.ones(1, dtype=torch.float64, device='cpu'), factors[_CONV1])
    features = factors[_CONV1]
    for fire in _fires(state_dict):
        squeezed, expanded = factors[f'{fire}.squeeze'], factors[fire]
        scale(f'{fire}.squeeze', features, squeezed)
        half = len(expanded) // 2
        scale(f'{fire}.expand1x1', squeezed, expanded[:half])
        scale(f'{fire}.expand3x3', squeezed, expanded[half:])
        features = expanded
    weight = state_dict['conv10.weight']
    out['conv10.weight'] = (weight.double() / features[None, :, None, None]).to(weight.dtype)
    return out


def dead_leaves(count: int = 2, size: int = 227) -> torch.Tensor:
    """Images with the statistics of photographs, drawn from a fixed seed: discs of random color that hide one another.

    The "dead leaves" model (Lee, Mumford & Huang 2001, International Journal of Computer Vision 41) has the edges,
    flat regions and power spectrum of natural images. Caffe's SqueezeNet answers it with feature maps whose RMS is
    0.75 to 1.05 times that on ImageNet photographs.

    Returns:
        (count, 3, size, size) float32, normalized with ImageNet's mean and standard deviation.
    """
    leaves, smallest, largest = 120, 8, 120
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device='cpu')

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device='cpu')

    grid = torch.arange(size, device='cpu')
    images = []
    for _ in range(count):
        # Radii of density 1 / r ** 2, by inversion of their distribution.
        radius = 1 / (1 / smallest + uniform(leaves) * (1 / largest - 1 / smallest))
        y, x = (grid - size * uniform(leaves, 1) for _ in range(2))
        distance = (y.square()[:, :, None] + x.square()[:, None, :]).sqrt() / radius[:, None, None]
        order = torch.arange(1, leaves + 1, device='cpu')[:, None, None]
        top = ((distance < 1) * order).amax(0)  # number of the leaf that is seen, 0 for none
        color = torch.cat([torch.zeros(1, 3, device='cpu'), 1.1 * normal(leaves, 1) + 0.4 * normal(leaves, 3)])
        images.append(color[top].permute(2, 0, 1) + 0.1 * normal(3, size, size))
    return torch.stack(images).clamp(-2.1, 2.6)  # black and white, about


def unit_scale(state_dict: Mapping[str, torch.Tensor]) -> Tensors:
    """Rescale a SqueezeNet of any scale, judged by its features on `dead_leaves`; any number of input channels."""
    images = dead_leaves()
    channels = torch.arange(state_dict[f'{_CONV1}.weight'].shape[1], device='cpu') % 3
    return rescale(state_dict, unit_scale_factors(feature_rms(state_dict, images[:, channels])))

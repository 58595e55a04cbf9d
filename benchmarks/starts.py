"""The ImageNet start at several scales, for benchmarks that compare them. All of them compute the same logits.

    before      as SqueezeNet's authors left it, the features after the trunk divided by four: this package's start
                until it was brought to unit scale
    unit        the bundled start: every layer multiplied by a power of two, so that its features have an RMS near 1
    channel     the same for every channel of every layer
    equalized   cross-layer equalization (Nagel et al. 2019, section 4.1): channels scaled so that their weights have
                the same range in the layer that writes them and in the layer that reads them; then every layer to an
                RMS near 1
"""
import json
from functools import lru_cache
from itertools import pairwise
from typing import Any, Dict, List

import timm
import torch
import torch.nn as nn
from real_data import data_folder
from safetensors import safe_open
from timm.models import generate_default_cfgs, register_model

import rsq_backbone.res_squeezenet as network
from rsq_backbone.unit_scale import feature_rms, rescale
from rsq_backbone.weights.convert import add_norm_statistics, read_photos

Tensors = Dict[str, torch.Tensor]

STARTS = 'before', 'unit', 'channel', 'equalized'


@lru_cache
def photos() -> torch.Tensor:
    return read_photos(data_folder('imagenet-samples'))


@lru_cache
def start(name: str, variant: str = 'res_squeezenet') -> Tensors:
    """The whole state of a pretrained network with 1000 classes, by the name of its start."""
    with safe_open(str(network.default_cfgs[variant].default.file), 'pt') as file:
        exponents = json.loads(file.metadata()['unit_scale'])
        bundled = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    model = network.ResSqueezeNet(**network.VARIANTS[variant])
    if name == 'unit':
        return network.checkpoint_filter_fn(bundled, model)
    trunk = {key: value for key, value in bundled.items() if not key.startswith('stages.3.')}
    sizes = feature_rms(trunk, photos())
    original = rescale(trunk, {layer: torch.full_like(sizes[layer], 2.0 ** -e) for layer, e in exponents.items()})
    sizes = feature_rms(original, photos())
    state = original
    if name == 'channel':
        state = rescale(original, _per_channel(sizes))
    elif name == 'equalized':
        state = rescale(original, _equalized(original, sizes))
    add_norm_statistics(state, photos())
    state = network.checkpoint_filter_fn(state, model)
    return _quarter_size(state) if name == 'before' else state


def _per_channel(sizes: Tensors) -> Tensors:
    """Powers of two; channels that are hardly ever active count as an eighth of their layer's RMS."""
    return {
        layer: 2.0 ** -rms.clamp(min=rms.square().mean().sqrt() / 8).log2().round() for layer, rms in sizes.items()}


def _equalized(original: Tensors, sizes: Tensors) -> Tensors:
    layers = list(sizes)
    writers: Dict[str, List[str]] = {
        layer: [layer] if layer.endswith(('conv1', 'squeeze')) else [f'{layer}.expand1x1', f'{layer}.expand3x3']
        for layer in layers}
    readers = {layer: writers[after] for layer, after in pairwise(layers)}
    readers[layers[-1]] = ['conv10']
    factors = {layer: torch.ones_like(rms) for layer, rms in sizes.items()}
    for _ in range(30):
        for layer in layers:
            state = rescale(original, factors)
            written = torch.cat([state[f'{name}.weight'].abs().flatten(1).amax(1) for name in writers[layer]])
            read = torch.stack([state[f'{name}.weight'].abs().amax((0, 2, 3)) for name in readers[layer]]).amax(0)
            factors[layer] *= (read.double() / written.double().clamp(min=1e-8)).sqrt().clamp(1 / 64, 64)
    for layer, rms in sizes.items():
        factors[layer] = 2.0 ** (factors[layer] / (rms * factors[layer]).square().mean().sqrt()).log2().round()
    return factors


def _quarter_size(state: Tensors) -> Tensors:
    if 'stages.3.res5a.shortcut.bn.weight' in state:
        factors = {
            'stages.3.res5a.shortcut.bn.weight': 1 / 4, 'stages.3.res5a.shortcut.bn.bias': 1 / 4,
            'stages.3.res5b.bn1.running_mean': 1 / 4, 'stages.3.res5b.bn1.running_var': 1 / 16}
    else:
        factors = {f'stages.2.fire9.{layer}.{kind}': 1 / 4
                   for layer in ('expand1x1', 'expand3x3') for kind in ('weight', 'bias')}
    factors['conv10.weight'] = 4
    return {key: value * factors.get(key, 1) for key, value in state.items()}


def _register(variant: str, name: str) -> None:
    """A timm model `VARIANT_NAME` with the start as its pretrained weights."""

    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        model = timm.create_model(variant, **kwargs)
        if pretrained:
            model.load_state_dict(start(name, variant))
        return model

    build.__name__ = f'{variant}_{name}'
    build.__module__ = __name__
    register_model(build)


default_cfgs = generate_default_cfgs({
    f'{variant}_{name}.caffe_in1k': network.default_cfgs[variant].default
    for variant in network.VARIANTS for name in STARTS})
for _variant in network.VARIANTS:
    for _name in STARTS:
        _register(_variant, _name)

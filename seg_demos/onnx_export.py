"""From a trained segmentation network to one ONNX file for any batch and any size divisible by the encoder's stride."""
import copy
import json
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPBlock
from torch.export import Dim

from rsq_backbone.errors import UserError
from rsq_backbone.files import whole_file
from rsq_backbone.runtimes.export import write_onnx
from seg_demos.trained import Trained

__all__ = ['export_onnx', 'exportable']


def export_onnx(trained: Trained, file: Path) -> float:
    """Write an ONNX file, once ONNX Runtime has been seen to compute from it what PyTorch does.

    Its input `image` is (N, 3, H, W) float32, normalised, H and W multiples of the stride and at least twice that; its
    output `logits` is (N, classes, H, W). Its metadata hold `classes`, `mean`, `std` and `stride` as JSON.

    Returns:
        The largest difference from PyTorch's logits, as a share of the largest logit.

    Raises:
        UserError: if the network cannot be exported, or the file computes something else.
    """
    import onnx

    network, stride = exportable(trained.network), trained.stride
    # A batch of 1 would be taken for a constant.
    height, width = 4 * stride, 6 * stride
    dynamic = {0: Dim('batch'), 2: stride * Dim('h', min=2), 3: stride * Dim('w', min=2)}
    with whole_file(file) as temporary:
        write_onnx(
            network, [torch.rand(2, 3, height, width)], temporary, input_names=['image'], output_names=['logits'],
            dynamic_shapes=(dynamic,))
        model = onnx.load(str(temporary))
        facts = {'classes': trained.classes, 'mean': trained.config['mean'], 'std': trained.config['std'],
                 'stride': stride}
        onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
        onnx.save(model, str(temporary))
        difference = max(
            _difference(network, temporary, shape)
            for shape in ((1, 3, 2 * stride, 3 * stride), (2, 3, height, width), (3, 3, 7 * stride, 5 * stride)))
        # Two sets of float32 kernels through some thirty convolutions.
        if not difference < 1e-3:
            raise UserError(
                f'ONNX Runtime computes something else from the exported {type(network).__name__}: off by '
                f'{difference:.2g} of the largest logit. Nothing was written.')
    return difference


@torch.inference_mode()
def _difference(network: nn.Module, file: Path, shape: Tuple[int, ...]) -> float:
    from rsq_backbone.runtimes.onnx_runtime import OnnxRuntime

    runtime = OnnxRuntime(torch.get_num_threads())
    runtime.load(file)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    runtime.bind([x.numpy()])
    runtime.run()
    [actual] = runtime.outputs()
    expected = network(x).numpy()
    if actual.shape != expected.shape:
        return float('inf')
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6))


def exportable(network: nn.Module) -> nn.Module:
    """A copy, with PSPNet's pools in a form that knows its sizes only when it runs."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, PSPBlock):
            parent, _, child = name.rpartition('.')
            network.get_submodule(parent)._modules[child] = _DynamicPSPBlock(module)
    return network


class _DynamicPSPBlock(nn.Module):
    """smp's PSPBlock; its adaptive pool, which exporters unroll for one size, as two matrix products."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.parts = block.pool_size
        self.conv = block.pool[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        means = _means(height, self.parts) @ x @ _means(width, self.parts).T
        return F.interpolate(self.conv(means), size=(height, width), mode='bilinear', align_corners=True)


def _means(size: int, parts: int) -> torch.Tensor:
    """(parts, size): the rows average over the parts as `nn.AdaptiveAvgPool2d` divides them."""
    part = torch.arange(parts)[:, None]
    place = torch.arange(size)
    start, end = part * size // parts, ((part + 1) * size + parts - 1) // parts
    return ((place >= start) & (place < end)).float() / (end - start)

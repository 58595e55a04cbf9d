"""What may not be computed in bfloat16 on a CPU."""
from types import MethodType

import torch
import torch.nn as nn

__all__ = ['keep_dilated_groups_in_float32']


def keep_dilated_groups_in_float32(network: nn.Module) -> None:
    """Let autocast pass over convolutions that are grouped and dilated.

    In channels_last memory their bfloat16 gradient by the weights is garbage, sometimes NaN, on maps of more than some
    20 x 20 (torch 2.14.1 with oneDNN on AVX-512 with bfloat16; contiguous memory, float32 and either alone are right).
    MobileNetV2 at output stride 8 has such convolutions, and DeepLab's separable ones.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.dilation) > 1:
            module.forward = MethodType(_in_float32, module)  # type: ignore[method-assign]


def _in_float32(module: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return nn.Conv2d.forward(module, x.float())

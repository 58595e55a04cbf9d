"""SegNet on any smp encoder.

Badrinarayanan, Kendall, Cipolla: SegNet, https://arxiv.org/abs/1511.00561. Its decoder has no skip connections: where
the encoder pooled, it puts each value back to the place that the pool took its maximum from, and convolutions fill in
the rest.
"""
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Union

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
import torch.nn.functional as F
from segmentation_models_pytorch.base import ClassificationHead, SegmentationHead, SegmentationModel
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import get_encoder

__all__ = ['MaxUnpool', 'Pool', 'SegNet', 'SegNetDecoder', 'pools_between_levels', 'register_smp']


class Pool(NamedTuple):
    """How a max pool reads a feature map, in `nn.MaxPool2d`'s terms."""

    kernel_size: int
    stride: int
    padding: int
    ceil_mode: bool


class MaxUnpool(nn.Module):
    """Puts values back to where a max pool took its maxima from; zero elsewhere.

    The indices are the pool's own, found again from the map that it read: an encoder hands on its feature maps anyway.
    Unlike `nn.MaxUnpool2d`, windows may overlap, as SqueezeNet's and ResNet's do: what two of them put to the same
    place is added up.
    """

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.ceil_mode = pool

    def forward(self, x: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) pooled and (N, C, H, W) that the pool read -> (N, C, H, W)."""
        _, indices = F.max_pool2d(
            read, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode, return_indices=True)
        places = torch.zeros_like(read, dtype=x.dtype).flatten(2)
        return places.scatter_add(2, indices.flatten(2), x.flatten(2)).view_as(read)

    def extra_repr(self) -> str:
        return f'kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}'


class _Resize(nn.Module):
    """For where the encoder does not pool: nearest neighbours, to the size of the level above."""

    def forward(self, x: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=read.shape[2:], mode='nearest')


class SegNetDecoder(nn.Module):
    """Feature maps of an encoder, the input first -> (N, decoder_channels[-1], H, W).

    Args:
        encoder_channels: Of all levels, the input's first.
        decoder_channels: After each step up, the deepest first. Before an unpooling there are always as many as the
            pool read, because its indices differ by channel.
        pools: For each level how the next one pools it, None where it comes to be smaller in another way.
        use_norm: As smp's decoders take it.
    """

    def __init__(
            self,
            encoder_channels: Sequence[int],
            decoder_channels: Sequence[int],
            pools: Sequence[Optional[Pool]],
            use_norm: Union[bool, str, Dict[str, Any]] = 'batchnorm',
    ) -> None:
        super().__init__()
        depth = len(encoder_channels) - 1
        if len(decoder_channels) != depth:
            raise ValueError(
                f'Model depth is {depth}, but you provide `decoder_channels` for {len(decoder_channels)} blocks.')
        widths: List[int] = []  # before each step and after the last
        for step, level in enumerate(reversed(range(depth))):
            free = encoder_channels[-1] if step == 0 else decoder_channels[step - 1]
            widths.append(free if pools[level] is None else encoder_channels[level])
        widths.append(decoder_channels[-1])
        self.entry = nn.Identity() if widths[0] == encoder_channels[-1] else Conv2dReLU(
            encoder_channels[-1], widths[0], kernel_size=1, use_norm=use_norm)
        steps_up: List[nn.Module] = []
        blocks: List[nn.Module] = []
        for step, level in enumerate(reversed(range(depth))):
            pool = pools[level]
            steps_up.append(_Resize() if pool is None else MaxUnpool(pool))
            blocks.append(nn.Sequential(
                Conv2dReLU(widths[step], widths[step + 1], kernel_size=3, padding=1, use_norm=use_norm),
                Conv2dReLU(widths[step + 1], widths[step + 1], kernel_size=3, padding=1, use_norm=use_norm)))
        self.steps_up = nn.ModuleList(steps_up)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, features: List[torch.Tensor]) -> torch.Tensor:
        x = self.entry(features[-1])
        for i, (step_up, block) in enumerate(zip(self.steps_up, self.blocks)):  # noqa: B905  TorchScript has no strict
            x = block(step_up(x, features[-2 - i]))
        return x


class SegNet(SegmentationModel):
    """SegNet with unpooling by the encoder's own max-pool indices.

    Args:
        encoder_name: Any of smp's encoders. Steps between its levels that are no max pools are undone by nearest
            neighbours: all of them in encoders that have strided convolutions only.
        encoder_depth: Levels of the encoder, 3 .. 5; each is half as large as the one before.
        encoder_weights: 'imagenet' or another of the encoder's, None for a random start.
        decoder_use_norm: As in `smp.Unet`.
        decoder_channels: Of the decoder's steps, the deepest first; as many as `encoder_depth`.
        in_channels: Of the pictures.
        classes: Of the masks.
        activation: After the last layer, as in `smp.Unet`; None for logits.
        aux_params: Of a classification head, as in `smp.Unet`.
        kwargs: For the encoder.

    Raises:
        ValueError: if `decoder_channels` has another length than `encoder_depth`.
    """

    requires_divisible_input_shape = False

    @supports_config_loading
    def __init__(
            self,
            encoder_name: str = 'res_squeezenet',
            encoder_depth: int = 5,
            encoder_weights: Optional[str] = 'imagenet',
            decoder_use_norm: Union[bool, str, Dict[str, Any]] = 'batchnorm',
            decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
            in_channels: int = 3,
            classes: int = 1,
            activation: Optional[Union[str, Callable[..., Any]]] = None,
            aux_params: Optional[Dict[str, Any]] = None,
            **kwargs: Any,
    ) -> None:
        super().__init__()
        self.encoder = get_encoder(
            encoder_name, in_channels=in_channels, depth=encoder_depth, weights=encoder_weights, **kwargs)
        self.decoder = SegNetDecoder(
            self.encoder.out_channels, decoder_channels, pools_between_levels(self.encoder, in_channels),
            decoder_use_norm)
        self.segmentation_head = SegmentationHead(
            in_channels=decoder_channels[-1], out_channels=classes, activation=activation, kernel_size=3)
        self.classification_head = None if aux_params is None else ClassificationHead(
            in_channels=self.encoder.out_channels[-1], **aux_params)
        self.name = f'segnet-{encoder_name}'
        self.initialize()


@torch.no_grad()
def pools_between_levels(encoder: nn.Module, in_channels: int) -> List[Optional[Pool]]:
    """For each level but the deepest, the max pool that makes the next one of it; None where there is none.

    Found by looking which maps the pools read and what size they make of them. Pools of single values choose none: that
    is how shortcuts skip positions.
    """
    reads: List[Any] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: reads.append((module, inputs[0], output)))
        for module in encoder.modules() if isinstance(module, nn.MaxPool2d) and module.kernel_size not in (1, (1, 1))]
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        features = encoder(torch.rand(1, in_channels, 64, 64))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode

    def pool_of(level: int) -> Optional[Pool]:
        for module, read, output in reads:
            if read.shape == features[level].shape and torch.equal(read, features[level]) \
                    and output.shape[2:] == features[level + 1].shape[2:] != read.shape[2:]:
                kernel_size, stride, padding = (
                    value if isinstance(value, int) else value[0]
                    for value in (module.kernel_size, module.stride, module.padding))
                return Pool(kernel_size, stride, padding, module.ceil_mode)
        return None

    return [pool_of(level) for level in range(len(features) - 1)]


def register_smp() -> None:
    """Let `smp.create_model('segnet')` and `smp.from_pretrained` of a saved SegNet find it."""
    smp.SegNet = SegNet
    smp.MODEL_ARCHITECTURES_MAPPING['segnet'] = SegNet


register_smp()

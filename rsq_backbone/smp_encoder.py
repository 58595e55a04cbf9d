"""Res-SqueezeNet and its variants as encoders in segmentation_models_pytorch's own registry.

`smp.Unet("res_squeezenet")` finds it there. (`smp.Unet("tu-res_squeezenet")` needs nothing of this: it comes by timm.)
"""
from pathlib import Path
from typing import Any, Dict, List, Sequence

import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from huggingface_hub import hf_hub_download
from segmentation_models_pytorch.encoders._base import EncoderMixin
from timm.models import checkpoint_seq

from rsq_backbone.res_squeezenet import VARIANTS, ResSqueezeNet, checkpoint_filter_fn, default_cfgs

__all__ = ['ResSqueezeNetEncoder', 'register_smp']

# What smp asks for by its hub's names. The folder takes the place of a repository, one for all variants: it is no name
# that a repository could have, so the hub's client would refuse it before it asks anyone.
_WEIGHTS = Path(str(default_cfgs['res_squeezenet'].default.file))
_BUNDLED = str(_WEIGHTS.parent)
_FILES = {'config.json': _WEIGHTS.with_name('preprocessing.json'), 'model.safetensors': _WEIGHTS}
_from_hub = getattr(smp.encoders, 'hf_hub_download', hf_hub_download)


class ResSqueezeNetEncoder(ResSqueezeNet, EncoderMixin):
    """The aligned Res-SqueezeNet as smp asks for it.

    Input (N, C, H, W); returns `depth` + 1 feature maps, the input itself first, then 64, 128, 256, 512, 512 channels
    at stride 2 .. 32 (no further than `output_stride`).

    Raises:
        ValueError: for a depth outside 1 .. 5 or an output stride other than 8, 16, 32.
    """

    def __init__(self, depth: int = 5, output_stride: int = 32, **kwargs: Any) -> None:
        if not 1 <= depth <= 5:
            raise ValueError(f'{type(self).__name__} depth should be in range [1, 5], got {depth}.')
        kwargs = {'geometry': 'aligned', **kwargs}
        super().__init__(num_classes=0, global_pool='', output_stride=output_stride, **kwargs)
        self._out_channels = [self.in_chans] + [info['num_chs'] for info in self.feature_info]
        self._depth = depth
        self._in_channels = self.in_chans
        self._output_stride = output_stride
        self.prune_intermediate_layers([depth - 1])

    def forward(self, x: torch.Tensor) -> List[torch.Tensor]:  # type: ignore[override]
        # Not by forward_intermediates: no way to tell its two return types apart suits TorchScript and Dynamo both.
        features = [x]
        x = self.stem(x)
        features.append(x)
        x = self.pool1(x)
        for stage in self.stages:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(stage, x)
            else:
                x = stage(x)
            features.append(x)
        return features

    def get_stages(self) -> Dict[int, Sequence[nn.Module]]:
        return {2 ** level: [stage] for level, stage in enumerate(self.stages, 2)}

    def make_dilated(self, output_stride: int) -> None:
        """Only checks: pools cannot be dilated afterwards, so the constructor has done it."""
        if output_stride not in (8, 16):
            raise ValueError(f'Output stride should be 16 or 8, got {output_stride}.')
        if output_stride != self._output_stride:
            raise ValueError(
                f'This encoder was built for output stride {self._output_stride}; '
                f'build it with output_stride={output_stride} instead.')

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        super().set_in_channels(in_channels, pretrained)
        self.in_chans = in_channels

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """As `nn.Module`'s; takes what `checkpoint_filter_fn` takes, and ignores the head and stages beyond `depth`."""
        own = self.state_dict().keys()
        complete = checkpoint_filter_fn(state_dict, self)
        dropped = {k for k in complete if k.startswith('conv10.')}
        dropped.update(k for k in complete if k.startswith('stages.') and int(k.split('.')[1]) >= len(self.stages))
        return super().load_state_dict(
            {k: v for k, v in complete.items() if k in own or k not in dropped}, *args, **kwargs)


def _bundled_or_from_hub(repo_id: str, filename: str, **kwargs: Any) -> str:
    """In place of `hf_hub_download` in smp's module of encoders: the bundled file, or what the hub has."""
    if repo_id == _BUNDLED:
        return str(_FILES[filename])
    return _from_hub(repo_id, filename, **kwargs)


def register_smp() -> None:
    """Enter the variants into smp's registry. Importing `rsq_backbone` does this by itself, with smp's import."""
    # smp fetches the weights of every encoder by this one function of its module, and has no other way in. The hub's
    # client asks huggingface.co for things of its own even where the file lies in its cache, so it must not be called.
    smp.encoders.hf_hub_download = _bundled_or_from_hub
    for name, params in VARIANTS.items():
        smp.encoders.encoders[name] = {
            'encoder': ResSqueezeNetEncoder,
            'pretrained_settings': {'imagenet': {'repo_id': _BUNDLED, 'revision': ''}},
            'params': dict(params),  # smp adds to them
        }


register_smp()

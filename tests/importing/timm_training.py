"""Of timm's train.py: its arguments, and networks as it leaves them."""
from typing import Any, Dict

import torch

NAMES = ('ant9', 'ant10', 'zebra')  # as timm orders them; in alphabetical order ant10 comes first
# Of train.py's arguments those that say something of the network, as it writes them where nothing is asked for.
ARGUMENTS: Dict[str, Any] = {
    'bn_eps': None, 'class_map': '', 'crop_pct': None, 'data': None, 'data_dir': None, 'dataset': '', 'gp': None,
    'img_size': None, 'in_chans': None, 'initial_checkpoint': '', 'input_size': None, 'interpolation': '', 'mean': None,
    'model': 'test_resnet', 'model_ema': True, 'model_kwargs': {}, 'num_classes': 3, 'pretrained': False,
    'pretrained_path': None, 'std': None, 'train_split': 'train', 'val_split': 'validation'}


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """With other weights everywhere, batch norms included, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=generator))
    return model.eval()

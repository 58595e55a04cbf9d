"""What timm's train.py leaves behind, by timm's own saver, without the training."""
import argparse
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.utils import CheckpointSaver, ModelEmaV3
from timm_training import ARGUMENTS, NAMES, randomised


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures of each class to train on, and two to judge by."""
    rng = np.random.default_rng(0)
    for part in ('train', 'val'):
        for name in NAMES:
            (tmp_path / 'photos' / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 255, (70 + 10 * i, 90, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / 'photos' / part / name / f'{i}.png')
    return tmp_path / 'photos'


@pytest.fixture
def trained(photos: Path, tmp_path: Path) -> Callable[..., torch.nn.Module]:
    """Write output/NAME; gives the network that was saved, with its averaged weights in `averaged`.

    `built` are arguments that train.py hands to the network by itself.
    """

    def write(name: str = 'run', epochs: int = 1, ema: bool = False, built: Any = (), **changes: Any) -> Any:
        arguments = {**ARGUMENTS, 'data_dir': str(photos), 'img_size': 64, 'model_ema': ema, **changes}
        network_arguments = {'in_chans': arguments['in_chans'], 'global_pool': arguments['gp'],
                             'bn_eps': arguments['bn_eps'], **arguments['model_kwargs'], **dict(built)}
        model: Any = randomised(timm.create_model(
            arguments['model'], num_classes=arguments['num_classes'],
            **{key: value for key, value in network_arguments.items() if value is not None}), 0)
        averaged: Optional[Any] = ModelEmaV3(model) if ema else None
        if averaged is not None:
            randomised(averaged.module, 1)
        folder = tmp_path / 'output' / name
        folder.mkdir(parents=True)
        saver = CheckpointSaver(
            model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), args=argparse.Namespace(**arguments),
            model_ema=averaged, checkpoint_dir=str(folder))
        for epoch in range(epochs):
            saver.save_checkpoint(epoch, metric=float(-epoch))  # the first is the best
        (folder / 'args.yaml').write_text(yaml.safe_dump(arguments))
        model.averaged = None if averaged is None else averaged.module.eval()
        return model

    return write

"""A made-up but plausible segmentation run, and the command that uses runs."""
import sys
from typing import Any, Callable

import numpy as np
import pytest

from rsq_backbone.cli._running import run_app
from rsq_backbone.metrics import segmentation_metrics
from rsq_backbone.results import Epoch, Iteration
from seg_demos import predict as command
from seg_demos.results import PictureScore, SegmentationData, SegmentationResult


def made_up_result(classes=('background', 'cat', 'dog'), confusions=None, epochs=3, iterations=24, **fields):
    """`confusions`: one matrix a validation picture."""
    random = np.random.default_rng(0)
    if confusions is None:
        confusions = random.integers(0, 40, (8, len(classes), len(classes))) + 400 * np.eye(len(classes), dtype=int)
    metrics = segmentation_metrics(confusions, classes)
    progress = np.linspace(0, 1, iterations)
    result = dict(
        format=1,
        name='pets-unet',
        data=SegmentationData(
            source='my pets', name='pets', classes=tuple(classes), train_pictures=1234,
            validation_pictures=len(confusions), monitored_pictures=len(confusions),
            left_out=('pets/7.jpg: damaged image (image file is truncated); copy or download it again.',),
            notes=('Mask value 255 is neither trained on nor judged.',)),
        architecture='unet',
        encoder='res_squeezenet',
        encoder_weights='imagenet',
        options={'decoder_width': 64},
        parameters=12_165_602,
        file_bytes=48_712_344,
        recipe={'name': 'segmentation', 'epochs': epochs, 'learning_rate': 1e-3, 'dice': 1.0},
        seed=0,
        metrics=metrics,
        pictures=tuple(
            PictureScore(f'images/{i}.png', f'masks/{i}.png', segmentation_metrics(one[None], classes).mean_iou)
            for i, one in enumerate(confusions)),
        epochs=tuple(
            Epoch(
                number=i + 1, learning_rate=1e-3, train_loss=1.1 * 0.7 ** i, train_accuracy=0.6 + 0.05 * i,
                monitor_loss=0.75 ** i, monitor_accuracy=0.7 + 0.05 * i, monitor_mean_iou=0.4 + 0.1 * i, seconds=21.5)
            for i in range(epochs)),
        iterations=tuple(
            Iteration(float(loss), float(accuracy)) for loss, accuracy in zip(
                2 * np.exp(-3 * progress) + 0.3, 0.9 - 0.5 * np.exp(-6 * progress), strict=True)),
        seconds={'checking pictures': 4.21, 'training': 129.0, 'total': 171.4},
        command=('python', '-m', 'seg_demos.unet', 'my pets'),
        versions={'rsq-backbone': '0.1.0', 'torch': '2.6.0'},
        machine={'cpu': 'Intel Core i5-8250U', 'cores': 8, 'threads': 4, 'gpus': []},
    )
    return SegmentationResult(**{**result, **fields})


@pytest.fixture
def make_result() -> Callable[..., Any]:
    return made_up_result


@pytest.fixture
def predict(monkeypatch, capsys):
    """Run seg_demos.predict in this process; gives exit code, standard output, standard error."""
    def call(*args):
        monkeypatch.setattr(sys, 'argv', ['predict', *map(str, args)])
        code = 0
        try:
            run_app(command.app, command.COMMAND)
        except SystemExit as e:
            code = e.code or 0
        return (code, *capsys.readouterr())

    return call

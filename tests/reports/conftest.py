"""A made-up but plausible fine-tuning run."""
from typing import Any, Callable

import numpy as np
import pytest

from rsq_backbone.metrics import classification_metrics, confusion_matrix, paired_difference
from rsq_backbone.results import Data, Epoch, Iteration, TrainingResult

FOOD = {
    'caesar_salad': 8, 'caprese_salad': 4, 'french_fries': 54, 'greek_salad': 7, 'hamburger': 71, 'hot_dog': 9,
    'pizza': 90, 'sashimi': 12, 'sushi': 37}


def made_up_result(counts=FOOD, epochs=6, iterations=408, monitor='held out', right=0.83, linear_right=0.8, **fields):
    """`counts`: validation pictures a class, by name. `right`: about how often the network is."""
    random = np.random.default_rng(0)
    classes = tuple(counts)
    targets = np.repeat(np.arange(len(classes)), list(counts.values()))

    def predictions(share):
        wrong = random.integers(0, len(classes), len(targets))
        return np.where(random.random(len(targets)) < share, targets, wrong)

    def metrics(predictions):
        return classification_metrics(confusion_matrix(targets, predictions, len(classes)), classes)

    guesses, linear_guesses = predictions(right), predictions(linear_right)
    progress = np.linspace(0, 1, iterations)
    monitored = 0.83 - 0.35 * np.exp(-np.arange(1, epochs + 1))
    result = dict(
        format=1,
        name='food',
        data=Data(
            source='food', name='food', classes=classes,
            train_counts=tuple(2 * n + 5 for n in counts.values()),
            held_out_counts=tuple((n + 2) // 5 if monitor == 'held out' else 0 for n in counts.values()),
            validation_counts=tuple(counts.values()),
            left_out=('pizza/IMG_0007.jpg: damaged image (image file is truncated); copy or download it again.',),
            notes=('sushi/a.jpg and sashimi/b.jpg are the same picture; both are in the training part.',)),
        model='res_squeezenet',
        parameters=10_431_561,
        file_bytes=41_762_344,
        recipe={
            'name': 'laptop', 'summary': 'Everything trained, gently at the bottom.', 'epochs': epochs,
            'batch_size': 10, 'learning_rate': 3e-4, 'trained_stages': None, 'logit_relu': False},
        seed=0,
        metrics=metrics(guesses),
        linear=metrics(linear_guesses),
        difference=paired_difference(targets, guesses, linear_guesses, len(classes)) if epochs else None,
        monitor=monitor,
        chosen_epoch=max(1, epochs - 1) if monitor == 'held out' else epochs,
        epochs=tuple(
            Epoch(
                number=i + 1, learning_rate=3e-4, train_loss=1.1 * 0.7 ** i, train_accuracy=0.6 + 0.05 * i,
                monitor_loss=0.75 ** i if monitor else None, monitor_accuracy=float(monitored[i]) if monitor else None,
                seconds=21.5) for i in range(epochs)),
        iterations=tuple(
            Iteration(float(loss), float(accuracy)) for loss, accuracy in zip(
                (2.2 * np.exp(-3 * progress) + 0.25) * random.lognormal(0, 0.3, iterations),
                random.binomial(10, 0.88 - 0.75 * np.exp(-6 * progress)) / 10, strict=True)),
        seconds={'reading pictures': 4.21, 'linear probe': 32.72, 'training': 129.0, 'evaluation': 5.5, 'total': 171.4},
        feature_cache='used',
        command=('rsq', 'finetune', 'food', '--output', 'my runs/food'),
        versions={'rsq-backbone': '0.1.0', 'torch': '2.6.0', 'timm': '1.0.26', 'python': '3.11.7'},
        machine={'cpu': 'Intel Core i5-8250U', 'cores': 8, 'threads': 4, 'gpus': []},
    )
    return TrainingResult(**{**result, **fields})


@pytest.fixture
def make_result() -> Callable[..., Any]:
    return made_up_result

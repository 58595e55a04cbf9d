"""Small pictures, runs that take a second, and a cache of the test's own."""
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from PIL import Image

DrawPictures = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('RSQ_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture(scope='session')
def draw_pictures() -> DrawPictures:
    """Noise with a tint of its class, 64 x 64, in a folder a class; `spread` is how far a picture's own tint strays."""

    def draw(folder: Path, counts: Dict[str, int], spread: float = 0.0, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        for number, (name, count) in enumerate(counts.items()):
            (folder / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (64, 64, 3)) + 60.0
                pixels[..., 2 - number % 3] += 60
                pixels += rng.normal(0, spread, 3)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f'{i}.png')
        return folder

    return draw


@pytest.fixture
def pictures(tmp_path: Path, draw_pictures: DrawPictures) -> Path:
    """Three classes of eight pictures, easily told apart; a run trains on six and judges by two of each."""
    return draw_pictures(tmp_path / 'pictures', {'blue': 8, 'green': 8, 'red': 8})


@pytest.fixture
def confusable(tmp_path: Path, draw_pictures: DrawPictures) -> Path:
    """Three classes of unequal size that no classifier tells apart without mistakes."""
    return draw_pictures(tmp_path / 'confusable', {'blue': 20, 'green': 10, 'red': 14}, spread=90)


@pytest.fixture
def small() -> Callable[..., Any]:
    """A recipe shortened to two epochs of batches of four, the same on every machine, with any other changes."""
    from dataclasses import replace

    from rsq_backbone.training.recipes import RECIPES

    short = {'epochs': 2, 'batch_size': 4, 'precision': '32-true'}
    return lambda name, **changes: replace(RECIPES[name], **{**short, **changes})


@pytest.fixture
def train(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run `finetune` on `pictures` with a tiny network at 64 pixels; gives the result. The folder is runs/NAME.

    Plots take longer than all the rest, so they are drawn on request only.
    """
    from rsq_backbone.training import finetuning

    def run(recipe: Any, name: str = 'run', source: Path = pictures, plots: bool = False, **options: Any) -> Any:
        settings = {
            'model': 'test_resnet', 'pretrained': False, 'input_size': 64, 'output': tmp_path / 'runs', **options}
        with monkeypatch.context() as patch:
            for plot in ('draw_confusion', 'draw_curves', 'draw_mistakes'):
                if not plots:
                    patch.setattr(finetuning, plot, lambda *args: None)
            return finetuning.finetune(str(source), recipe, name=name, **settings)

    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / 'runs'

"""A few small pictures, and a cache of the test's own."""
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('RSQ_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes of eight pictures, 64 x 64: red, green and blue noise."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(('blue', 'green', 'red')):
        folder = tmp_path / 'pictures' / name
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 120, (64, 64, 3))
            pixels[..., 2 - channel] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i}.png')
    return tmp_path / 'pictures'

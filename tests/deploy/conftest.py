"""A classifier that is trained in a second, and an artifact of it."""
import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsq_backbone.deploy import deployment as module
from rsq_backbone.deploy.deployment import Deployment, deploy
from rsq_backbone.deploy.measuring import Speed
from rsq_backbone.profiler.session import Plan
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import RECIPES

PLAN = Plan(seconds=0.05, samples=11, rounds=6, limit=1)


@pytest.fixture(scope='session')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures of three classes that anything tells apart: plain colours under noise, of different sizes."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for name, colour in (('blue', (30, 60, 200)), ('green', (40, 180, 60)), ('red', (200, 50, 40))):
        (folder / name).mkdir()
        for i in range(20):
            picture = np.clip(np.array(colour) + rng.normal(0, 25, (64 + 3 * i, 96 - i, 3)), 0, 255)
            Image.fromarray(picture.astype(np.uint8)).save(folder / name / f'{i:02}.png')
    return folder


@pytest.fixture(scope='session')
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the lite network."""
    output = tmp_path_factory.mktemp('runs')
    recipe = dataclasses.replace(RECIPES['linear'], name='quick')
    finetune(str(photos), recipe, 'res_squeezenet_lite', input_size=64, output=output, name='colours')
    return output / 'colours'


@pytest.fixture(scope='session')
def quickly() -> Any:
    """`deploy` to one thread, without much measuring."""
    return partial(deploy, threads=1, plan=PLAN)


@pytest.fixture(scope='session')
def deployment(run: Path, quickly: Any, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Into the fastest of what is tried by default; tests read its folder only."""
    result: Deployment = quickly(run, output=tmp_path_factory.mktemp('artifacts') / 'default')
    return result


@pytest.fixture
def artifact(deployment: Deployment, tmp_path: Path) -> Path:
    """A copy to do what one likes with."""
    return Path(shutil.copytree(deployment.folder, tmp_path / 'artifact'))


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that ask for no times: most of a deployment's."""
    monkeypatch.setattr(module, 'measure', lambda *args: (Speed(), {}))

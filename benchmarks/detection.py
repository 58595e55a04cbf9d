"""Whether torchvision's detectors begin to learn on a plain timm pyramid: their loss over the first training steps.

    RSQ_DATA=... python benchmarks/detection.py --json detection.json
    python benchmarks/detection.py --detectors faster-rcnn --arms unit,resnet18 --seeds 1

RSQ_DATA names the folder that holds imagenet-samples/, which the arm `before` needs.

Faster R-CNN, RetinaNet and FCOS get a feature pyramid network without norms, as torchvision builds it around a custom
backbone; SSD takes the levels as they are. All layers train with AdamW at 1e-4 for 20 steps on the same two drawn
plates of food, with the boxes of the foods on them: between different images a loss varies more than it falls in so few
steps. Arms:

    before       res_squeezenet from its ImageNet start as it was before it was brought to unit scale
    unit         res_squeezenet from its ImageNet start
    random       res_squeezenet from random weights
    resnet18     timm's, from random weights: what a detector does on a backbone with norms throughout

A seed draws the images, which all arms of the seed share, the detector's weights and, where they are random, the
backbone's.
"""
import dataclasses
import json
import math
import statistics
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import timm
import torch
import torch.nn as nn
import typer
from measuring import environment
from printing import in_existing_folder, markdown_table, progress_bar, run
from runs import in_turn
from starts import start
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FeaturePyramidNetwork, masks_to_boxes
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

import rsq_backbone  # noqa: F401  registers
from rsq_backbone.datasets.food_scene import CLASSES, draw_food
from rsq_backbone.files import write_text

SIDE = 128
IMAGES = 2
STEPS = 20
LEARNING_RATE = 1e-4
CHANNELS = 128  # of the feature pyramid network; half of torchvision's, for speed
ARMS: Dict[str, Tuple[str, Optional[str]]] = {
    'before': ('res_squeezenet', 'before'),
    'unit': ('res_squeezenet', 'unit'),
    'random': ('res_squeezenet', None),
    'resnet18': ('resnet18', None),
}


def pyramid(arm: str, levels: Sequence[int]) -> nn.Module:
    """The backbone of an arm with its starting weights, giving these levels (1 is at a quarter of the image)."""
    name, weights = ARMS[arm]
    backbone: nn.Module = timm.create_model(
        name, pretrained=weights is not None, features_only=True, out_indices=tuple(levels),
        pretrained_cfg_overlay=dict(state_dict=start(weights)) if weights else None)
    return backbone


class Levels(nn.Module):
    """A pyramid of timm's as torchvision's detectors take one."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = backbone.feature_info.channels()

    def forward(self, x: torch.Tensor) -> 'OrderedDict[str, torch.Tensor]':
        return OrderedDict((str(i), level) for i, level in enumerate(self.backbone(x)))


class LevelsWithFPN(nn.Module):
    """The same through a feature pyramid network without norms."""

    def __init__(self, backbone: Any, extra: ExtraFPNBlock) -> None:
        super().__init__()
        self.levels = Levels(backbone)
        self.fpn = FeaturePyramidNetwork(self.levels.out_channels, CHANNELS, extra)
        self.out_channels = CHANNELS

    def forward(self, x: torch.Tensor) -> 'OrderedDict[str, torch.Tensor]':
        return self.fpn(self.levels(x))


def faster_rcnn(arm: str, **common: Any) -> nn.Module:
    return FasterRCNN(
        LevelsWithFPN(pyramid(arm, (1, 2, 3, 4)), LastLevelMaxPool()), min_size=SIDE, max_size=SIDE,
        box_batch_size_per_image=32, **common)  # for speed; torchvision's 512 are for images of 800 pixels


def retinanet(arm: str, **common: Any) -> nn.Module:
    return RetinaNet(
        LevelsWithFPN(pyramid(arm, (2, 3, 4)), LastLevelP6P7(CHANNELS, CHANNELS)), min_size=SIDE, max_size=SIDE,
        **common)


def fcos(arm: str, **common: Any) -> nn.Module:
    return FCOS(
        LevelsWithFPN(pyramid(arm, (2, 3, 4)), LastLevelP6P7(CHANNELS, CHANNELS)), min_size=SIDE, max_size=SIDE,
        **common)


def ssd(arm: str, **common: Any) -> nn.Module:
    return SSD(
        Levels(pyramid(arm, (2, 3, 4))), DefaultBoxGenerator([[2, 3]] * 3, min_ratio=20), size=(SIDE, SIDE), **common)


DETECTORS: Dict[str, Callable[..., nn.Module]] = {
    'faster-rcnn': faster_rcnn, 'retinanet': retinanet, 'fcos': fcos, 'ssd': ssd}


@dataclasses.dataclass(frozen=True)
class Run:
    """The first steps of one training; a loss is the sum of the detector's."""

    detector: str
    arm: str
    seed: int
    losses: Tuple[float, ...]  # before each step; infinite from the first that was not finite

    @property
    def falls(self) -> bool:
        """From the first steps: the mean of steps 2 to 5 and the last step are below the first."""
        return statistics.fmean(self.losses[1:5]) < self.losses[0] and self.losses[-1] < self.losses[0]

    @property
    def peak(self) -> float:
        """Largest loss after the first step, as a multiple of the first."""
        return max(self.losses[1:]) / self.losses[0]


def draw_batch(seed: int) -> Tuple[List[torch.Tensor], List[Dict[str, torch.Tensor]]]:
    """Images (3, SIDE, SIDE) of 0 .. 1, and boxes and classes (0 is the background) of the foods in each."""
    images, targets = [], []
    for number in range(IMAGES):
        rng = np.random.default_rng([seed, number])
        image, mask = draw_food(int(rng.integers(len(CLASSES))), SIDE, rng)
        labels = torch.from_numpy(np.unique(mask[mask > 0]).astype(np.int64))
        boxes = masks_to_boxes(torch.from_numpy(mask) == labels[:, None, None])
        boxes[:, 2:] += 1  # else a box ends at the middle of its last pixel, and a line has no height
        images.append(torch.from_numpy(image).permute(2, 0, 1) / 255)
        targets.append({'boxes': boxes, 'labels': labels})
    return images, targets


def train(detector: str, arm: str, seed: int) -> Run:
    torch.manual_seed(seed)
    model = DETECTORS[detector](arm, num_classes=len(CLASSES) + 1)
    images, targets = draw_batch(seed)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    losses: List[float] = []
    for _ in range(STEPS):
        loss = torch.stack(list(model(images, targets).values())).sum()
        if not loss.isfinite():
            losses += [math.inf] * (STEPS - len(losses))
            break
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Run(detector, arm, seed, tuple(losses))


def table(runs: Sequence[Run], detectors: Sequence[str], arms: Sequence[str]) -> str:
    shown = (1, 5, STEPS)
    rows = [['detector', 'arm', *(f'loss at step {step}' for step in shown), 'largest later / first',
             'falls from the first steps']]
    for detector in detectors:
        for arm in arms:
            of = [r for r in runs if (r.detector, r.arm) == (detector, arm)]
            rows.append([
                detector, arm, *(_range([r.losses[step - 1] for r in of]) for step in shown),
                _range([r.peak for r in of]), f'{sum(r.falls for r in of)} of {len(of)}'])
    return markdown_table(rows)


def _range(values: Sequence[float]) -> str:
    return f'{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})'


def main(
        detectors: Annotated[str, typer.Option(help=f'Of {", ".join(DETECTORS)}.')] = ','.join(DETECTORS),
        arms: Annotated[str, typer.Option(help=f'Of {", ".join(ARMS)}.')] = ','.join(ARMS),
        seeds: Annotated[int, typer.Option(min=1)] = 3,
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all losses here.', callback=in_existing_folder)] = None,
) -> None:
    """Compare how torchvision's detectors start to learn on pyramids with different starting weights."""
    wanted, chosen = detectors.split(','), arms.split(',')
    for names, choices in ((wanted, tuple(DETECTORS)), (chosen, tuple(ARMS))):
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise typer.BadParameter(f'{", ".join(unknown)}: choose of {", ".join(choices)}.')
    runs: List[Run] = []
    with progress_bar(len(wanted) * seeds * len(chosen)) as advance:
        for detector in wanted:
            for seed in range(seeds):
                for arm in in_turn(chosen, seed):
                    advance(f'{detector}, seed {seed}, {arm}', 0)
                    runs.append(train(detector, arm, seed))
                    advance(f'{detector}, seed {seed}, {arm}', 1)
    print(table(runs, wanted, chosen))
    print(f'\n{seeds} seeds: median (least .. largest). AdamW, {LEARNING_RATE:g}; the same {IMAGES} images of '
          f'{SIDE} x {SIDE} at every step. Falls from the first steps: the mean of steps 2 to 5 and the last step are '
          'below the first.')
    if json_file is not None:
        write_text(json_file, json.dumps({
            'environment': environment(), 'threads': torch.get_num_threads(), 'side': SIDE, 'images': IMAGES,
            'learning_rate': LEARNING_RATE,
            'runs': [{**dataclasses.asdict(r), 'peak': r.peak, 'falls': r.falls} for r in runs]}, indent=2) + '\n')


if __name__ == '__main__':
    run(main)

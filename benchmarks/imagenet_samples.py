"""Accuracy of Res-SqueezeNet's bundled start on ImageNet photographs, beside SqueezeNet 1.1 with the same weights."""
import copy
import json
import math
import os
import re
import sys
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
import timm
import torch
import torch.nn as nn
import torchvision
import typer
from PIL.Image import Image
from printing import in_existing_folder, markdown_table, progress_bar, run
from safetensors.torch import load_file
from timm.data import ImageNetInfo, create_transform, resolve_data_config

import rsq_backbone  # noqa: F401  registers res_squeezenet
from rsq_backbone.images import ImageError, list_images, read_image

SQUEEZENET = 'SqueezeNet 1.1'
GEOMETRIES = {'Res-SqueezeNet, paper geometry': 'paper', 'Res-SqueezeNet, aligned geometry': 'aligned'}
BATCH = 16
TRAIN_BATCHES = (8, 16, 32)
LARGEST_BATCH = 500  # pictures that training mode takes at once; at 227 they need about 4 GB
BOOTSTRAP = 10_000

Config = Dict[str, Any]


@dataclass(frozen=True)
class Samples:
    paths: List[Path]
    labels: np.ndarray


@dataclass(frozen=True)
class Share:
    """A share of pictures with its 95 % interval, all in percent (or a difference of two, in points)."""

    value: float
    low: float
    high: float


@dataclass
class Accuracy:
    """One network on all pictures; the differences are to SqueezeNet on the same pictures."""

    model: str
    top1: Share
    top5: Share
    top1_difference: Optional[Share] = None
    top5_difference: Optional[Share] = None
    only_this_right: int = 0
    only_squeezenet_right: int = 0


@dataclass
class TrainMode:
    """A network in training mode on batches of one size: top-1, and how often it agrees with evaluation mode."""

    model: str
    batch: int
    agreement: Share
    top1: Share


@dataclass
class Setting:
    """Top-1 in percent by network under one kind of preprocessing."""

    interpolation: str
    crop_pct: float
    input_size: int
    top1: Dict[str, float]


@dataclass
class Sensitivity:
    """Several kinds of preprocessing, and the top-1 difference to SqueezeNet by network in the mean over them."""

    settings: List[Setting]
    mean_difference: Dict[str, Share]


@dataclass
class Report:
    folder: str
    pictures: int
    skipped: int
    seed: int
    preprocessing: Config
    accuracies: List[Accuracy] = field(default_factory=list)
    train_mode: List[TrainMode] = field(default_factory=list)
    sensitivity: Optional[Sensitivity] = None


class NoSamplesError(Exception):
    """There are no pictures to evaluate; the message is one line that says how to mend it."""


def find_samples(folder: Optional[Path]) -> Tuple[Samples, int]:
    """Pictures of ImageNet-1k classes by their names nXXXXXXXX_..., and the number of pictures named otherwise."""
    if folder is None:
        if not os.environ.get('RSQ_DATA'):
            raise NoSamplesError('name a folder of ImageNet photographs, or set RSQ_DATA to the folder that holds '
                                 'imagenet-samples.')
        folder = Path(os.environ['RSQ_DATA']) / 'imagenet-samples'
    if not folder.is_dir():
        raise NoSamplesError(f'{folder}: no such folder; name one that holds pictures nXXXXXXXX_name.JPEG.')
    info = ImageNetInfo()
    index = {info.index_to_label_name(i): i for i in range(info.num_classes())}
    pictures = list_images(folder)
    labelled = [(path, index[path.name[:9]]) for path in pictures
                if re.match(r'n\d{8}(?!\d)', path.name) and path.name[:9] in index]
    if not labelled:
        raise NoSamplesError(f'{folder}: holds no pictures nXXXXXXXX_name.JPEG named by the WordNet id of an '
                             'ImageNet-1k class.')
    return Samples([path for path, _ in labelled], np.array([label for _, label in labelled])), \
        len(pictures) - len(labelled)


def load_models() -> Tuple[Dict[str, nn.Module], Config]:
    """SqueezeNet and both geometries in evaluation mode, and the preprocessing that these weights ask for."""
    models: Dict[str, nn.Module] = {
        name: timm.create_model('res_squeezenet', pretrained=True, geometry=geometry).eval()
        for name, geometry in GEOMETRIES.items()}
    configs = [resolve_data_config(model.pretrained_cfg) for model in models.values()]
    if configs[0] != configs[1]:
        raise RuntimeError('the two geometries ask for different preprocessing; evaluate them apart')
    ours = next(iter(models.values()))
    return {SQUEEZENET: squeezenet_with_weights_of(ours).eval(), **models}, configs[0]


def squeezenet_with_weights_of(model: Any) -> nn.Module:
    """torchvision's SqueezeNet 1.1 with the convolutions of the bundled file, which stand in the same order in both."""
    bundled = load_file(model.pretrained_cfg['file'])
    sources = [name for name, module in model.named_modules()
               if isinstance(module, nn.Conv2d) and f'{name}.weight' in bundled]
    squeezenet = torchvision.models.squeezenet1_1(weights=None)
    targets = [module for module in squeezenet.modules() if isinstance(module, nn.Conv2d)]
    if not len(sources) == len(targets) == 26:
        raise RuntimeError(f'expected 26 convolutions, found {len(sources)} in the file and {len(targets)} to fill')
    for source, target in zip(sources, targets, strict=True):
        target.load_state_dict({key: bundled[f'{source}.{key}'] for key in ('weight', 'bias')})  # checks the shapes
    return squeezenet


def top5_of(
        models: Mapping[str, nn.Module], configs: Mapping[str, Config], samples: Samples, what: str,
) -> Dict[Tuple[str, str], np.ndarray]:
    """Five best classes (n, 5) by network and configuration; each picture is decoded once for all of them."""
    transforms = {name: create_transform(**config) for name, config in configs.items()}
    found: Dict[Tuple[str, str], List[torch.Tensor]] = {key: [] for key in product(models, configs)}
    with torch.inference_mode(), progress_bar(len(samples.paths)) as advance:
        for start in range(0, len(samples.paths), BATCH):
            images = [read_image(path) for path in samples.paths[start:start + BATCH]]
            for config, transform in transforms.items():
                batch = _stack(images, transform)
                for name, model in models.items():
                    found[name, config].append(model(batch).topk(5).indices)
            advance(what, len(images))
    return {key: torch.cat(parts).numpy() for key, parts in found.items()}


def _stack(images: List[Image], transform: Any) -> torch.Tensor:
    return torch.stack([transform(image) for image in images])


def wilson(right: np.ndarray) -> Share:
    n, p, z = len(right), float(right.mean()), 1.959964
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(100 * p, 100 * (centre - half), 100 * (centre + half))


def paired_difference(right: np.ndarray, reference: np.ndarray, seed: int) -> Share:
    """Mean difference in points of two arrays (n,) or (settings, n), resampling pictures for the interval.

    A picture's differences can take few values, so a resample is decided by how often it draws each of them.
    """
    n = right.shape[-1]
    per_picture = np.atleast_2d(right.astype(int) - reference.astype(int)).sum(0)
    values, counts = np.unique(per_picture, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=BOOTSTRAP)
    to_points = 100 / (n * (right.size // n))
    low, high = np.percentile(drawn @ values, (2.5, 97.5)) * to_points
    return Share(float(per_picture.sum() * to_points), float(low), float(high))


def compare(top5: Mapping[str, np.ndarray], labels: np.ndarray, seed: int) -> List[Accuracy]:
    right1 = {name: found[:, 0] == labels for name, found in top5.items()}
    right5 = {name: (found == labels[:, None]).any(1) for name, found in top5.items()}
    accuracies = []
    for name in top5:
        row = Accuracy(name, wilson(right1[name]), wilson(right5[name]))
        if name != SQUEEZENET:
            row.top1_difference = paired_difference(right1[name], right1[SQUEEZENET], seed)
            row.top5_difference = paired_difference(right5[name], right5[SQUEEZENET], seed)
            row.only_this_right = int((right1[name] & ~right1[SQUEEZENET]).sum())
            row.only_squeezenet_right = int((~right1[name] & right1[SQUEEZENET]).sum())
        accuracies.append(row)
    return accuracies


def in_training_mode(model: nn.Module) -> nn.Module:
    """A copy that normalises by each batch's statistics, without dropout and without learning from the batches."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return model


def evaluate_training_mode(
        models: Mapping[str, nn.Module], config: Config, samples: Samples, eval_top1: Mapping[str, np.ndarray],
        seed: int,
) -> List[TrainMode]:
    n = len(samples.paths)
    order = np.random.default_rng(seed).permutation(n)  # neighbours in the folder are related classes
    sizes = sorted({size for size in (*TRAIN_BATCHES, n) if size <= min(n, LARGEST_BATCH)})
    transform = create_transform(**config)
    trained = {name: in_training_mode(model) for name, model in models.items() if name != SQUEEZENET}
    before = {name: copy.deepcopy(model.state_dict()) for name, model in trained.items()}
    top1 = {(name, size): np.empty(n, int) for name in trained for size in sizes}
    with torch.inference_mode(), progress_bar(n * len(sizes)) as advance:
        for size in sizes:
            for start in range(0, n, size):
                # The last batch is filled up with the first pictures, which are not counted again.
                picked = np.take(order, range(start, start + size), mode='wrap')
                new = picked[:n - start]
                batch = _stack([read_image(samples.paths[i]) for i in picked], transform)
                for name, model in trained.items():
                    top1[name, size][new] = model(batch)[:len(new)].argmax(1).numpy()
                advance(f'training mode, batches of {size}', len(new))
    for name, model in trained.items():
        _check_unchanged(before[name], model)
    return [TrainMode(name, size, wilson(found == eval_top1[name]), wilson(found == samples.labels))
            for (name, size), found in top1.items()]


def _check_unchanged(before: Mapping[str, torch.Tensor], model: nn.Module) -> None:
    for key, value in model.state_dict().items():
        if not key.endswith('num_batches_tracked') and not torch.equal(value, before[key]):
            raise RuntimeError(f'{key} changed in training mode')


def sensitivity_configs(config: Config) -> Dict[str, Config]:
    grid = product(('bilinear', 'bicubic'), (0.875, 0.887, 1.0), (224, 227))
    return {f'{interpolation} {crop_pct} {size}': {
        **config, 'interpolation': interpolation, 'crop_pct': crop_pct, 'input_size': (3, size, size),
    } for interpolation, crop_pct, size in grid}


def evaluate_sensitivity(models: Mapping[str, nn.Module], config: Config, samples: Samples, seed: int) -> Sensitivity:
    configs = sensitivity_configs(config)
    top5 = top5_of(models, configs, samples, 'kinds of preprocessing')
    right = {name: np.stack([top5[name, key][:, 0] == samples.labels for key in configs]) for name in models}
    settings = [
        Setting(each['interpolation'], each['crop_pct'], each['input_size'][-1], {
            name: 100 * float(right[name][i].mean()) for name in models})
        for i, each in enumerate(configs.values())]
    return Sensitivity(settings, {
        name: paired_difference(right[name], right[SQUEEZENET], seed) for name in models if name != SQUEEZENET})


def evaluate(folder: Optional[Path], seed: int, train_mode: bool, sensitivity: bool) -> Report:
    samples, skipped = find_samples(folder)
    models, config = load_models()
    report = Report(str(samples.paths[0].parent), len(samples.paths), skipped, seed, config)
    top5 = {name: found for (name, _), found in top5_of(models, {'own': config}, samples, 'evaluation mode').items()}
    report.accuracies = compare(top5, samples.labels, seed)
    if train_mode:
        top1 = {name: found[:, 0] for name, found in top5.items()}
        report.train_mode = evaluate_training_mode(models, config, samples, top1, seed)
    if sensitivity:
        report.sensitivity = evaluate_sensitivity(models, config, samples, seed)
    return report


def _percent(share: Share) -> str:
    return f'{share.value:.1f} % [{share.low:.1f}, {share.high:.1f}]'


def _points(share: Optional[Share]) -> str:
    if share is None:
        return ''
    if share.low == share.high:  # resampling pictures that all agree shows no spread, which is no certainty
        return f'{share.value:+.1f} (no interval)'
    return f'{share.value:+.1f} [{share.low:+.1f}, {share.high:+.1f}]'


def markdown(report: Report) -> str:
    config = report.preprocessing
    others = f' Other pictures there, left out: {report.skipped}.' if report.skipped else ''
    parts = [
        _accuracy_table(report.accuracies),
        f'n = {report.pictures} photographs of {Path(report.folder).name}, which the weights may have been trained on.'
        f'{others} Input of all: {config["input_size"][-1]}, {config["interpolation"]}, crop {config["crop_pct"]} '
        "(the weights' own configuration). Accuracy with Wilson 95 % interval; difference to SqueezeNet on the same "
        f'pictures in points, with 95 % interval of {BOOTSTRAP:,} paired bootstrap samples (seed {report.seed}).']
    if report.train_mode:
        parts += [_train_mode_table(report.train_mode, report.pictures), (
            'Training mode: batch statistics, no dropout, running statistics untouched; pictures in random order '
            f'(seed {report.seed}). The bundled batch norms were fitted to 100 ImageNet photographs: if these are the '
            'same ones, expect less agreement on others.')]
        if report.pictures > LARGEST_BATCH:
            parts.append(f'All {report.pictures} pictures in one batch: left out (more than {LARGEST_BATCH}).')
    if report.sensitivity:
        parts += [_sensitivity_table(report.sensitivity), (
            'Top-1 (difference to SqueezeNet in points); the mean difference with its 95 % interval of the paired '
            'bootstrap over pictures.')]
    return '\n\n'.join(parts) + '\n'


def _accuracy_table(accuracies: List[Accuracy]) -> str:
    rows = [['network', 'top-1', 'top-5', 'top-1 difference', 'top-5 difference', 'won / lost (top-1)']]
    for row in accuracies:
        won_lost = '' if row.top1_difference is None else f'{row.only_this_right} / {row.only_squeezenet_right}'
        rows.append([row.model, _percent(row.top1), _percent(row.top5), _points(row.top1_difference),
                     _points(row.top5_difference), won_lost])
    return markdown_table(rows)


def _train_mode_table(rows: List[TrainMode], pictures: int) -> str:
    return markdown_table([['network', 'batch', 'top-1 as in evaluation mode', 'top-1 right']] + [
        [row.model, f'all {pictures}' if row.batch == pictures else str(row.batch), _percent(row.agreement),
         _percent(row.top1)] for row in rows])


def _sensitivity_table(sensitivity: Sensitivity) -> str:
    settings, names = sensitivity.settings, list(sensitivity.mean_difference)
    rows = [['interpolation', 'crop', 'input', SQUEEZENET, *names]]
    rows += [[s.interpolation, str(s.crop_pct), str(s.input_size), f'{s.top1[SQUEEZENET]:.1f} %', *(
        f'{s.top1[name]:.1f} % ({s.top1[name] - s.top1[SQUEEZENET]:+.1f})' for name in names)] for s in settings]
    mean = {name: float(np.mean([s.top1[name] for s in settings])) for name in settings[0].top1}
    rows.append(['mean', '', '', f'{mean[SQUEEZENET]:.1f} %', *(
        f'{mean[name]:.1f} % ({_points(sensitivity.mean_difference[name])})' for name in names)])
    return markdown_table(rows)


def main(
        folder: Annotated[Optional[Path], typer.Argument(
            help='Folder of pictures nXXXXXXXX_name.JPEG, where the WordNet id is the class.',
            show_default='RSQ_DATA/imagenet-samples')] = None,
        train_mode: Annotated[bool, typer.Option(
            '--train-mode', help='Also in training mode: does the start survive batch statistics?')] = False,
        sensitivity: Annotated[bool, typer.Option(
            '--sensitivity', help='Also under 12 kinds of preprocessing.')] = False,
        seed: Annotated[int, typer.Option(min=0, help='Of the bootstrap and the order of the pictures.')] = 0,
        json_file: Annotated[Optional[Path], typer.Option(
            '--json', metavar='FILE', callback=in_existing_folder, help='Write the result here.')] = None,
) -> None:
    """Top-1 and top-5 of res_squeezenet's bundled start (both geometries) beside SqueezeNet 1.1 with the same weights.

    Prints markdown tables. The bundled weights may have been trained on the pictures you have: the difference between
    the networks is the result, the accuracies are no estimate of ImageNet's.

    \b
    Examples:
      RSQ_DATA=~/data python benchmarks/imagenet_samples.py
      python benchmarks/imagenet_samples.py ~/data/imagenet-samples --train-mode --sensitivity
    """
    try:
        report = evaluate(folder, seed, train_mode, sensitivity)
    except (NoSamplesError, ImageError) as e:
        typer.echo(f'Error: {e}', err=True)
        raise typer.Exit(2) from None
    sys.stdout.write(markdown(report))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(report), indent=2), encoding='utf-8')


if __name__ == '__main__':
    run(main)

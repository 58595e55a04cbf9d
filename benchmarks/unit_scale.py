"""What the scale of the ImageNet start's features changes: the same function at several scales (benchmarks/starts.py).

    RSQ_DATA=... python benchmarks/unit_scale.py segmentation --output unit-scale/ --seeds 0,1,2
    RSQ_DATA=... python benchmarks/unit_scale.py segmentation --output unit-scale/ --data peanut/ --networks unet,fpn
    RSQ_DATA=... python benchmarks/unit_scale.py finetuning --output unit-scale/ --data solar,clothing,grocery
    RSQ_DATA=... python benchmarks/unit_scale.py int8 --output unit-scale/

RSQ_DATA names the folder that holds imagenet-samples/ (photographs that scales are measured on), nuclei/, clothing/ and
grocery/; `solar` needs `pip install elpv-dataset`. Every finished run leaves a note in the output folder, so that a
stopped benchmark goes on where it was, several may share a folder, and the tables hold every run that was asked for.
benchmarks/prepare_peanut.py makes peanut/.
On two cores, two of them with one thread each (OMP_NUM_THREADS=1 taskset -c 0 ...) are faster than one with two.
benchmarks/detection.py does the same for detectors.
"""
import dataclasses
import json
import os
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import segmentation_models_pytorch as smp
import torch
import typer
from printing import markdown_table, progress_bar
from real_data import data_folder
from runs import HEAD, TAIL, interval_text, spread_text
from solar_cells import Cell, load_cells, write_samples
from starts import STARTS, photos, start
from torch import nn

from rsq_backbone.datasets.sources import load_source
from rsq_backbone.evaluation import evaluate
from rsq_backbone.files import write_text
from rsq_backbone.metrics import classification_metrics
from rsq_backbone.progress import silent
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import RECIPES
from seg_demos.recipe import SegmentationRecipe
from seg_demos.training import train

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)

Output = Annotated[Path, typer.Option(help='Folder of the notes, one for each run.')]
Starts = Annotated[str, typer.Option(help=f'Starts to compare, separated by commas: {", ".join(STARTS)}.')]
Seeds = Annotated[str, typer.Option(help='Seeds, separated by commas.')]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compared between starts."""

    part: str  # segmentation, finetuning or int8
    data: str
    network: str
    setting: str  # encoder factor or rate, recipe, runtime

    @property
    def name(self) -> str:
        return '-'.join([self.part, Path(self.data).name, self.network, self.setting]).replace(' ', '-')


# Scores of one run, by their names: mean IoU, accuracy, ...
Scores = Dict[str, float]


def run_all(
        cases: Sequence[Case], starts: Sequence[str], seeds: Sequence[int], output: Path,
        one: Callable[[Case, str, int], Scores],
) -> None:
    """Run what has not been run yet, then print the tables of all cases."""
    output.mkdir(parents=True, exist_ok=True)
    outcomes: Dict[Tuple[Case, str, int], Scores] = {}
    with progress_bar(len(seeds) * len(cases) * len(starts)) as advance:
        for seed in seeds:
            for case in cases:
                for name in starts:
                    advance(f'{case.name}, {name}, seed {seed}', 0)
                    note = output / f'{case.name}-{name}-{seed}.json'
                    if not note.exists():
                        began = time.perf_counter()
                        scores = one(case, name, seed)
                        write_text(note, json.dumps({**scores, 'seconds': time.perf_counter() - began}) + '\n')
                    outcomes[case, name, seed] = json.loads(note.read_text(encoding='utf-8'))
                    advance(f'{case.name}, {name}, seed {seed}', 1)
    print('\n\n'.join(_tables(cases, starts, seeds, outcomes)))


def _tables(
        cases: Sequence[Case], starts: Sequence[str], seeds: Sequence[int],
        outcomes: Dict[Tuple[Case, str, int], Scores],
) -> List[str]:
    tables = [f'Seeds {", ".join(map(str, seeds))}; {HEAD}.']
    for score in next(iter(outcomes.values())):
        if score == 'seconds':
            continue
        digits = 1 if '%' in score else 3
        rows = [['data', 'network', 'setting', *starts, *(f'{name} - {starts[0]}' for name in starts[1:])]]
        for case in cases:
            by_start = [[outcomes[case, name, seed][score] for seed in seeds] for name in starts]
            rows.append([
                Path(case.data).name, case.network, case.setting,
                *(spread_text(values, digits) for values in by_start),
                *(interval_text(np.subtract(values, by_start[0]).tolist(), digits) for values in by_start[1:])])
        tables += [f'**{score}**', markdown_table(rows)]
    return [*tables, TAIL]


# ---- segmentation ----

# smp's own networks with half of their usual decoder width, as in the demos.
OWN_NETWORKS: Dict[str, Callable[..., Any]] = {
    'fpn': lambda encoder, weights, classes: smp.FPN(
        encoder, encoder_weights=weights, classes=classes, decoder_pyramid_channels=128),
    'upernet': lambda encoder, weights, classes: smp.UPerNet(
        encoder, encoder_weights=weights, classes=classes, decoder_channels=128),
    'segformer': lambda encoder, weights, classes: smp.Segformer(
        encoder, encoder_weights=weights, classes=classes, decoder_segmentation_channels=128),
}
NETWORKS = ('unet', 'deeplab', 'pspnet', 'segnet', *OWN_NETWORKS)


def _segmentation_run(case: Case, recipe: SegmentationRecipe, name: str, seed: int, output: Path) -> Scores:
    architecture, _, variant = case.network.partition(':')
    build = OWN_NETWORKS.get(architecture) or import_module(f'seg_demos.{architecture}').build

    def build_from_start(encoder: str, weights: Optional[str], classes: int) -> nn.Module:
        network: nn.Module = build(encoder, weights, classes)
        network.encoder.load_state_dict(start(name, encoder))  # type: ignore[operator, union-attr]
        return network

    with TemporaryDirectory(dir=output) as folder:
        result = train(
            architecture, build_from_start, case.data, recipe, variant or 'res_squeezenet', seed=seed, output=folder,
            overwrite=True)
    return {'mean IoU': result.metrics.mean_iou}


@app.command()
def segmentation(
        output: Output,
        data: Annotated[str, typer.Option(
            help='Folders that the segmentation demos take, separated by commas; nuclei is that of RSQ_DATA.',
        )] = 'nuclei',
        networks: Annotated[str, typer.Option(
            help=f'Of {", ".join(NETWORKS)}, separated by commas; :res_squeezenet_lite after one for the lite encoder.',
        )] = 'unet,deeplab,pspnet,segnet',
        factors: Annotated[str, typer.Option(
            help="Learning rates of the encoder as fractions of the decoder's, separated by commas.")] = '0.1,0.3,1',
        epochs: Annotated[int, typer.Option(min=1)] = 5,
        starts: Starts = 'before,unit',
        seeds: Seeds = '0,1,2',
) -> None:
    """Segmentation networks with the training recipe of the demos."""
    folders = [str(data_folder('nuclei')) if name == 'nuclei' else name for name in data.split(',')]
    recipes = {
        Case('segmentation', folder, network, f'{epochs} epochs, encoder factor {factor}'):
            SegmentationRecipe(epochs=epochs, encoder_factor=float(factor))
        for folder in folders for network in networks.split(',') for factor in factors.split(',')}
    output.mkdir(parents=True, exist_ok=True)
    run_all(list(recipes), starts.split(','), [int(seed) for seed in seeds.split(',')], output,
            lambda case, name, seed: _segmentation_run(case, recipes[case], name, seed, output))


# ---- fine-tuning ----

def _write_sample(data: str, count: int, seed: int, output: Path) -> Tuple[Path, Path]:
    """Two CSV files of different images: to split and train on, and more to judge by."""
    cells: List[Cell] = load_cells() if data == 'solar' else [
        Cell(path, 0, images.classes[label])
        for images in [load_source(str(_folder(data)), silent).train]
        for path, label in zip(images.paths, images.labels, strict=True)]
    sample, others = output / f'{data}-{count}-{seed}.csv', output / f'{data}-{count}-{seed}-others.csv'
    write_samples(cells, 'defect' if data == 'solar' else 'type', count, seed, sample, others)
    return sample, others


def _folder(data: str) -> Path:
    # The test images of grocery come from other shops; they are kept for judging recipes that have been chosen.
    return data_folder('grocery') / 'train' if data == 'grocery' else data_folder(data)


def _finetuning_run(case: Case, name: str, seed: int, output: Path) -> Scores:
    recipe, _, change = case.setting.partition(' ')
    changed: Dict[str, Any] = {
        key: float(value) for key, value in (pair.split('=') for pair in change.split())}
    data, count = case.data.rsplit(' ', 1)
    sample, others = _write_sample(data, int(count), seed, output)
    with TemporaryDirectory(dir=output) as folder:
        result = finetune(
            str(sample), dataclasses.replace(RECIPES[recipe], **changed), f'{case.network}_{name}', seed=seed,
            output=folder, name='run')
        more = evaluate(Path(folder) / 'run', str(others)).metrics
    metrics = classification_metrics(
        np.add(result.metrics.confusion_matrix, more.confusion_matrix), result.data.classes)
    return {'accuracy, %': 100 * metrics.accuracy, 'mean IoU': metrics.mean_iou}


@app.command()
def finetuning(
        output: Output,
        data: Annotated[str, typer.Option(
            help='Of solar, clothing, grocery, separated by commas.')] = 'solar,clothing,grocery',
        images: Annotated[int, typer.Option(
            help='Size of the sample: 70 % to train on, the others and 70 % more to judge by.')] = 300,
        recipes: Annotated[str, typer.Option(
            help='Names of recipes, separated by commas; numbers in them can be changed: "paper learning_rate=1e-3".',
        )] = 'linear,paper,laptop',
        networks: Annotated[str, typer.Option(help='res_squeezenet, res_squeezenet_lite.')] = 'res_squeezenet',
        starts: Starts = 'before,unit',
        seeds: Seeds = '0,1,2',
) -> None:
    """The recipes of rsq finetune on samples of photographs, a new sample for each seed."""
    cases = [Case('finetuning', f'{name} {images}', network, recipe)
             for name in data.split(',') for network in networks.split(',') for recipe in recipes.split(',')]
    output.mkdir(parents=True, exist_ok=True)
    os.environ['RSQ_CACHE'] = str(output / 'cache')
    run_all(cases, starts.split(','), [int(seed) for seed in seeds.split(',')], output,
            lambda case, name, seed: _finetuning_run(case, name, seed, output))


# ---- int8 ----

def _int8_run(case: Case, name: str, seed: int) -> Scores:
    """The ImageNet classifier, calibrated on one half of the photographs and compared with PyTorch on the other."""
    import timm

    from rsq_backbone.deploy.conversion import Conversion

    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(photos())))
    calibration, judged = photos()[order[:50]], photos()[order[50:]]
    model = timm.create_model(case.network).eval()
    model.load_state_dict(start(name, case.network))
    with torch.inference_mode():
        expected = model(judged).numpy()
    with TemporaryDirectory() as folder:
        files = Conversion(model, (227, 227), Path(folder)).convert(case.setting, 'int8', calibration.numpy()).files
        logits = _run_file(case.setting, files[0], judged.numpy())
    difference = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    return {
        'same class, %': 100 * float((logits.argmax(1) == expected.argmax(1)).mean()),
        'relative difference of the logits': float(difference)}


def _run_file(target: str, file: Path, images: np.ndarray) -> np.ndarray:
    if target == 'onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
        return np.concatenate([session.run(None, {'image': image[None]})[0] for image in images])
    from rsq_backbone.runtimes.openvino import openvino

    compiled = openvino.Core().compile_model(str(file), 'CPU')
    return np.concatenate([compiled(image[None])[0].copy() for image in images])


@app.command()
def int8(
        output: Output,
        networks: Annotated[str, typer.Option(
            help='res_squeezenet, res_squeezenet_lite.')] = 'res_squeezenet,res_squeezenet_lite',
        targets: Annotated[str, typer.Option(help='onnx, openvino.')] = 'onnx,openvino',
        starts: Starts = 'before,unit,channel,equalized',
        seeds: Seeds = '0,1,2',
) -> None:
    """Agreement of the int8 ImageNet classifier with PyTorch, all of it in int8, by the halves of the photographs."""
    cases = [Case('int8', 'imagenet-samples', network, target)
             for network in networks.split(',') for target in targets.split(',')]
    run_all(cases, starts.split(','), [int(seed) for seed in seeds.split(',')], output, _int8_run)


if __name__ == '__main__':
    app()

"""The recipes on real pictures: 2,624 photographs of solar cells, from the PyPI package elpv-dataset (CC BY-NC-SA 4.0).

    pip install elpv-dataset
    python benchmarks/solar_cells.py --output solar-cells/ --json solar-cells.json

For each seed a sample of as many pictures as the paper had (978), in the original proportions of the classes, is split
70/30 and goes through every arm:

    paper              Res-SqueezeNet under the paper's recipe
    random stage       the same with a residual stage that starts at random instead of passing its input on
    uncached           as `paper`, the frozen trunk computed anew in each epoch
    laptop             Res-SqueezeNet under the default recipe

The arms of a seed follow each other in an order that rotates with the seed, so that the machine's mood favours none. A
run that was stopped goes on where it was when the same command is given again.
"""
import dataclasses
import json
import os
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import timm
import torch
import torch.nn as nn
import typer
from measuring import FOREIGN_CORES_NOTICED, LoadWatch, environment
from printing import in_existing_folder, markdown_table, progress_bar, run
from scipy.stats import t as student
from timm.models import register_model

from rsq_backbone.errors import UserError
from rsq_backbone.files import write_rows, write_text
from rsq_backbone.results import TrainingResult
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import RECIPES, Recipe

PAPER_PICTURES = 978


@register_model
def res_squeezenet_random_stage(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """res_squeezenet whose residual stage is initialised as any other network's."""
    model = timm.create_model('res_squeezenet', pretrained=pretrained, **kwargs)
    if pretrained:
        fresh = timm.create_model('res_squeezenet', **kwargs)
        model.stages[3].load_state_dict(fresh.stages[3].state_dict())
    return model


@dataclasses.dataclass(frozen=True)
class Arm:
    recipe: Recipe
    model: str = 'res_squeezenet'
    feature_cache: bool = True


PAPER, LAPTOP = RECIPES['paper'], RECIPES['laptop']


def _laptop(**changes: Any) -> Arm:
    return Arm(dataclasses.replace(LAPTOP, **changes))


ARMS: Dict[str, Arm] = {
    'paper': Arm(PAPER),
    'random stage': Arm(PAPER, 'res_squeezenet_random_stage'),
    'uncached': Arm(PAPER, feature_cache=False),
    'laptop': Arm(LAPTOP),
}
DEFAULT_ARMS = ','.join(ARMS)
# The default recipe with one thing changed.
ARMS.update({
    'batch statistics': _laptop(keep_statistics=False),
    'no linear start': _laptop(linear_start=False, classifier_factor=10),
    'trunk frozen': _laptop(trained_stages=1),
    'slower trunk': _laptop(stage_factor=0.5),
    'no augmentation': _laptop(augmentation='none'),
    'paper augmentation': _laptop(augmentation='paper'),
    'strong augmentation': _laptop(augmentation='strong'),
    'label smoothing': _laptop(label_smoothing=0.1),
    'pictures alike': _laptop(balance=0),
    'classes alike': _laptop(balance=1),
    'rate 1e-4': _laptop(learning_rate=1e-4),
    'rate 1e-3': _laptop(learning_rate=1e-3),
    'dropout': _laptop(drop_rate=0.5),
    'logit ReLU': _laptop(logit_relu=True),
    'held out': _laptop(held_out=0.15),
})
# Pairs whose difference is a claim of the paper's or of ours.
COMPARISONS = (('paper', 'random stage'), ('laptop', 'paper'), ('uncached', 'paper'))
TASKS: Dict[str, str] = {
    'defect': 'defect probability above 0.5 or not',
    'type': 'mono- or polycrystalline',
    'grade': 'type and one of four defect probabilities: eight unequal classes',
}


@dataclasses.dataclass(frozen=True)
class Cell:
    path: Path
    probability: float
    type: str

    def label(self, task: str) -> str:
        if task == 'defect':
            return 'defect' if self.probability > 0.5 else 'sound'
        return self.type if task == 'type' else f'{self.type}-{round(3 * self.probability)}'


def load_cells() -> List[Cell]:
    spec = find_spec('elpv_dataset')
    if spec is None or not spec.submodule_search_locations:
        raise UserError('this benchmark needs real pictures: pip install elpv-dataset')
    data = Path(spec.submodule_search_locations[0]) / 'data'
    with (data / 'labels.csv').open(encoding='utf-8') as file:
        rows = (line.split() for line in file)
        return [Cell(data / path, float(probability), kind) for path, probability, kind in rows]


def write_sample(cells: Sequence[Cell], task: str, pictures: int, seed: int, path: Path) -> None:
    """A CSV of about `pictures` cells, each class with its share of them."""
    labels = np.array([cell.label(task) for cell in cells])
    rng = np.random.default_rng(seed)
    chosen: List[int] = []
    for label in sorted(set(labels.tolist())):
        own = rng.permutation(np.flatnonzero(labels == label))
        chosen += own[:round(len(own) * pictures / len(cells))].tolist()
    write_rows(path, [('path', 'label'), *((cells[i].path, labels[i]) for i in sorted(chosen))])


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run of one arm."""

    task: str
    seed: int
    accuracy: float
    mean_iou: float
    linear_accuracy: float
    linear_mean_iou: float
    n: int
    seconds: float
    foreign_cores: Optional[float]

    @classmethod
    def of(cls, result: TrainingResult, task: str, foreign_cores: Optional[float]) -> 'Outcome':
        return cls(
            task, result.seed, result.metrics.accuracy, result.metrics.mean_iou, result.linear.accuracy,
            result.linear.mean_iou, result.metrics.n, result.seconds['total'], foreign_cores)


def mean_interval(values: Sequence[float]) -> Tuple[float, float, float]:
    """Mean with Student's 95 % interval; of no use below three values."""
    mean = statistics.fmean(values)
    if len(values) < 3:
        return mean, float('-inf'), float('inf')
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def main(
        output: Annotated[Path, typer.Option(help='Folder of the run folders; kept, so that a run can go on.')],
        seeds: Annotated[int, typer.Option(min=1)] = 5,
        tasks: Annotated[str, typer.Option(help=f'Of {", ".join(TASKS)}.')] = ','.join(TASKS),
        arms: Annotated[str, typer.Option(help=f'Of {", ".join(ARMS)}.')] = DEFAULT_ARMS,
        pictures: Annotated[
            int, typer.Option(help="As many as the paper's, training and validation.")] = PAPER_PICTURES,
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all figures here.', callback=in_existing_folder)] = None,
) -> None:
    """Compare recipes, networks and starts on real pictures, over several seeds."""
    cells = load_cells()
    output.mkdir(parents=True, exist_ok=True)
    os.environ['RSQ_CACHE'] = str(output / 'cache')
    chosen_tasks, chosen_arms = tasks.split(','), arms.split(',')
    outcomes: Dict[str, List[Outcome]] = {arm: [] for arm in chosen_arms}
    watch = LoadWatch()
    with progress_bar(len(chosen_tasks) * seeds * len(chosen_arms)) as advance:
        for task in chosen_tasks:
            for seed in range(seeds):
                sample = output / f'{task}-{seed}.csv'
                write_sample(cells, task, pictures, seed, sample)
                shift = seed % len(chosen_arms)
                for arm in chosen_arms[shift:] + chosen_arms[:shift]:
                    advance(f'{task}, seed {seed}, {arm}', 0)
                    outcomes[arm].append(_run(arm, sample, task, seed, output, watch))
                    advance(f'{task}, seed {seed}, {arm}', 1)
    print(_report(chosen_tasks, outcomes))
    if json_file is not None:
        json_file.write_text(json.dumps({
            'environment': environment(), 'threads': torch.get_num_threads(), 'pictures': pictures,
            'recipes': {name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()},
            'outcomes': {arm: [dataclasses.asdict(o) for o in of] for arm, of in outcomes.items()}}, indent=2) + '\n')


def _run(arm: str, sample: Path, task: str, seed: int, output: Path, watch: LoadWatch) -> Outcome:
    name = f'{task}-{seed}-{arm.replace(" ", "-")}'
    note = output / f'{name}.json'
    if note.exists():
        return Outcome(**json.loads(note.read_text()))
    # What another arm has left in the cache would make this one look faster.
    shutil.rmtree(output / 'cache', ignore_errors=True)
    watch.lap()
    spec = ARMS[arm]
    result = finetune(
        str(sample), spec.recipe, spec.model, seed=seed, output=output, name=name, feature_cache=spec.feature_cache,
        overwrite=True)
    outcome = Outcome.of(result, task, watch.lap().foreign_cores)
    write_text(note, json.dumps(dataclasses.asdict(outcome)) + '\n')
    (output / name / 'model.safetensors').unlink()  # 42 MB each
    return outcome


def _report(tasks: Sequence[str], outcomes: Dict[str, List[Outcome]]) -> str:
    return '\n\n'.join(_task_report(task, {
        arm: sorted((o for o in of if o.task == task), key=lambda o: o.seed) for arm, of in outcomes.items()})
        for task in tasks)


def _task_report(task: str, outcomes: Dict[str, List[Outcome]]) -> str:
    some = next(iter(outcomes.values()))
    rows = [['arm', 'accuracy', 'mIoU', 'seconds']]
    rows.append(['linear floor', _spread([100 * o.linear_accuracy for o in some], 1),
                 _spread([o.linear_mean_iou for o in some], 3), ''])
    for arm, of in outcomes.items():
        rows.append([
            arm, _spread([100 * o.accuracy for o in of], 1), _spread([o.mean_iou for o in of], 3),
            _spread([o.seconds for o in of], 0)])
    differences = [['difference', 'accuracy, points', 'mIoU', 'seconds, ratio']]
    ablations = [(arm, 'laptop') for arm in outcomes if arm not in DEFAULT_ARMS.split(',')]
    for a, b in (*COMPARISONS, *ablations):
        if a in outcomes and b in outcomes:
            pairs = list(zip(outcomes[a], outcomes[b], strict=True))
            differences.append([
                f'{a} - {b}', _interval([100 * (x.accuracy - y.accuracy) for x, y in pairs], 1),
                _interval([x.mean_iou - y.mean_iou for x, y in pairs], 3),
                _interval([x.seconds / y.seconds for x, y in pairs], 2)])
    head = (
        f'**{task}** ({TASKS[task]}); {len(some)} seeds, {some[0].n} validation pictures each; mean (least .. largest)')
    tail = 'Differences on the same pictures: mean [95 % interval, Student]; an interval across 0 is no difference.'
    busy = [f'{arm} {o.seed}' for arm, of in outcomes.items() for o in of
            if (o.foreign_cores or 0) > FOREIGN_CORES_NOTICED]
    load = f'\n\nOther processes were busy during: {", ".join(busy)}.' if busy else ''
    return f'{head}\n\n{markdown_table(rows)}\n\n{tail}\n\n{markdown_table(differences)}{load}'


def _spread(values: Sequence[float], digits: int) -> str:
    return f'{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})'


def _interval(values: Sequence[float], digits: int) -> str:
    mean, low, high = mean_interval(values)
    return f'{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]'


if __name__ == '__main__':
    run(main)

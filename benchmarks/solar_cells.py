"""The recipes on real pictures: 2,624 photographs of solar cells, from the PyPI package elpv-dataset (CC BY-NC-SA 4.0).

    pip install elpv-dataset
    python benchmarks/solar_cells.py --output solar-cells/ --json solar-cells.json
    python benchmarks/solar_cells.py --output solar-cells/ --tasks defect --arms paper,uncached --seeds 3

For each seed a sample of as many pictures as the paper had (978), in the original proportions of the classes, is split
70/30 and goes through every arm. So that chance says less, each model is then judged by some hundred more pictures,
which takes no part in its time.

    linear             the floor: logistic regression on the pretrained features
    paper              Res-SqueezeNet under the paper's recipe
    laptop             Res-SqueezeNet under the default recipe
    lite               res_squeezenet_lite under the default recipe
    squeezenet laptop  SqueezeNet 1.1 from the same weights under the default recipe
    squeezenet         SqueezeNet 1.1 from the same weights under the paper's recipe, its last four fire modules trained
    squeezenet conv10  the same with the last layer trained only
    random stage       `paper` with a residual stage that starts at random instead of passing its input on
    uncached           `paper`, the frozen trunk computed anew in each epoch
    conv10             `paper`, the last layer trained only
    conv10 uncached    the same, the frozen network computed anew in each epoch

The other arms are `laptop` with one thing changed. The arms of a seed follow each other in an order that rotates with
the seed, so that the machine's mood favours none. A benchmark that was stopped goes on where it was when the same
command is given again.
"""
import dataclasses
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import timm
import torch
import torch.nn as nn
import torchvision_models  # noqa: F401  registers
import typer
from measuring import environment
from printing import in_existing_folder, markdown_table, progress_bar, run
from runs import HEAD, TAIL, Arm, Outcome, failures_text, in_turn, interval_text, load_text, run_arm, spread_text
from timm.models import generate_default_cfgs, register_model

from rsq_backbone.errors import UserError
from rsq_backbone.files import write_rows
from rsq_backbone.profiler.load import LoadWatch
from rsq_backbone.res_squeezenet import default_cfgs as our_cfgs
from rsq_backbone.training.recipes import RECIPES

PAPER_PICTURES = 978
default_cfgs = generate_default_cfgs({'res_squeezenet_random_stage.caffe_in1k': our_cfgs['res_squeezenet'].default})


@register_model
def res_squeezenet_random_stage(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """res_squeezenet whose residual stage is initialised as any other network's."""
    model = timm.create_model('res_squeezenet', pretrained=pretrained, **kwargs)
    if pretrained:
        fresh = timm.create_model('res_squeezenet', **kwargs)
        model.stages[3].load_state_dict(fresh.stages[3].state_dict())
    return model


PAPER, LAPTOP = RECIPES['paper'], RECIPES['laptop']
LAST_LAYER = dataclasses.replace(PAPER, trained_stages=0)
SQUEEZENET = 'tv_squeezenet1_1'
ARMS: Dict[str, Arm] = {
    'linear': Arm(RECIPES['linear']),
    'paper': Arm(PAPER),
    'laptop': Arm(LAPTOP),
    'lite': Arm(LAPTOP, 'res_squeezenet_lite'),
    'squeezenet laptop': Arm(LAPTOP, SQUEEZENET),
    'squeezenet': Arm(PAPER, SQUEEZENET),
    'squeezenet conv10': Arm(LAST_LAYER, SQUEEZENET),
    'random stage': Arm(PAPER, 'res_squeezenet_random_stage'),
    'uncached': Arm(PAPER, feature_cache=False),
    'conv10': Arm(LAST_LAYER),
    'conv10 uncached': Arm(LAST_LAYER, feature_cache=False),
}
DEFAULT_ARMS = 'linear,paper,laptop,squeezenet'
# Pairs whose difference is a claim of the paper's or of ours.
COMPARISONS: Tuple[Tuple[str, str], ...] = (
    ('laptop', 'paper'), ('laptop', 'linear'), ('lite', 'laptop'), ('lite', 'squeezenet laptop'),
    ('laptop', 'squeezenet laptop'), ('paper', 'squeezenet'), ('paper', 'squeezenet conv10'),
    ('paper', 'random stage'), ('uncached', 'paper'), ('conv10 uncached', 'conv10'))
# The default recipe with one thing changed.
CHANGES: Dict[str, Dict[str, Any]] = {
    'float32': dict(precision='32-true'),
    'batch statistics': dict(keep_statistics=False),
    'no linear start': dict(linear_start=False, classifier_factor=10),
    'trunk frozen': dict(trained_stages=1),
    'all trained': dict(trained_stages=None),
    'slower trunk': dict(stage_factor=0.5),
    'no augmentation': dict(augmentation='none'),
    'paper augmentation': dict(augmentation='paper'),
    'strong augmentation': dict(augmentation='strong'),
    'label smoothing': dict(label_smoothing=0.1),
    'pictures alike': dict(balance=0),
    'classes alike': dict(balance=1),
    'rate 1e-4': dict(learning_rate=1e-4),
    'rate 1e-3': dict(learning_rate=1e-3),
    'dropout': dict(drop_rate=0.5),
    'logit ReLU': dict(logit_relu=True),
    'held out': dict(held_out=0.15),
    '14 epochs': dict(epochs=14),
}
ARMS.update({name: Arm(dataclasses.replace(LAPTOP, **changes)) for name, changes in CHANGES.items()})
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


def write_samples(cells: Sequence[Cell], task: str, pictures: int, seed: int, sample: Path, others: Path) -> None:
    """Two CSV files of different cells, each class with its share: about `pictures`, and at most 0.7 times as many."""
    labels = np.array([cell.label(task) for cell in cells])
    rng = np.random.default_rng(seed)
    chosen: List[int] = []
    rest: List[int] = []
    for label in sorted(set(labels.tolist())):
        own = rng.permutation(np.flatnonzero(labels == label))
        share = len(own) / len(cells)
        first = round(share * pictures)
        chosen += own[:first].tolist()
        rest += own[first:first + round(0.7 * share * pictures)].tolist()
    for file, indices in ((sample, chosen), (others, rest)):
        write_rows(file, [('path', 'label'), *((cells[i].path, labels[i]) for i in sorted(indices))])


def _known(names: str, choices: Sequence[str]) -> List[str]:
    wanted = names.split(',')
    unknown = [name for name in wanted if name not in choices]
    if unknown:
        raise typer.BadParameter(f'{", ".join(unknown)}: choose of {", ".join(choices)}.')
    return wanted


def main(
        output: Annotated[Path, typer.Option(help='Folder of the run folders; kept, so that a run can go on.')],
        seeds: Annotated[int, typer.Option(min=1)] = 5,
        tasks: Annotated[str, typer.Option(help=f'Of {", ".join(TASKS)}.')] = 'defect,type',
        arms: Annotated[str, typer.Option(help=f'Of {", ".join(ARMS)}.')] = DEFAULT_ARMS,
        pictures: Annotated[
            int, typer.Option(help="As many as the paper's, training and validation.")] = PAPER_PICTURES,
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all figures here.', callback=in_existing_folder)] = None,
) -> None:
    """Compare recipes, networks and starts on real pictures, over several seeds."""
    chosen_tasks, chosen_arms = _known(tasks, list(TASKS)), _known(arms, list(ARMS))
    cells = load_cells()
    output.mkdir(parents=True, exist_ok=True)
    os.environ['RSQ_CACHE'] = str(output / 'cache')
    outcomes: Dict[str, List[Outcome]] = {task: [] for task in chosen_tasks}
    watch = LoadWatch()
    with progress_bar(len(chosen_tasks) * seeds * len(chosen_arms)) as advance:
        for task in chosen_tasks:
            for seed in range(seeds):
                sample, others = output / f'{task}-{seed}.csv', output / f'{task}-{seed}-others.csv'
                write_samples(cells, task, pictures, seed, sample, others)
                for name in in_turn(chosen_arms, seed):
                    advance(f'{task}, seed {seed}, {name}', 0)
                    outcomes[task].append(
                        run_arm(name, ARMS[name], str(sample), seed, output, watch, str(others)))
                    advance(f'{task}, seed {seed}, {name}', 1)
    print('\n\n'.join(_task_report(task, chosen_arms, of) for task, of in outcomes.items()))
    if json_file is not None:
        json_file.write_text(json.dumps({
            'environment': environment(), 'threads': torch.get_num_threads(), 'pictures': pictures,
            'recipes': {name: dataclasses.asdict(ARMS[name].recipe) for name in chosen_arms},
            'outcomes': {task: [dataclasses.asdict(o) for o in of] for task, of in outcomes.items()}}, indent=2) + '\n')


def _task_report(task: str, arms: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    by_arm = {arm: sorted((o for o in outcomes if o.arm == arm), key=lambda o: o.seed) for arm in arms}
    rows = [['arm', 'accuracy', 'mIoU', 'seconds']]
    for arm, of in by_arm.items():
        rows.append([
            arm, spread_text([100 * o.accuracy for o in of], 1), spread_text([o.mean_iou for o in of], 3),
            spread_text([o.seconds for o in of], 0)])
    differences = [['difference', 'accuracy, points', 'mIoU', 'time, ratio']]
    for a, b in (*COMPARISONS, *((change, 'laptop') for change in CHANGES)):
        if a in by_arm and b in by_arm:
            pairs = list(zip(by_arm[a], by_arm[b], strict=True))
            differences.append(_difference(f'{a} - {b}', pairs))
            learned = [pair for pair in pairs if not any(o.learned_nothing for o in pair)]
            if 1 < len(learned) < len(pairs):
                differences.append(_difference(f'the same, {len(learned)} seeds in which both learned', learned))
    some = next(iter(by_arm.values()))
    head = (
        f'**{task}** ({TASKS[task]}); {len(some)} seeds, each judged by {some[0].n} pictures; '
        f'{torch.get_num_threads()} threads; {HEAD}')
    return '\n\n'.join(filter(None, [
        head, markdown_table(rows), TAIL, markdown_table(differences), failures_text(outcomes), load_text(outcomes)]))


def _difference(name: str, pairs: Sequence[Tuple[Outcome, Outcome]]) -> List[str]:
    return [
        name, interval_text([100 * (x.accuracy - y.accuracy) for x, y in pairs], 1),
        interval_text([x.mean_iou - y.mean_iou for x, y in pairs], 3),
        interval_text([x.seconds / y.seconds for x, y in pairs], 2, sign='')]


if __name__ == '__main__':
    run(main)

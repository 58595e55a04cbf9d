"""The paper's Table 1 again: six networks through one recipe and one split, over several seeds.

    python benchmarks/table1.py --data food
    python benchmarks/table1.py --data photos/ --recipe laptop --seeds 3 --json table1.json --chart table1.png

SqueezeNet 1.1 and Res-SqueezeNet start from the weights that come with the package; the others are torchvision's and
need the network once. What is out of reach is left out and named, or with --random trained from random weights and
marked so. The networks of a seed follow each other in an order that rotates with the seed. A benchmark that was stopped
goes on where it was when the same command is given again.
"""
import dataclasses
import json
import math
import statistics
from pathlib import Path
from typing import Annotated, Any, Dict, List, Optional, Tuple

import torch
import torchvision_models  # noqa: F401  registers
import typer
from measuring import environment
from printing import in_existing_folder, markdown_table, progress_bar, run
from runs import HEAD, TAIL, Arm, Outcome, failures_text, in_turn, interval_text, load_text, run_arm, spread_text

from rsq_backbone.errors import UserError
from rsq_backbone.model_loading import load_model
from rsq_backbone.profiler.load import LoadWatch
from rsq_backbone.training.finetuning import choose_recipe

OURS = 'Res-SqueezeNet'
FLOOR = '{}, floor'


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the paper's Table 1: 292 pictures of food, MATLAB, Core i5 and GeForce MX130."""

    accuracy: float
    mean_iou: float
    seconds: float  # for all 292
    megabytes: float


NETWORKS: Dict[str, Tuple[str, Published]] = {
    'SqueezeNet': ('tv_squeezenet1_1', Published(0.8253, 0.5405, 8.127, 2.61)),
    'ShuffleNet': ('tv_shufflenet_v2_x1_0', Published(0.8493, 0.6388, 7.281, 3.25)),
    'GoogLeNet': ('tv_googlenet', Published(0.8801, 0.6735, 8.603, 21.3)),
    'ResNet18': ('tv_resnet18', Published(0.8733, 0.6463, 11.581, 39.77)),
    'MobileNetV2': ('tv_mobilenet_v2', Published(0.8767, 0.6884, 13.692, 25.2)),
    OURS: ('res_squeezenet', Published(0.8459, 0.6312, 8.460, 44.28)),
}
PUBLISHED_PICTURES = 292


def main(
        data: Annotated[str, typer.Option(help='food, synthetic, or what rsq finetune takes.')] = 'food',
        seeds: Annotated[int, typer.Option(min=1)] = 5,
        recipe: Annotated[str, typer.Option(help='paper or laptop, for all networks.')] = 'paper',
        output: Annotated[
            Path, typer.Option(help='Folder of the runs; kept, so that a benchmark can go on.')] = Path('table1'),
        random: Annotated[bool, typer.Option(
            '--random', help='Train networks whose weights are out of reach from random ones, marked so.')] = False,
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all figures here.', callback=in_existing_folder)] = None,
        chart: Annotated[
            Optional[Path], typer.Option(help='Draw accuracy over time here.', callback=in_existing_folder)] = None,
) -> None:
    """Compare the paper's six networks on one data set."""
    arms: Dict[str, Arm] = {}
    left_out = []
    for name, (model, _) in NETWORKS.items():
        try:
            load_model(model, pretrained=True)
        except UserError as e:
            if not random:
                left_out.append(f'{name} is left out: {e}')
                continue
            arms[f'{name} (random weights)'] = Arm(choose_recipe(recipe), model, pretrained=False)
        else:
            arms[name] = Arm(choose_recipe(recipe), model)
            arms[FLOOR.format(name)] = Arm(choose_recipe('linear'), model)
    output.mkdir(parents=True, exist_ok=True)
    names = list(arms)
    outcomes: List[Outcome] = []
    watch = LoadWatch()
    with progress_bar(seeds * len(arms)) as advance:
        for seed in range(seeds):
            for name in in_turn(names, seed):
                advance(f'seed {seed}, {name}', 0)
                outcomes.append(run_arm(f'{recipe} {name}', arms[name], data, seed, output, watch))
                advance(f'seed {seed}, {name}', 1)
    by_network = {
        name: sorted((o for o in outcomes if o.arm == f'{recipe} {name}'), key=lambda o: o.seed) for name in names}
    print(_report(data, recipe, by_network))
    print('\n'.join(['', *left_out, failures_text(outcomes), load_text(outcomes)]).rstrip())
    if chart is not None:
        draw(by_network, chart)
    if json_file is not None:
        json_file.write_text(json.dumps({
            'environment': environment(), 'threads': torch.get_num_threads(), 'data': data,
            'recipe': dataclasses.asdict(choose_recipe(recipe)), 'left_out': left_out,
            'outcomes': {name: [dataclasses.asdict(o) for o in of] for name, of in by_network.items()},
            'published': {name: dataclasses.asdict(row) for name, (_, row) in NETWORKS.items()}}, indent=2) + '\n')


def _report(data: str, recipe: str, by_network: Dict[str, List[Outcome]]) -> str:
    rows = [['network', 'accuracy, %', 'mIoU', 'floor: accuracy, mIoU', 'inference, s', 'file, MB',
             'paper: accuracy, mIoU', 'inference, s', 'file, MB']]
    differences = [[f'difference to {OURS}', 'accuracy, points', 'mIoU', 'inference time, ratio']]
    ours = by_network[OURS]
    for name, of in by_network.items():
        if name.endswith(FLOOR.format('')):
            continue
        floor = by_network.get(FLOOR.format(name))
        published = NETWORKS[name.split(' (')[0]][1]
        rows.append([
            name, spread_text([100 * o.accuracy for o in of], 1), spread_text([o.mean_iou for o in of], 3),
            f'{statistics.fmean(100 * o.accuracy for o in floor):.1f}, '
            f'{statistics.fmean(o.mean_iou for o in floor):.3f}' if floor else '',
            spread_text([o.judging_seconds for o in of], 2), f'{of[0].file_bytes / 1e6:.2f}',
            f'{100 * published.accuracy:.1f}, {published.mean_iou:.3f}', f'{published.seconds:.2f}',
            f'{published.megabytes:.2f}'])
        if name != OURS:
            pairs = list(zip(of, ours, strict=True))
            differences.append([
                name, interval_text([100 * (a.accuracy - b.accuracy) for a, b in pairs], 1),
                interval_text([a.mean_iou - b.mean_iou for a, b in pairs], 3),
                interval_text([a.judging_seconds / b.judging_seconds for a, b in pairs], 2, sign='')])
    head = (
        f'**{data}**, recipe `{recipe}`; {len(ours)} seeds, {ours[0].n} validation pictures each; '
        f'{torch.get_num_threads()} threads, float32, batches of 16; {HEAD}. The floor is a logistic regression on the '
        "same network's pretrained features. The paper's figures: food, MATLAB, Core i5 and GeForce MX130.")
    return '\n\n'.join([head, markdown_table(rows), TAIL, markdown_table(differences)])


def draw(by_network: Dict[str, List[Outcome]], path: Path) -> None:
    """Accuracy over inference time, the area being the file's size; beside it the same from the paper's figures."""
    from matplotlib.figure import Figure

    measured = {
        name: (1000 * statistics.fmean(o.judging_seconds for o in of) / of[0].validation_pictures,
               100 * statistics.fmean(o.accuracy for o in of), of[0].file_bytes / 1e6)
        for name, of in by_network.items() if not name.endswith(FLOOR.format(''))}
    published = {
        name: (1000 * row.seconds / PUBLISHED_PICTURES, 100 * row.accuracy, row.megabytes)
        for name, (_, row) in NETWORKS.items()}
    figure = Figure(figsize=(11, 4.6), layout='constrained')
    axes: Any = figure.subplots(1, 2)
    for ax, title, bubbles in zip(axes, ('measured here', "the paper's Table 1"), (measured, published), strict=True):
        for name, (milliseconds, accuracy, megabytes) in bubbles.items():
            ax.scatter(
                milliseconds, accuracy, s=30 * megabytes, alpha=0.6, linewidths=1, edgecolors='white',
                color='tab:red' if name == OURS else 'tab:blue')
            ax.annotate(f'{name}\n{megabytes:.1f} MB', (milliseconds, accuracy), ha='center', va='center', fontsize=8)
        times, accuracies, _ = zip(*bubbles.values(), strict=True)
        ax.set_xlim(*_around(times))
        ax.set_ylim(*_around(accuracies))
        ax.set(title=title, xlabel='inference, ms a picture', ylabel='accuracy, %')
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _around(values: Tuple[float, ...]) -> Tuple[float, float]:
    """Limits with room for the bubbles."""
    low, high = min(values), max(values)
    margin = 0.3 * (high - low) or 0.1 * math.fabs(high) or 1.0
    return low - margin, high + margin


if __name__ == '__main__':
    run(main)

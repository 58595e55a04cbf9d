"""The segmentation demos on real pictures: four decoders, each on the same budget with four encoders.

    RSQ_DATA=... python benchmarks/segmentation.py --output segmentation/ --json segmentation.json
    RSQ_DATA=... python benchmarks/segmentation.py --output segmentation/ --architectures unet --seeds 3 --epochs 10

RSQ_DATA names a folder that holds nuclei/: 90 training and 30 validation microscopy pictures of the 2018 Data Science
Bowl, with masks of two classes. Encoders:

    imagenet       res_squeezenet from its ImageNet start
    random         res_squeezenet from random weights
    resnet18       smp's, from random weights: without a network its ImageNet weights are out of reach
    mobilenet_v2   the same

Each run is a process of its own, so that its peak memory is its own. The arms of a seed follow each other in an order
that rotates with the seed. At inference the networks of a decoder take turns (measuring.interleaved_rounds) on one
picture of 256 x 256 pixels. A benchmark that was stopped goes on where it was when the same command is given again.

Trainings use a core better alone than in pairs. With two cores, half of them on each, then the table of all:

    export OMP_NUM_THREADS=1
    taskset -c 0 python benchmarks/segmentation.py --output segmentation/ --architectures unet,pspnet &
    taskset -c 1 python benchmarks/segmentation.py --output segmentation/ --architectures deeplab,segnet
    wait; OMP_NUM_THREADS=2 python benchmarks/segmentation.py --output segmentation/
"""
import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Dict, List, Optional, Sequence, Tuple

import torch
import typer
from measuring import NO_PEAK_MEMORY, environment, interleaved_rounds, peak_memory, set_threads, warm_up
from printing import in_existing_folder, markdown_table, progress_bar, run
from real_data import data_folder
from runs import HEAD, TAIL, in_turn, interval_text, load_text, spread_text

from rsq_backbone.files import write_text
from rsq_backbone.profiler.load import LoadWatch
from rsq_backbone.profiler.statistics import median_interval
from seg_demos.recipe import SegmentationRecipe
from seg_demos.training import train

ARCHITECTURES = ('unet', 'deeplab', 'pspnet', 'segnet')
ENCODERS: Dict[str, Tuple[str, Optional[str]]] = {
    'imagenet': ('res_squeezenet', 'imagenet'),
    'random': ('res_squeezenet', None),
    'resnet18': ('resnet18', None),
    'mobilenet_v2': ('mobilenet_v2', None),
}
COMPARISONS = (('imagenet', 'random'), ('imagenet', 'resnet18'), ('random', 'resnet18'), ('random', 'mobilenet_v2'))
SIDE = 256
ROUNDS = 11


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One training run."""

    architecture: str
    arm: str
    seed: int
    mean_iou: float
    epochs_mean_iou: Tuple[float, ...]
    seconds: float  # of the whole run
    training_seconds: float  # of them, for the epochs, the watching of the validation pictures included
    crops_per_second: float
    parameters: int
    peak_bytes: int
    threads: int
    foreign_cores: Optional[float]


@dataclasses.dataclass(frozen=True)
class Inference:
    """One network on one picture."""

    architecture: str
    arm: str
    seconds: Tuple[float, ...]  # a round
    peak_bytes: int


def nuclei() -> Path:
    return data_folder('nuclei')


def build(architecture: str, arm: str) -> torch.nn.Module:
    network: torch.nn.Module = import_module(f'seg_demos.{architecture}').build(*ENCODERS[arm], 2)
    return network.eval().to(memory_format=torch.channels_last)


def train_one(architecture: str, arm: str, seed: int, epochs: int, threads: int, output: str, name: str) -> None:
    set_threads(threads)
    build_network = import_module(f'seg_demos.{architecture}').build
    train(
        architecture, build_network, str(nuclei()), SegmentationRecipe(epochs=epochs), *ENCODERS[arm], seed=seed,
        output=output, name=name, overwrite=True)


def run_arm(
        architecture: str, arm: str, seed: int, epochs: int, output: Path, watch: LoadWatch) -> Outcome:
    """The outcome of a run, from the note of an earlier call if there is one."""
    name = f'{architecture}-{arm}-{epochs}-epochs-{seed}'
    note = output / f'{name}.json'
    if note.exists():
        return Outcome(**json.loads(note.read_text(encoding='utf-8')))
    watch.lap()
    peak = peak_memory(train_one, architecture, arm, seed, epochs, torch.get_num_threads(), str(output), name)
    foreign = watch.lap().foreign_cores
    metrics = json.loads((output / name / 'metrics.json').read_text(encoding='utf-8'))
    recipe = metrics['recipe']
    epoch_seconds = sum(epoch['seconds'] for epoch in metrics['epochs'])
    outcome = Outcome(
        architecture, arm, seed, metrics['metrics']['mean_iou'],
        tuple(epoch['monitor_mean_iou'] for epoch in metrics['epochs']), metrics['seconds']['total'], epoch_seconds,
        len(metrics['iterations']) * recipe['batch_size'] / epoch_seconds, metrics['parameters'], peak,
        torch.get_num_threads(), foreign)
    write_text(note, json.dumps(dataclasses.asdict(outcome)) + '\n')
    (output / name / 'model.safetensors').unlink()  # 40 MB each
    return outcome


def infer_once(architecture: str, arm: str, threads: int) -> None:
    set_threads(threads)
    with torch.inference_mode():
        build(architecture, arm)(picture())


def picture() -> torch.Tensor:
    return torch.rand(1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def measure_inference(architecture: str, arms: Sequence[str], advance: Any) -> List[Inference]:
    x = picture()
    networks = {arm: build(architecture, arm) for arm in arms if arm != 'imagenet'}  # its weights cost no time
    calls = {arm: (lambda network=network: network(x)) for arm, network in networks.items()}
    per_call = {arm: warm_up(call).seconds_per_call for arm, call in calls.items()}
    samples = interleaved_rounds(calls, per_call, ROUNDS, 0, advance)
    return [
        Inference(architecture, arm, tuple(samples[arm]),
                  0 if NO_PEAK_MEMORY else peak_memory(infer_once, architecture, arm, torch.get_num_threads()))
        for arm in calls]


def main(
        output: Annotated[Path, typer.Option(help='Folder of the run folders; kept, so that a run can go on.')],
        architectures: Annotated[str, typer.Option(help=f'Of {", ".join(ARCHITECTURES)}.')] = ','.join(ARCHITECTURES),
        arms: Annotated[str, typer.Option(help=f'Of {", ".join(ENCODERS)}.')] = ','.join(ENCODERS),
        seeds: Annotated[int, typer.Option(min=1)] = 1,
        epochs: Annotated[int, typer.Option(min=1)] = 5,
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all figures here.', callback=in_existing_folder)] = None,
) -> None:
    """Compare encoders under the segmentation demos on real pictures."""
    wanted, chosen = architectures.split(','), arms.split(',')
    for names, choices in ((wanted, ARCHITECTURES), (chosen, tuple(ENCODERS))):
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise typer.BadParameter(f'{", ".join(unknown)}: choose of {", ".join(choices)}.')
    nuclei()
    output.mkdir(parents=True, exist_ok=True)
    outcomes: List[Outcome] = []
    inferences: List[Inference] = []
    watch = LoadWatch()
    with progress_bar(len(wanted) * (seeds * len(chosen) + 1)) as advance:
        for architecture in wanted:
            for seed in range(seeds):
                for arm in in_turn(chosen, seed):
                    advance(f'{architecture}, seed {seed}, {arm}', 0)
                    outcomes.append(run_arm(architecture, arm, seed, epochs, output, watch))
                    advance(f'{architecture}, seed {seed}, {arm}', 1)
            inferences += measure_inference(architecture, chosen, lambda: None)
            advance(f'{architecture}, inference', 1)
    print('\n\n'.join(_report(name, chosen, epochs, outcomes, inferences) for name in wanted))
    if json_file is not None:
        json_file.write_text(json.dumps({
            'environment': environment(), 'threads': torch.get_num_threads(), 'epochs': epochs,
            'outcomes': [dataclasses.asdict(o) for o in outcomes],
            'inference': [dataclasses.asdict(i) for i in inferences]}, indent=2) + '\n')


def _report(
        architecture: str, arms: Sequence[str], epochs: int, outcomes: Sequence[Outcome],
        inferences: Sequence[Inference],
) -> str:
    by_arm = {arm: sorted((o for o in outcomes if (o.architecture, o.arm) == (architecture, arm)), key=lambda o: o.seed)
              for arm in arms}
    inference = {i.arm: i for i in inferences if i.architecture == architecture}
    inference |= {'imagenet': inference['random']} if 'random' in inference else {}
    rows = [[
        'encoder', 'start', 'parameters, M', 'mIoU', 'training, s', 'crops/s', 'peak, MB', 'pictures/s', 'peak, MB']]
    for arm, of in by_arm.items():
        measured = inference.get(arm)
        encoder, weights = ENCODERS[arm]
        rows.append([
            encoder, weights or 'random', f'{of[0].parameters / 1e6:.2f}', spread_text([o.mean_iou for o in of], 3),
            spread_text([o.seconds for o in of], 0), spread_text([o.crops_per_second for o in of], 1),
            f'{max(o.peak_bytes for o in of) / 1e6:.0f}',
            f'{1 / median_interval(measured.seconds).median:.1f}' if measured else '-',
            f'{measured.peak_bytes / 1e6:.0f}' if measured else '-'])
    differences = [['difference', 'mIoU', 'time of a run, ratio', 'time of inference, ratio']]
    for a, b in COMPARISONS:
        if a in by_arm and b in by_arm:
            pairs = list(zip(by_arm[a], by_arm[b], strict=True))
            differences.append([
                f'{a} - {b}', interval_text([x.mean_iou - y.mean_iou for x, y in pairs], 3),
                interval_text([x.seconds / y.seconds for x, y in pairs], 2, sign=''),
                str(median_interval([x / y for x, y in zip(inference[a].seconds, inference[b].seconds, strict=True)]))
                if a in inference and b in inference and inference[a] is not inference[b] else '-'])
    threads = ' or '.join(sorted({str(o.threads) for of in by_arm.values() for o in of}))
    head = (f'**{architecture}**: {epochs} epochs, {len(by_arm[arms[0]])} seeds, {threads} threads; inference of one '
            f'{SIDE} x {SIDE} picture, {ROUNDS} rounds, {torch.get_num_threads()} threads; {HEAD}')
    return '\n\n'.join(filter(None, [
        head, markdown_table(rows), TAIL, markdown_table(differences),
        load_text([o for of in by_arm.values() for o in of])]))


if __name__ == '__main__':
    run(main)

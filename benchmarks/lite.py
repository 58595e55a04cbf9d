"""Is res_squeezenet_lite as fast as SqueezeNet 1.1, whose trunk it shares?

    python benchmarks/lite.py --json lite.json

In each runtime the three networks take turns on one thread, with the head of ImageNet's 1000 classes and with one of
nine; the ratio is that of the rounds in which they took their turns together. Six minutes on two cores.
"""
import dataclasses
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Callable, Dict, List, Optional

import timm
import torch.nn as nn
import torchvision
import typer
from measuring import environment
from networks import LITE, OURS, Case, subjects
from printing import in_existing_folder, markdown_table, progress_bar, run

from rsq_backbone.machine import machine
from rsq_backbone.profiler.measure import profile
from rsq_backbone.profiler.session import Plan
from rsq_backbone.profiler.statistics import Interval, paired_ratio
from rsq_backbone.profiler.summary import disturbances

SQUEEZENET = 'squeezenet1_1'
NETWORKS: Dict[str, Callable[[int], nn.Module]] = {
    SQUEEZENET: lambda classes: torchvision.models.squeezenet1_1(weights=None, num_classes=classes),
    LITE: lambda classes: timm.create_model(LITE, num_classes=classes),
    OURS: lambda classes: timm.create_model(OURS, num_classes=classes),
}
RUNTIMES = ('eager', 'compile', 'onnxruntime', 'openvino', 'openvino-bf16')
GOAL = 1.2  # of the lite network's time over SqueezeNet's, at most
PLAN = Plan(seconds=3, samples=64, rounds=12, limit=20)


@dataclasses.dataclass(frozen=True)
class Row:
    classes: int
    runtime: str
    milliseconds: Dict[str, float]  # medians, by network
    calls: Dict[str, int]  # that the medians are of, by network
    ratios: Dict[str, Interval]  # to SqueezeNet's
    verdict: str  # whether the lite network meets the goal


def measure(classes: int, runtime: str, notes: List[str]) -> Row:
    cases = {name: Case(name, partial(build, classes), 227) for name, build in NETWORKS.items()}
    with TemporaryDirectory() as folder:
        found = profile(subjects(cases, Path(folder)), runtimes=[runtime], threads=[1], plan=PLAN)
    notes += disturbances(found)
    latencies = {result.case.model: result.latency for result in found.cases if result.latency}
    ratios = {
        name: paired_ratio(latency.rounds, latencies[SQUEEZENET].rounds) for name, latency in latencies.items()}
    high = ratios[LITE].high
    verdict = 'undecided' if high is None else 'met' if high <= GOAL else 'missed'
    return Row(classes, runtime, {
        name: 1e3 * latency.p50.value for name, latency in latencies.items() if latency.p50}, {
        name: len(latency.samples) for name, latency in latencies.items()}, ratios, verdict)


def main(
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all figures here.', callback=in_existing_folder)] = None,
) -> None:
    """Measure the lite network beside SqueezeNet 1.1 in every runtime."""
    rows: List[Row] = []
    notes: List[str] = []
    plans = [(classes, runtime) for classes in (1000, 9) for runtime in RUNTIMES]
    with progress_bar(len(plans)) as advance:
        for classes, runtime in plans:
            advance(f'{classes} classes, {runtime}', 0)
            rows.append(measure(classes, runtime, notes))
            advance(f'{classes} classes, {runtime}', 1)
    print(markdown_table([
        ['classes', 'runtime', f'{SQUEEZENET}, ms', f'{LITE}, ms', f'{OURS}, ms', f'{LITE} / {SQUEEZENET}',
         f'goal <= {GOAL}'],
        *([str(row.classes), row.runtime, *(f'{row.milliseconds[name]:.2f}' for name in NETWORKS),
           str(row.ratios[LITE]), row.verdict] for row in rows)]))
    calls = [count for row in rows for count in row.calls.values()]
    print(f'\n{machine()["cpu"]}, 1 thread; medians of {min(calls)} to {max(calls)} calls; ratios: median of the '
          'rounds with its 95 % interval.')
    print('\n'.join(dict.fromkeys(notes)))
    if json_file is not None:
        json_file.write_text(json.dumps({
            'environment': environment(), 'rows': [dataclasses.asdict(row) for row in rows], 'notes': notes},
            indent=2) + '\n')


if __name__ == '__main__':
    run(main)

"""Fine-tuning runs that benchmarks compare: kept one by one, so that a stopped benchmark goes on where it was."""
import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Optional, Sequence, Tuple

import numpy as np
from scipy.stats import t as student

from rsq_backbone.cache_folder import cache_folder
from rsq_backbone.evaluation import evaluate
from rsq_backbone.files import write_text
from rsq_backbone.metrics import classification_metrics
from rsq_backbone.profiler.load import FOREIGN_CORES_NOTICED, LoadWatch
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import Recipe

HEAD = 'mean (least .. largest)'
TAIL = 'Differences on the same pictures: mean [95 % interval, Student]; an interval across 0 is no difference.'


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train that is compared with others."""

    recipe: Recipe
    model: str = 'res_squeezenet'
    pretrained: bool = True
    feature_cache: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run of one arm."""

    arm: str
    seed: int
    accuracy: float
    mean_iou: float
    n: int  # pictures that it was judged by
    seconds: float  # of the whole run
    judging_seconds: float  # of them, for its validation pictures
    validation_pictures: int
    file_bytes: int
    parameters: int
    learned_nothing: bool  # every picture is taken for the same class
    foreign_cores: Optional[float]


def run_arm(
        name: str, arm: Arm, source: str, seed: int, output: Path, watch: LoadWatch,
        others: Optional[str] = None,
) -> Outcome:
    """The outcome of a run, from the note of an earlier call if there is one.

    Kept features are removed before the run (RSQ_CACHE names their folder): what other arms left would make this one
    look faster. Data sets in that folder stay.

    Args:
        name: Of the arm.
        arm: What to run.
        source: As `finetune` takes it.
        seed: Of the split and the run.
        output: Folder of the runs and their notes.
        watch: Tells what else the machine did.
        others: More pictures to judge by, after the time has been taken.
    """
    folder = f'{Path(source).stem}-{seed}-{name.replace(" ", "-")}'
    note = output / f'{folder}.json'
    if note.exists():
        return Outcome(**json.loads(note.read_text(encoding='utf-8')))
    shutil.rmtree(cache_folder() / 'arrays', ignore_errors=True)
    watch.lap()
    result = finetune(
        source, arm.recipe, arm.model, pretrained=arm.pretrained, seed=seed, output=output, name=folder,
        feature_cache=arm.feature_cache, overwrite=True)
    foreign = watch.lap().foreign_cores
    metrics = result.metrics
    if others is not None:
        more = evaluate(output / folder, others).metrics
        metrics = classification_metrics(np.add(metrics.confusion_matrix, more.confusion_matrix), result.data.classes)
    outcome = Outcome(
        name, seed, metrics.accuracy, metrics.mean_iou, metrics.n, result.seconds['total'],
        result.seconds['evaluation'], result.metrics.n, result.file_bytes, result.parameters,
        metrics.only_prediction is not None, foreign)
    write_text(note, json.dumps(dataclasses.asdict(outcome)) + '\n')
    (output / folder / 'model.safetensors').unlink()  # 42 MB each
    return outcome


def in_turn(arms: Sequence[str], seed: int) -> Sequence[str]:
    """All arms in an order that rotates with the seed, so that the machine's mood favours none."""
    shift = seed % len(arms)
    return [*arms[shift:], *arms[:shift]]


def mean_interval(values: Sequence[float]) -> Tuple[float, float, float]:
    """Mean with Student's 95 % interval; of no use below three values."""
    mean = statistics.fmean(values)
    if len(values) < 3:
        return mean, float('-inf'), float('inf')
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def spread_text(values: Sequence[float], digits: int) -> str:
    return f'{statistics.fmean(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})'


def interval_text(values: Sequence[float], digits: int, sign: str = '+') -> str:
    mean, low, high = mean_interval(values)
    if len(values) < 3:
        return f'{mean:{sign}.{digits}f} (no interval, n = {len(values)})'
    return f'{mean:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]'


def failures_text(outcomes: Sequence[Outcome]) -> str:
    """Which runs learned nothing, or nothing."""
    failed = [f'{o.arm} {o.seed}' for o in outcomes if o.learned_nothing]
    return f'Learned nothing, one class for every picture (arm, seed): {", ".join(failed)}.' if failed else ''


def load_text(outcomes: Sequence[Outcome]) -> str:
    """Which runs were disturbed, or nothing."""
    busy = [f'{o.arm} {o.seed}' for o in outcomes if (o.foreign_cores or 0) > FOREIGN_CORES_NOTICED]
    return f'Other processes were busy during: {", ".join(busy)}.' if busy else ''

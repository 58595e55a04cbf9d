"""From a trained network to the fastest artifact that keeps its accuracy."""
import dataclasses
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

import rsq_backbone
from rsq_backbone.deploy.artifact import check_target, write_artifact
from rsq_backbone.deploy.classifier import DeployableClassifier
from rsq_backbone.deploy.conversion import (
    PRECISIONS,
    TARGETS,
    Conversion,
    Converted,
    check_available,
    precisions_of,
)
from rsq_backbone.deploy.deployable import Deployable
from rsq_backbone.deploy.loader import Artifact, ArtifactError, load
from rsq_backbone.deploy.measuring import Speed, measure
from rsq_backbone.errors import UserError
from rsq_backbone.machine import machine, versions
from rsq_backbone.profiler.cores import usable_cores
from rsq_backbone.profiler.session import Plan
from rsq_backbone.progress import Progress, silent
from rsq_backbone.runtimes.eager import pytorch_threads
from rsq_backbone.training.run_folder import RunFolder

__all__ = ['Candidate', 'Deployment', 'deploy']

# What is tried where the user has no wish, the most exact first.
_CANDIDATES = (
    ('onnx', 'fp32'), ('openvino', 'fp32'), ('openvino', 'fp16'), ('openvino', 'bf16'), ('onnx', 'int8'),
    ('openvino', 'int8'))
_PLAN = Plan(seconds=3, samples=64, rounds=12, limit=15)
# Two sets of float32 kernels through some thirty convolutions; of the largest logit.
_FLOAT32_TOLERANCE = 1e-3
_METRICS = {'accuracy': 'accuracy', 'mean_iou': 'mean IoU'}


@dataclass(frozen=True)
class Candidate:
    """One way to run the network, with what was found of it."""

    target: str
    precision: str
    careful: bool  # of int8: the classifier, the last layer with weights, stays in float32
    status: str  # 'sound', 'loses too much', 'differs' (of fp32: from PyTorch) or 'not available'
    message: str = ''
    bytes: Optional[int] = None  # of the network's files
    score: Optional[float] = None  # by the deployment's metric
    drop: Optional[float] = None  # of the score, in points; negative for a gain
    same_classes: Optional[float] = None  # share of the pictures, or pixels, that get the class which PyTorch gives
    max_abs_difference: Optional[float] = None  # of logits, from PyTorch's of the same inputs
    largest_logit: Optional[float] = None
    speed: Speed = dataclasses.field(default_factory=Speed)

    @property
    def name(self) -> str:
        return f'{self.target} {self.precision}{", careful" if self.careful else ""}'


@dataclass(frozen=True)
class Deployment:
    folder: str
    task: str  # 'classification' or 'segmentation'
    model: str
    classes: Tuple[str, ...]
    input_size: Tuple[int, int]  # height and width that the times are of
    pictures: int  # that the promise was judged by
    data: str  # where they came from
    calibration: int  # pictures
    max_drop: float  # points
    threads: int
    metric: str  # 'accuracy' or 'mean_iou'
    score: float  # of PyTorch in float32
    eager: Speed  # of PyTorch
    bytes: int  # of the run's weights
    candidates: Tuple[Candidate, ...]
    chosen: Candidate
    notes: Tuple[str, ...]
    machine: Dict[str, Any]
    versions: Dict[str, str]


def deploy(
        run: Union[str, Path], data: Optional[str] = None, *, target: Optional[str] = None,
        precision: Optional[str] = None, calibration: Union[str, Path, None] = None, max_drop: float = 1.0,
        threads: Optional[int] = None, output: Union[str, Path, None] = None, overwrite: bool = False,
        plan: Plan = _PLAN, progress: Progress = silent,
) -> Deployment:
    """Convert a run's network, see what each conversion computes and how fast, and write the best as an artifact.

    The best is the fastest that loses at most `max_drop` points of accuracy, or of mean IoU, on pictures that the
    network did not learn from. What loses more gives way to the same target in the next higher precision.

    Args:
        run: Folder of `finetune` or of a segmentation demo.
        data: Pictures with classes, as `evaluate` takes them, or with masks, as the demos take them; by default the
            run's own validation pictures.
        target: A name of TARGETS; by default what is fastest of ONNX and OpenVINO.
        precision: 'fp32', 'fp16', 'bf16' or 'int8'; by default whatever is fastest.
        calibration: Folder of pictures for int8; by default those that the run was trained on.
        max_drop: Points that may be lost.
        threads: To run with; by default as many as there are cores to use.
        output: The artifact's folder; by default the run's name with '-artifact'.
        overwrite: Replace an artifact that is there.
        plan: How long each candidate is measured.
        progress: Told how far the work is.

    Raises:
        UserError: if the run, the pictures or the wishes cannot be used, or nothing keeps the promise.
    """
    folder = RunFolder(Path(run))
    run_folder = folder.path if folder.path.name else folder.path.resolve()  # of `.` too
    place = Path(output) if output is not None else run_folder.with_name(f'{run_folder.name}-artifact')
    place = place if place.name else place.resolve()
    check_target(place, overwrite)
    wanted = _wanted(target, precision)
    deployable = _deployable(folder, data, target, progress)
    notes = list(deployable.notes)
    pictures: Optional[np.ndarray] = None
    if any(one[1] == 'int8' for one in wanted):
        try:
            pictures = deployable.calibration_set(None if calibration is None else Path(calibration), progress)
        except UserError as e:
            if precision == 'int8' or calibration is not None:
                raise
            notes.append(str(e))
    count = threads or usable_cores()
    with TemporaryDirectory(prefix='rsq-deploy-') as temporary, pytorch_threads(count):
        trial = _Trial(deployable, Path(temporary), pictures, max_drop, count, progress)
        candidates = trial.candidates(wanted)
        while precision not in (None, 'fp32') and not any(one.status == 'sound' for one in candidates):
            lower = [one for one in PRECISIONS[:PRECISIONS.index(str(precision))]
                     if target is None or one in precisions_of(target)][-1]
            notes.append(f'{precision} is not to be had here; {lower} takes its place.')
            precision = lower
            candidates += trial.candidates(_wanted(target, precision))
        _refuse_none(candidates, deployable.metric, max_drop)
        files = {one.name: (one.target, one.precision, trial.converted[one.name].files)
                 for one in candidates if one.status == 'sound'}
        eager, speeds = measure(
            folder.path, files, deployable.config['task'], deployable.size, count, Path(temporary), plan, progress)
        candidates = [dataclasses.replace(one, speed=speeds.get(one.name, Speed())) for one in candidates]
        chosen = min(
            (one for one in candidates if one.status == 'sound'),
            key=lambda one: float('inf') if one.speed.p50 is None else one.speed.p50)
        result = Deployment(
            folder=str(place), task=deployable.config['task'], model=deployable.config['model'],
            classes=tuple(deployable.config['classes']), input_size=deployable.size, pictures=deployable.pictures,
            data=deployable.data, calibration=0 if pictures is None else len(pictures), max_drop=max_drop,
            threads=count, metric=deployable.metric, score=trial.score, eager=eager,
            bytes=folder.weights.stat().st_size, candidates=tuple(candidates), chosen=chosen, notes=tuple(notes),
            machine=machine(), versions=versions())
        converted = trial.converted[chosen.name]
        write_artifact(
            place, converted.files, _whole_config(result, deployable.config, converted, folder), overwrite)
    return result


def _wanted(target: Optional[str], precision: Optional[str]) -> List[Tuple[str, str]]:
    """What to try.

    Raises:
        UserError: if nothing is like that, or the one thing wished for lacks a package.
    """
    if target is None:
        pairs = [one for one in _CANDIDATES if precision in (None, one[1])]
        if not pairs:
            raise UserError(f'unknown precision {precision!r}; choose of {", ".join(PRECISIONS)}.')
        return pairs
    offered = precisions_of(target) if precision is None else (precision,)
    if len(offered) == 1:
        check_available(target, offered[0])
    return [(target, one) for one in offered]


def _deployable(folder: RunFolder, data: Optional[str], target: Optional[str], progress: Progress) -> Deployable:
    folder.timm_name()  # says what is missing
    try:
        config = json.loads(folder.config.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        config = None  # which loading the network describes better
    if isinstance(config, dict) and '_model_class' in config:
        if target == 'ncnn':
            raise UserError(
                'ncnn files are of one size of picture, and segmentation networks take any; choose --target onnx or '
                'openvino.')
        # The demos stand on this package, and only a run of theirs needs them.
        from seg_demos.deployable import DeployableSegmentation

        return DeployableSegmentation(folder, data, progress)
    return DeployableClassifier(folder, data, progress)


class _Trial:
    """Makes candidates, and compares what their artifacts compute with what PyTorch does."""

    def __init__(
            self, deployable: Deployable, work: Path, calibration: Optional[np.ndarray], max_drop: float, threads: int,
            progress: Progress,
    ) -> None:
        self._deployable = deployable
        self._conversion = Conversion(
            deployable.convertible, deployable.size, work, deployable.config['size_multiple'])
        self._calibration = calibration
        self._max_drop = max_drop
        self._threads = threads
        self._progress = progress
        self.score = float('nan')  # PyTorch's
        self.converted: Dict[str, Converted] = {}  # by the candidate's name

    def candidates(self, wanted: Sequence[Tuple[str, str]]) -> List[Candidate]:
        """In the order wished for; int8 that loses too much is followed by a more careful one."""
        first = self._compared([Candidate(target, precision, False, 'sound') for target, precision in wanted])
        again = self._compared([
            Candidate(one.target, one.precision, True, 'sound') for one in first
            if one.precision == 'int8' and one.status == 'loses too much'])
        return [two for one in first for two in (one, *(
            careful for careful in again if (careful.target, careful.precision) == (one.target, one.precision)))]

    def _compared(self, candidates: Sequence[Candidate]) -> List[Candidate]:
        artifacts: Dict[str, Artifact] = {}
        failed: Dict[str, Exception] = {}
        for one in candidates:
            try:
                artifacts[one.name] = self._artifact(one)
            except (UserError, ArtifactError) as e:
                failed[one.name] = e
        if artifacts:
            comparison = self._deployable.compare(artifacts, self._progress)
            self.score = comparison.score
        found: List[Candidate] = []
        for one in candidates:
            outcome = failed.get(one.name) or comparison.outcomes[one.name]
            if isinstance(outcome, Exception):
                found.append(dataclasses.replace(one, status='not available', message=str(outcome)))
                continue
            drop = round(100 * (self.score - outcome.score), 9)  # one picture of a hundred is one point, and no more
            status, message = 'sound', ''
            if one.precision == 'fp32' and (
                    outcome.max_abs_difference > _FLOAT32_TOLERANCE * max(outcome.largest_logit, 1.0)):
                status = 'differs'
                message = f'logits differ from those of PyTorch by up to {outcome.max_abs_difference:.2g}'
            elif drop > self._max_drop:
                status, message = 'loses too much', f'{drop:.1f} points, and {self._max_drop:g} may be lost'
            files = self.converted[one.name].files
            found.append(dataclasses.replace(
                one, status=status, message=message, bytes=sum(file.stat().st_size for file in files), drop=drop,
                **dataclasses.asdict(outcome)))
        return found

    def _artifact(self, candidate: Candidate) -> Artifact:
        """As whoever loads it will have it."""
        target, precision = candidate.target, candidate.precision
        check_available(target, precision)
        if precision in ('fp16', 'bf16'):
            from rsq_backbone.runtimes.openvino import computes  # the target of both

            if not computes({'fp16': 'f16', 'bf16': 'bf16'}[precision]):
                raise UserError(f'this processor does not compute in {precision}')
        self._progress(f'converting to {candidate.name}', 0, None)
        converted = self._conversion.convert(target, precision, self._calibration, candidate.careful)
        self.converted[candidate.name] = converted
        folder = converted.files[0].parent.with_name(f'{converted.files[0].parent.name}-artifact')
        write_artifact(folder, converted.files, {
            **self._deployable.config, **_conversion_config(target, precision, converted)})
        return load(folder, self._threads, allow_code=True)  # it was written a moment ago


def _conversion_config(target: str, precision: str, converted: Converted) -> Dict[str, Any]:
    package = TARGETS[target].runtime
    return {
        'target': target, 'precision': precision, 'runtime': package, 'runtime_version': version(package),
        'dynamic_batch': converted.dynamic_batch, 'dynamic_size': converted.dynamic_size}


def _refuse_none(candidates: Sequence[Candidate], metric: str, max_drop: float) -> None:
    """Raise a UserError if no candidate is sound."""
    if not any(one.status == 'sound' for one in candidates):
        why = '; '.join(f'{one.name}: {one.message}' for one in candidates)
        mend = '; allow more with --max-drop' if any(one.status == 'loses too much' for one in candidates) else ''
        raise UserError(f'nothing loses at most {max_drop:g} points of {_METRICS[metric]} ({why}){mend}.')


def _whole_config(
        result: Deployment, config: Dict[str, Any], converted: Converted, folder: RunFolder) -> Dict[str, Any]:
    chosen = result.chosen
    return {
        **config,
        **_conversion_config(chosen.target, chosen.precision, converted),
        'made_by': f'rsq-backbone {rsq_backbone.__version__}',
        'measured': {
            **dataclasses.asdict(chosen.speed), 'input_size': list(result.input_size), 'threads': result.threads,
            'machine': result.machine},
        'verification': {
            'pictures': result.pictures, 'data': result.data, 'metric': result.metric, 'score': chosen.score,
            'score_of_pytorch': result.score, 'same_classes': chosen.same_classes,
            'max_abs_difference': chosen.max_abs_difference, 'largest_logit': chosen.largest_logit,
            'max_drop': result.max_drop},
        'trained_on': sorted(folder.training_content()),
    }

"""From a trained classifier to the fastest artifact that keeps its accuracy."""
import dataclasses
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from timm.data import create_transform, resolve_data_config

import rsq_backbone
from rsq_backbone.classification import class_names
from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.deploy.artifact import check_target, write_artifact
from rsq_backbone.deploy.conversion import PRECISIONS, TARGETS, Conversion
from rsq_backbone.deploy.loader import ArtifactError, load
from rsq_backbone.deploy.pictures import calibration_set, judged_pictures
from rsq_backbone.errors import UserError
from rsq_backbone.images import read_image
from rsq_backbone.machine import cpu_computes_bfloat16, machine, versions
from rsq_backbone.metrics import ClassificationMetrics, Interval, classification_metrics, confusion_matrix
from rsq_backbone.model_loading import load_model
from rsq_backbone.profiler.cores import usable_cores
from rsq_backbone.profiler.profile import Case, CaseResult
from rsq_backbone.profiler.session import Plan, Session
from rsq_backbone.profiler.statistics import Interval as MedianInterval
from rsq_backbone.profiler.statistics import paired_ratio
from rsq_backbone.profiler.subjects import Subject, parse_subject
from rsq_backbone.progress import Progress, silent
from rsq_backbone.runtimes.eager import pytorch_threads
from rsq_backbone.training.run_folder import RunFolder

__all__ = ['Candidate', 'Deployment', 'Speed', 'deploy']

# What is tried where the user has no wish, the most exact first.
_CANDIDATES = (
    ('onnx', 'fp32'), ('openvino', 'fp32'), ('openvino', 'bf16'), ('onnx', 'int8'), ('openvino', 'int8'))
# By which the profiler measures them.
_RUNTIMES = {
    ('onnx', 'fp32'): 'onnxruntime', ('onnx', 'int8'): 'onnxruntime', ('openvino', 'fp32'): 'openvino',
    ('openvino', 'bf16'): 'openvino-bf16', ('openvino', 'int8'): 'openvino'}
_PLAN = Plan(seconds=3, samples=64, rounds=12, limit=15)
# Two sets of float32 kernels through some thirty convolutions; of the largest logit.
_FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Speed:
    """Of one picture, in a process of its own; None where it was not measured."""

    p50: Optional[float] = None  # seconds
    p90: Optional[float] = None
    ratio: Optional[MedianInterval] = None  # of the time to that of eager PyTorch, round by round in the same run
    memory: Optional[int] = None  # bytes of the whole process at its peak
    verdict: Optional[str] = None  # of the times: 'ok', 'noisy' or 'rejected'


@dataclass(frozen=True)
class Candidate:
    """One way to run the network, with what was found of it."""

    target: str
    precision: str
    careful: bool  # of int8: sensitive layers stay in float32
    status: str  # 'sound', 'loses too much', 'differs' (of fp32: from PyTorch) or 'not available'
    message: str = ''
    bytes: Optional[int] = None  # of the network's files
    accuracy: Optional[float] = None
    drop: Optional[float] = None  # of the accuracy, in points; negative for a gain
    top1_agreement: Optional[float] = None  # share of the pictures to which PyTorch gives the same class
    max_abs_difference: Optional[float] = None  # of logits, from PyTorch's of the same inputs
    largest_logit: Optional[float] = None
    speed: Speed = Speed()

    @property
    def name(self) -> str:
        return f'{self.target} {self.precision}{" (careful)" if self.careful else ""}'


@dataclass(frozen=True)
class Deployment:
    folder: str
    model: str
    classes: Tuple[str, ...]
    pictures: int  # that the promise was judged by
    data: str  # where they came from
    calibration: int  # pictures
    max_drop: float  # points
    threads: int
    accuracy: float  # of PyTorch in float32
    accuracy_interval: Interval
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
    """Convert a run's classifier, see what each conversion computes and how fast, and write the best as an artifact.

    The best is the fastest that loses at most `max_drop` points of accuracy on pictures that the network did not learn
    from. What loses more gives way to the same target in the next higher precision.

    Args:
        run: Folder of `finetune`.
        data: Pictures with classes, as `evaluate` takes them; by default the run's own validation pictures.
        target: A name of TARGETS; by default what is fastest of ONNX and OpenVINO.
        precision: 'fp32', 'bf16' or 'int8'; by default whatever is fastest.
        calibration: Folder of pictures for int8; by default those that the run was trained on.
        max_drop: Points of accuracy that may be lost.
        threads: To run with; by default as many as there are cores to use.
        output: The artifact's folder; by default the run's name with '-artifact'.
        overwrite: Replace an artifact that is there.
        plan: How long each candidate is measured.
        progress: Told how far the work is.

    Raises:
        UserError: if the run, the pictures or the wishes cannot be used, or nothing keeps the promise.
    """
    folder = RunFolder(Path(run))
    network = load_model(folder.timm_name(), pretrained=True)
    run_folder = folder.path if folder.path.name else folder.path.resolve()  # of `.` too
    place = Path(output) if output is not None else run_folder.with_name(f'{run_folder.name}-artifact')
    check_target(place, overwrite)
    wanted = _wanted(target, precision)
    names = class_names(network)
    config = _config(network, folder.config, names)
    transform = create_transform(**resolve_data_config(model=network))
    judged, notes = judged_pictures(folder, data, names, progress)
    pictures: Optional[np.ndarray] = None
    if any(one[1] == 'int8' for one in wanted):
        try:
            pictures = calibration_set(
                folder, None if calibration is None else Path(calibration), transform, progress)
        except UserError as e:
            if precision == 'int8' or calibration is not None:
                raise
            notes.append(str(e))
    count = threads or usable_cores()
    with TemporaryDirectory(prefix='rsq-deploy-') as temporary, pytorch_threads(count):
        work = Path(temporary)
        trial = _Trial(network, work, config, judged, transform, max_drop, count, progress)
        candidates = trial.candidates(wanted, pictures)
        while precision not in (None, 'fp32') and not any(one.status == 'sound' for one in candidates):
            lower = [one for one in PRECISIONS[:PRECISIONS.index(str(precision))]
                     if target is None or one in TARGETS[target].libraries][-1]
            notes.append(f'{precision} is not to be had here at this accuracy; {lower} takes its place.')
            precision = lower
            candidates += trial.candidates(_wanted(target, precision), pictures)
        candidates, eager = _measure(candidates, trial.files, folder.path, config, work, plan, count, progress)
        chosen = _choose(candidates, max_drop)
        metrics = trial.expected
        result = Deployment(
            folder=str(place), model=config['model'], classes=names, pictures=len(judged),
            data=data or 'the validation pictures of the run', calibration=0 if pictures is None else len(pictures),
            max_drop=max_drop, threads=count, accuracy=metrics.accuracy, accuracy_interval=metrics.accuracy_interval,
            eager=eager, bytes=folder.weights.stat().st_size, candidates=tuple(candidates), chosen=chosen,
            notes=tuple(notes), machine=machine(), versions=versions())
        write_artifact(place, trial.files[chosen.name], _whole_config(result, config, folder), overwrite)
    return result


def _wanted(target: Optional[str], precision: Optional[str]) -> List[Tuple[str, str]]:
    """What to try. Who wants a precision gets the higher ones too, to fall back to."""
    if target is not None and target not in TARGETS:
        raise UserError(f'unknown target {target!r}; choose of {", ".join(TARGETS)}.')
    if precision is not None and precision not in PRECISIONS:
        raise UserError(f'unknown precision {precision!r}; choose of {", ".join(PRECISIONS)}.')
    if target is None:
        pairs = [one for one in _CANDIDATES if precision is None or one[1] == precision]
    else:
        offered = tuple(TARGETS[target].libraries)
        if precision is not None and precision not in offered:
            raise UserError(f'{target} has no {precision}; choose of {", ".join(offered)}.')
        pairs = [(target, one) for one in offered if precision in (None, one)]
        lacking = TARGETS[target].missing(pairs[-1][1])
        if lacking is not None and precision is not None:
            raise UserError(f'{target} {precision} needs more packages: {lacking}')
    return pairs


def _config(network: nn.Module, file: Path, names: Tuple[str, ...]) -> Dict[str, Any]:
    """config.json of the artifact, as far as the network alone says it."""
    data = resolve_data_config(model=network)
    if data['crop_mode'] not in ('center', 'squash') or data['interpolation'] not in ('bicubic', 'bilinear') or (
            data['input_size'][0] != 3):
        raise UserError(
            f'this network takes {data["input_size"][0]} channels, crop mode {data["crop_mode"]} and '
            f'{data["interpolation"]} resizing; artifacts have RGB, center or squash, and bicubic or bilinear.')
    height, width = data['input_size'][1:]
    if data['crop_mode'] == 'center' and height != width:
        raise UserError('this network takes pictures that are not square; train it with crop mode squash.')
    return {
        'task': 'classification',
        'model': json.loads(file.read_text(encoding='utf-8'))['architecture'],
        'classes': list(names),
        'preprocessing': {
            'mean': list(data['mean']), 'std': list(data['std']), 'input_size': [height, width],
            'interpolation': data['interpolation'], 'crop_pct': data['crop_pct'], 'crop_mode': data['crop_mode']},
        'size_multiple': 1,
        'made_by': f'rsq-backbone {rsq_backbone.__version__}',
    }


class _Trial:
    """Makes candidates, and compares what their artifacts compute with what PyTorch does."""

    def __init__(
            self, network: nn.Module, work: Path, config: Dict[str, Any], judged: LabelledImages, transform: Any,
            max_drop: float, threads: int, progress: Progress,
    ) -> None:
        self._network = network
        self._conversion = Conversion(network, tuple(config['preprocessing']['input_size']), work)
        self._work = work
        self._config = config
        self._judged = judged
        self._max_drop = max_drop
        self._threads = threads
        self._progress = progress
        self._inputs: Optional[np.ndarray] = None  # as an artifact preprocesses them
        self._same_inputs_logits = np.empty(0)  # PyTorch's of those
        logits = self._pytorch('PyTorch', (transform(read_image(path))[None] for path in judged.paths))
        self._classes = logits.argmax(1)  # PyTorch's
        self.expected = self._metrics(logits)
        self.files: Dict[str, List[Path]] = {}  # by the candidate's name

    def candidates(self, wanted: Sequence[Tuple[str, str]], pictures: Optional[np.ndarray]) -> List[Candidate]:
        found: List[Candidate] = []
        for target, precision in wanted:
            found.append(self._candidate(target, precision, False, pictures))
            if precision == 'int8' and found[-1].status == 'loses too much':
                found.append(self._candidate(target, precision, True, pictures))
        return found

    def _candidate(
            self, target: str, precision: str, careful: bool, pictures: Optional[np.ndarray]) -> Candidate:
        candidate = Candidate(target, precision, careful, 'not available')
        if precision == 'bf16' and not cpu_computes_bfloat16():
            return dataclasses.replace(candidate, message='this processor does not compute in bfloat16')
        self._progress(f'converting to {candidate.name}', 0, None)
        try:
            files = self._conversion.convert(target, precision, pictures, careful)
            self.files[candidate.name] = files
            folder = self._work / f'artifact-{target}-{precision}{"-careful" if careful else ""}'
            write_artifact(folder, files, {**self._config, **_runtime(target, precision)})
            logits = self._run(folder, candidate.name)
        except (UserError, ArtifactError) as e:
            return dataclasses.replace(candidate, message=str(e))
        accuracy = self._metrics(logits).accuracy
        drop = 100 * (self.expected.accuracy - accuracy)
        expected = self._same_inputs_logits
        difference, largest = float(np.abs(logits - expected).max()), float(np.abs(expected).max())
        status, message = 'sound', ''
        if precision == 'fp32' and difference > _FLOAT32_TOLERANCE * max(largest, 1.0):
            status, message = 'differs', f'logits differ from those of PyTorch by up to {difference:.2g}'
        elif drop > self._max_drop:
            status, message = 'loses too much', f'{drop:.1f} points, and {self._max_drop:g} may be lost'
        return dataclasses.replace(
            candidate, status=status, message=message, bytes=sum(file.stat().st_size for file in files),
            accuracy=accuracy, drop=drop, max_abs_difference=difference, largest_logit=largest,
            top1_agreement=float((logits.argmax(1) == self._classes).mean()))

    def _run(self, folder: Path, name: str) -> np.ndarray:
        """As whoever loads the artifact will: by its loader, from its own preprocessing on."""
        artifact = load(folder, self._threads)
        total = len(self._judged)
        if self._inputs is None:  # on disk: a thousand pictures do not fit into a small machine's memory
            height, width = self._config['preprocessing']['input_size']
            inputs = np.lib.format.open_memmap(
                self._work / 'inputs.npy', 'w+', np.float32, (total, 3, height, width))
            for done, path in enumerate(self._judged.paths):
                self._progress('preprocessing, pictures', done, total)
                inputs[done] = artifact.preprocess(np.asarray(read_image(path)))[0]
            self._progress('preprocessing, pictures', total, total)
            self._inputs = inputs
            self._same_inputs_logits = self._pytorch(
                'PyTorch on the same', (torch.from_numpy(inputs[i:i + 1].copy()) for i in range(total)))
        rows: List[np.ndarray] = []
        for done in range(total):
            self._progress(f'{name}, pictures', done, total)
            rows.append(artifact.run(self._inputs[done:done + 1]))
        self._progress(f'{name}, pictures', total, total)
        return np.concatenate(rows)

    def _pytorch(self, what: str, inputs: Iterable[torch.Tensor]) -> np.ndarray:
        """The network's logits in float32, (N, classes)."""
        rows: List[np.ndarray] = []
        with torch.inference_mode():
            for done, x in enumerate(inputs):
                self._progress(f'{what}, pictures', done, len(self._judged))
                rows.append(self._network(x).numpy())
        self._progress(f'{what}, pictures', len(self._judged), len(self._judged))
        return np.concatenate(rows)

    def _metrics(self, logits: np.ndarray) -> ClassificationMetrics:
        judged = self._judged
        return classification_metrics(
            confusion_matrix(judged.labels, logits.argmax(1), len(judged.classes)), judged.classes)


def _runtime(target: str, precision: str) -> Dict[str, Any]:
    package = TARGETS[target].runtime
    return {'target': target, 'precision': precision, 'runtime': package, 'runtime_version': version(package)}


def _measure(
        candidates: Sequence[Candidate], files: Dict[str, List[Path]], run: Path, config: Dict[str, Any], work: Path,
        plan: Plan, threads: int, progress: Progress,
) -> Tuple[List[Candidate], Speed]:
    """The candidates that keep the promise and PyTorch, in turns in one run of the profiler."""
    height, width = config['preprocessing']['input_size']
    size = (3, height, width)

    def case(name: str, runtime: str) -> Case:
        return Case(model=name, runtime=runtime, device='cpu', threads=threads, batch=1, input_size=size)

    eager = parse_subject(str(run))
    cases = [(eager, case(eager.name, 'eager'))]
    for one in candidates:
        if one.status == 'sound' and (one.target, one.precision) in _RUNTIMES:
            file = _of_one_size(files[one.name], size, work / f'measured-{len(cases)}')
            subject = Subject(one.name, 'onnx', size, file=str(file), bytes_on_disk=one.bytes, trained=True)
            cases.append((subject, case(one.name, _RUNTIMES[one.target, one.precision])))
    folder = work / 'measuring'
    folder.mkdir()
    session = Session(cases, folder, plan, False, 0, progress)
    session.measure()
    by_name = {result.case.model: result for result in session.results}
    first = by_name[eager.name]
    return [
        dataclasses.replace(one, speed=_speed(by_name[one.name], first)) if one.name in by_name else one
        for one in candidates], _speed(first, first)


def _of_one_size(files: Sequence[Path], size: Tuple[int, int, int], folder: Path) -> Path:
    """What the profiler is to load: OpenVINO's files as the artifact's loader reshapes them, others as they are."""
    if files[0].suffix != '.xml':
        return files[0]
    import rsq_backbone.runtimes.openvino  # noqa: F401  keeps it from reporting to its makers

    import openvino  # isort: skip

    network = openvino.Core().read_model(str(files[0]))
    network.reshape([1, *size])
    folder.mkdir()
    openvino.save_model(network, str(folder / 'model.xml'), compress_to_fp16=False)
    return folder / 'model.xml'


def _speed(result: CaseResult, eager: CaseResult) -> Speed:
    latency = result.latency
    if latency is None or latency.p50 is None:
        return Speed()
    ratio = None
    if eager.latency is not None and result is not eager and latency.group == eager.latency.group:
        ratio = paired_ratio(latency.rounds, eager.latency.rounds)
    return Speed(
        latency.p50.value, None if latency.p90 is None else latency.p90.value, ratio,
        None if result.memory is None else result.memory.peak, latency.verdict)


def _choose(candidates: Sequence[Candidate], max_drop: float) -> Candidate:
    sound = [one for one in candidates if one.status == 'sound']
    if not sound:
        why = '; '.join(f'{one.name}: {one.message}' for one in candidates)
        raise UserError(f'nothing loses at most {max_drop:g} points of accuracy ({why}); allow more with --max-drop.')
    return min(sound, key=lambda one: float('inf') if one.speed.p50 is None else one.speed.p50)


def _whole_config(result: Deployment, config: Dict[str, Any], folder: RunFolder) -> Dict[str, Any]:
    chosen = result.chosen
    return {
        **config,
        **_runtime(chosen.target, chosen.precision),
        'measured': {**dataclasses.asdict(chosen.speed), 'threads': result.threads, 'machine': result.machine},
        'verification': {
            'pictures': result.pictures, 'data': result.data, 'accuracy': chosen.accuracy,
            'accuracy_of_pytorch': result.accuracy, 'top1_agreement': chosen.top1_agreement,
            'max_abs_difference': chosen.max_abs_difference, 'largest_logit': chosen.largest_logit,
            'max_drop': result.max_drop},
        'trained_on': sorted(folder.training_content()),
    }

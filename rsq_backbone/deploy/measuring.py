"""How fast converted networks are, by the profiler."""
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from rsq_backbone.profiler.profile import Case, CaseResult
from rsq_backbone.profiler.session import Plan, Session
from rsq_backbone.profiler.statistics import Interval, paired_ratio
from rsq_backbone.profiler.subjects import Subject, parse_subject
from rsq_backbone.progress import Progress

__all__ = ['Speed', 'measure', 'measure_cases', 'measured_case']

# The profiler's runtime by target and precision; others it does not measure.
_RUNTIMES = {
    ('onnx', 'fp32'): 'onnxruntime', ('onnx', 'int8'): 'onnxruntime', ('openvino', 'fp32'): 'openvino',
    ('openvino', 'fp16'): 'openvino-fp16', ('openvino', 'bf16'): 'openvino-bf16', ('openvino', 'int8'): 'openvino'}


@dataclass(frozen=True)
class Speed:
    """Of one picture, in a process of its own; None where it was not measured."""

    p50: Optional[float] = None  # seconds
    p90: Optional[float] = None
    ratio: Optional[Interval] = None  # of the time to that of eager PyTorch, round by round in the same run
    memory: Optional[int] = None  # bytes of the whole process at its peak
    verdict: Optional[str] = None  # of the times: 'ok', 'noisy' or 'rejected'


def measure(
        run: Path, converted: Mapping[str, Tuple[str, str, Sequence[Path]]], task: str, size: Tuple[int, int],
        threads: int, work: Path, plan: Plan, progress: Progress,
) -> Tuple[Speed, Dict[str, Speed]]:
    """Of a run's network in eager PyTorch, and of its conversions by their names, in turns in one run of the profiler.

    Args:
        run: Folder of the run.
        converted: Target, precision and files, by name.
        task: 'classification' or 'segmentation'.
        size: Height and width of the picture.
        threads: To run with.
        work: Folder for what is needed on the way.
        plan: How long each is measured.
        progress: Told how far the work is.
    """
    cases: List[Tuple[Subject, Case]] = []
    for name, (target, precision, files) in converted.items():
        case = measured_case(name, target, precision, files, task, size, threads, work / f'measured-{len(cases)}')
        if case is not None:
            cases.append(case)
    return measure_cases(run, size, threads, cases, work / 'measuring', plan, progress)


def measure_cases(
        run: Path, size: Tuple[int, int], threads: int, cases: Sequence[Tuple[Subject, Case]], folder: Path, plan: Plan,
        progress: Progress,
) -> Tuple[Speed, Dict[str, Speed]]:
    """Of a run's network in eager PyTorch, and of what `measured_case` made, by name, in turns.

    Args:
        run: Folder of the run.
        size: Height and width of the picture that its network gets.
        threads: Of the run's network.
        cases: What takes turns with it.
        folder: To be made for what is needed on the way.
        plan: How long each is measured.
        progress: Told how far the work is.
    """
    eager = parse_subject(str(run))
    folder.mkdir()
    session = Session(
        [(eager, _case(eager.name, 'eager', size, threads)), *cases], folder, plan, False, 0, progress)
    session.measure()
    by_name = {result.case.model: result for result in session.results}
    first = by_name.pop(eager.name)
    return _speed(first, first), {name: _speed(result, first) for name, result in by_name.items()}


def _case(name: str, runtime: str, size: Tuple[int, int], threads: int) -> Case:
    return Case(model=name, runtime=runtime, device='cpu', threads=threads, batch=1, input_size=(3, *size))


def measured_case(
        name: str, target: str, precision: str, files: Sequence[Path], task: str, size: Tuple[int, int], threads: int,
        work: Path,
) -> Optional[Tuple[Subject, Case]]:
    """One conversion as the profiler takes it, as the artifact's loader would run it; None if it cannot.

    Args:
        name: To know it by.
        target: Of the conversion.
        precision: The same.
        files: Of the network.
        task: 'classification' or 'segmentation'.
        size: Height and width of the picture.
        threads: To run with.
        work: Folder to be made for what is needed on the way.
    """
    runtime = _RUNTIMES.get((target, precision))
    if runtime is None:
        return None
    file = next(file for file in files if file.suffix in ('.onnx', '.xml'))
    if file.suffix == '.xml' and task == 'classification':
        file = _of_one_size(file, size, work)
    weights = sum(one.stat().st_size for one in files)
    subject = Subject(name, 'onnx', (3, *size), file=str(file), bytes_on_disk=weights, trained=True)
    return subject, _case(name, runtime, size, threads)


def _of_one_size(file: Path, size: Tuple[int, int], work: Path) -> Path:
    """OpenVINO's file reshaped, as the artifact's loader does."""
    from rsq_backbone.runtimes.openvino import core, openvino

    network = core().read_model(str(file))
    network.reshape([1, 3, *size])
    work.mkdir()
    openvino.save_model(network, str(work / 'model.xml'), compress_to_fp16=False)
    return work / 'model.xml'


def _speed(result: CaseResult, eager: CaseResult) -> Speed:
    """Of what the profiler found, compared with eager PyTorch if that was measured in the same turns."""
    latency = result.latency
    if latency is None or latency.p50 is None:
        return Speed()
    ratio = None
    if eager.latency is not None and result is not eager and latency.group == eager.latency.group:
        ratio = paired_ratio(latency.rounds, eager.latency.rounds)
    return Speed(
        latency.p50.value, None if latency.p90 is None else latency.p90.value, ratio,
        None if result.memory is None else result.memory.peak, latency.verdict)

"""A profile from beginning to end: every case in processes of its own, all of them in turns, one result."""
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Optional, Sequence, Tuple, Union

from rsq_backbone.errors import UserError
from rsq_backbone.machine import versions
from rsq_backbone.profiler.cores import usable_cores
from rsq_backbone.profiler.devices import find_device, this_machine
from rsq_backbone.profiler.environment import environment
from rsq_backbone.profiler.estimates import estimate
from rsq_backbone.profiler.profile import FORMAT, Case, EstimateCheck, Profile
from rsq_backbone.profiler.session import QUICK, STANDARD, Plan, Session
from rsq_backbone.profiler.subjects import Subject, module_subject, parse_subject
from rsq_backbone.progress import Progress, silent
from rsq_backbone.runtimes import ISAS, RUNTIMES

__all__ = ['QUICK', 'STANDARD', 'Plan', 'profile']


def profile(
        models: Union[str, Sequence[Union[str, Subject]], Callable[..., Any]],
        inputs: Sequence[Any] = (),
        *,
        runtimes: Sequence[str] = ('eager',),
        threads: Sequence[int] = (),
        batches: Sequence[int] = (),
        input_sizes: Sequence[int] = (),
        device: str = 'cpu',
        cores: Sequence[int] = (),
        cpu_isa: Optional[str] = None,
        memory_cap: Optional[int] = None,
        gpu_memory_cap: Optional[int] = None,
        end_to_end: bool = False,
        layers: bool = False,
        plan: Plan = STANDARD,
        devices: Sequence[str] = (),
        seed: int = 0,
        progress: Progress = silent,
) -> Profile:
    """Measure how long networks take and how much memory they need, each case in fresh processes.

    A case is one model, runtime, number of threads, batch and input size; all combinations are measured. First each
    runs alone, for its cold start and its memory. Then the processes take turns (A B C C B A, in another order each
    round), so that a drift of the machine favours none of them, and wait asleep in between. Inputs are noise, the same
    for all.

    Args:
        models: What `parse_subject` takes, one or several; or one module or function of tensors of your own.
        inputs: Of your own module, an example of each, the batch first; tensors or arrays. One of zeros only says its
            shape, and is filled with noise.
        runtimes: Names of RUNTIMES; those that are not installed are listed with the line that installs them.
        threads: Within an operation; by default as many as there are physical cores to use.
        batches: Pictures a call; of your own module by default as in `inputs`.
        input_sizes: Sides of the input in pixels; by default the model's own.
        device: 'cpu' or 'cuda'.
        cores: That every process is pinned to.
        cpu_isa: 'sse41', 'avx2' or 'avx512': the newest instructions to use, by runtimes that obey.
        memory_cap: Bytes that a case's process may have.
        gpu_memory_cap: Bytes that PyTorch may allocate on the device.
        end_to_end: Time the whole path from the bytes of a JPEG to the classes.
        layers: Also time each layer, in a pass of its own.
        plan: How long to measure.
        devices: Names of machines that are not here, to be estimated.
        seed: Of the inputs, of the networks' weights and of the order.
        progress: Told how far the work is.

    Returns:
        Whatever was found. What went wrong with a case is in its result; after Ctrl-C, which ends the measuring, that
        of the cases not reached is 'interrupted'.

    Raises:
        UserError: for models, runtimes, devices and values that do not exist.
    """
    start = time.perf_counter()
    _check(runtimes, threads, batches, input_sizes, device, cpu_isa)
    machines = [find_device(name) for name in devices]
    before = environment()
    with TemporaryDirectory(prefix='rsq-profile-') as folder:
        if isinstance(models, str) or not callable(models):
            named = [models] if isinstance(models, str) else models
            subjects = [parse_subject(model) if isinstance(model, str) else model for model in named]
        else:
            subjects = [module_subject(models, inputs, Path(folder))]
            batches = batches or [len(inputs[0])]
        cases = [
            (subject, Case(
                model=subject.name, runtime=runtime, device=device, threads=count, batch=batch, input_size=size,
                cores=tuple(cores), cpu_isa=cpu_isa, memory_cap=memory_cap, gpu_memory_cap=gpu_memory_cap,
                end_to_end=end_to_end))
            for side in input_sizes or [0] for batch in batches or [1] for count in threads or [usable_cores()]
            for subject in subjects for runtime in runtimes
            for size in [(subject.input_size[0], side, side) if side else subject.input_size]]
        session = Session(cases, Path(folder), plan, layers, seed, progress)
        with suppress(KeyboardInterrupt):
            session.measure()
    return Profile(
        format=FORMAT,
        cases=session.results,
        works=tuple(session.works),
        peaks=tuple(session.peaks),
        estimates=tuple(
            estimate(work, batch, machine)
            for machine in machines for work in session.works for batch in batches or [1]),
        estimate_checks=_checks(session, before['memory_available']) if devices else (),
        environment=before,
        seed=seed,
        seconds=time.perf_counter() - start,
        command=tuple(sys.argv),
        versions=versions(),
    )


def _checks(session: Session, memory: int) -> Tuple[EstimateCheck, ...]:
    """The measured cases, estimated as if this machine were not here."""
    works = {(work.model, work.input_size): work for work in session.works}
    machines = {peaks.threads: this_machine(peaks, memory) for peaks in session.peaks}
    return tuple(
        EstimateCheck(case, estimate(works[case.model, case.input_size], case.batch, machines[case.threads]).seconds,
                      result.latency.p50.value)
        for result in session.results for case in [result.case]
        if result.status == 'measured' and result.latency and result.latency.p50 and case.device == 'cpu'
        and not case.end_to_end and (case.model, case.input_size) in works and case.threads in machines)


def _check(
        runtimes: Sequence[str], threads: Sequence[int], batches: Sequence[int], input_sizes: Sequence[int],
        device: str, cpu_isa: Optional[str],
) -> None:
    unknown = [name for name in runtimes if name not in RUNTIMES]
    if unknown:
        raise UserError(f'unknown runtime {unknown[0]!r}; choose of {", ".join(RUNTIMES)}.')
    if device not in ('cpu', 'cuda'):
        raise UserError(f'unknown device {device!r}; choose cpu or cuda.')
    if cpu_isa is not None and cpu_isa not in ISAS:
        raise UserError(f'unknown instruction set {cpu_isa!r}; choose of {", ".join(ISAS)}.')
    for what, values, most in (('threads', threads, 1024), ('batch', batches, 4096), ('input size', input_sizes, 8192)):
        wrong = [value for value in values if not 1 <= value <= most]
        if wrong:
            raise UserError(f'{what} should be 1 .. {most}, got {wrong[0]}.')

"""The measuring itself: processes that are started, asked in turns, and judged by what they answer."""
import random
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import psutil

from rsq_backbone.profiler.energy import EnergyMeter
from rsq_backbone.profiler.load import LoadWatch
from rsq_backbone.profiler.process import WorkerFailed, WorkerProcess
from rsq_backbone.profiler.profile import (
    Agreement,
    Case,
    CaseResult,
    Cold,
    CudaMemory,
    LayerTime,
    Load,
    Memory,
    Peaks,
    StageWork,
    Transfers,
    Work,
)
from rsq_backbone.profiler.statistics import latency
from rsq_backbone.profiler.subjects import Subject
from rsq_backbone.progress import Progress
from rsq_backbone.runtimes import RUNTIMES, isa_environment, obeys

__all__ = ['QUICK', 'STANDARD', 'Plan', 'Session']

_WORKER = 'rsq_backbone.profiler.worker'
_MEMORY_CALLS = 3  # an allocator that keeps what it was given has its size after the second
_LAYER_CALLS = 20
_TRANSFERS = 50
_LEAST_CALLS = 3  # of a visit
_MOST_LIVE = 8  # processes that take turns; more cases are measured in groups


@dataclass(frozen=True)
class Plan:
    """How long each case is measured: until all of the first three are reached, but not beyond the limit."""

    seconds: float
    samples: int
    rounds: int
    limit: float  # seconds


STANDARD = Plan(seconds=6, samples=64, rounds=12, limit=40)  # fast networks come to the 662 calls of a 99th percentile
QUICK = Plan(seconds=1, samples=11, rounds=6, limit=8)


@dataclass
class _Measured:
    """What is known of a case so far."""

    subject: Subject
    result: CaseResult
    rounds: List[List[float]] = field(default_factory=list)
    device_rounds: List[List[float]] = field(default_factory=list)
    energy: Optional[float] = 0.0  # joules, over all visits
    visited_calls: int = 0  # in that time, those that are not timed included
    warm_up: Dict[str, Any] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return self.result.case

    @property
    def shape(self) -> Tuple[int, ...]:
        return self.case.batch, *self.case.input_size

    @property
    def needs_file(self) -> bool:
        return RUNTIMES[self.case.runtime].needs_file

    @property
    def sound(self) -> bool:
        return self.result.status in ('interrupted', 'measured')

    def add_energy(self, joules: Optional[float], calls: int) -> None:
        self.energy = None if self.energy is None or joules is None else self.energy + joules
        self.visited_calls += calls


class Session:
    """Measures cases, and holds what it has found when it is interrupted.

    Args:
        cases: What to measure; a case's result says 'interrupted' until it is measured.
        folder: For files that processes hand to each other.
        plan: How long to measure.
        layers: Whether each layer is timed as well.
        seed: Of the inputs and of the order.
        progress: Told how far the work is.
    """

    def __init__(
            self, cases: Sequence[Tuple[Subject, Case]], folder: Path, plan: Plan, layers: bool, seed: int,
            progress: Progress,
    ) -> None:
        self._cases = [
            _Measured(subject, CaseResult(case, 'interrupted', 'the profile was stopped before'))
            for subject, case in cases]
        self._folder = folder
        self._plan = plan
        self._layers = layers
        self._seed = seed
        self._progress = progress
        self._files: Dict[Tuple[Any, ...], Path] = {}
        self._exports: Dict[Tuple[Any, ...], float] = {}
        self.works: List[Work] = []
        self.peaks: List[Peaks] = []

    @property
    def results(self) -> Tuple[CaseResult, ...]:
        return tuple(one.result for one in self._cases)

    def measure(self) -> None:
        for one in self._cases:
            self._refuse_what_cannot_run(one)
        self._references()
        alone = [one for one in self._cases if one.sound]
        for done, one in enumerate(alone):
            self._progress('cold starts and memory, cases', done, len(alone))
            self._measure_alone(one)
        self._progress('cold starts and memory, cases', len(alone), len(alone))
        for number, group in enumerate(self._groups()):
            self._measure_in_turns(number, group)
        self._measure_peaks()

    # Before anything is timed

    def _refuse_what_cannot_run(self, one: _Measured) -> None:
        entry = RUNTIMES[one.case.runtime]
        missing = entry.missing()
        if missing is not None:
            one.result = replace(one.result, status='not installed', message=missing)
        elif one.case.device not in entry.devices:
            self._fail(one, 'refused', f'{one.case.runtime} runs on {" and ".join(entry.devices)} only')
        elif one.subject.kind == 'onnx' and not entry.needs_file:
            self._fail(one, 'refused', 'an ONNX file is run by onnxruntime and openvino only')
        elif one.case.cpu_isa is not None:
            note = entry.isa_exceptions if obeys(one.case.runtime) else 'it uses whatever instructions there are'
            if note:
                one.result = replace(one.result, notes=(f'--cpu-isa {one.case.cpu_isa}: {note}',))

    def _references(self) -> None:
        """For every network, batch and size: eager's outputs, the work, and the ONNX file if one is asked for."""
        wanted: Dict[Tuple[Any, ...], List[_Measured]] = {}
        for one in self._cases:
            if one.sound and one.subject.kind != 'onnx':
                wanted.setdefault((one.case.model, one.shape), []).append(one)
        for done, (key, of) in enumerate(wanted.items()):
            self._progress('exporting and counting, networks', done, len(wanted))
            subject, case = of[0].subject, of[0].case
            request = {'shape': of[0].shape, 'seed': self._seed}
            try:
                with WorkerProcess(_WORKER, {}) as process:
                    process.ask({
                        'do': 'open', 'subject': subject.to_json(), 'runtime': 'eager',
                        'threads': max(one.case.threads for one in of), 'device': 'cpu'})
                    process.ask({'do': 'check', 'shape': of[0].shape})
                    process.ask({'do': 'load', **request, 'outputs': str(self._reference(key))})
                    if not any((work.model, work.input_size) == (case.model, case.input_size) for work in self.works):
                        self.works.append(_work(process.ask({'do': 'work', 'shape': of[0].shape})))
                    if any(one.needs_file for one in of):
                        file = self._folder / f'{len(self._files)}.onnx'
                        exported = process.ask({'do': 'export', **request, 'file': str(file)})
                        self._exports[key] = exported['seconds']['prepare']
                        self._files[key] = file
            except WorkerFailed as e:
                for one in of:
                    # A network that cannot be exported may run all the same where no file is needed.
                    if one.needs_file or not self._reference(key).exists():
                        self._fail(one, e.kind, str(e))
        if wanted:
            self._progress('exporting and counting, networks', len(wanted), len(wanted))

    def _reference(self, key: Tuple[Any, ...]) -> Path:
        """Where eager's outputs of a network are, once they are there."""
        return self._folder / f'reference-{key[0].replace("/", "-")}-{"x".join(map(str, key[1]))}.npz'

    # One after another, alone

    def _measure_alone(self, one: _Measured) -> None:
        """Cold start, memory, agreement with eager, and the layers: from processes that nothing else runs beside."""
        try:
            with self._start(one) as process:
                opened = self._open(one, process)
                outputs = self._folder / 'outputs.npz'
                loaded = self._load(one, process, outputs)
                used = process.ask({'do': 'memory', 'calls': _MEMORY_CALLS})
                moved = None
                if one.case.device == 'cuda':
                    moved = Transfers(**process.ask({
                        'do': 'transfers', 'shape': one.shape, 'seed': self._seed, 'calls': _TRANSFERS}))
            if self._layers and not one.needs_file:
                with self._start(one) as process:
                    self._open(one, process)
                    layers = process.ask(
                        {'do': 'layers', 'shape': one.shape, 'seed': self._seed, 'calls': _LAYER_CALLS})
                    one.result = replace(one.result, layers=tuple(LayerTime(**layer) for layer in layers))
        except WorkerFailed as e:
            self._fail(one, e.kind, str(e))
            return
        seconds = loaded['seconds']
        key = (one.case.model, one.shape)
        file = self._file(one)
        cap = one.case.memory_cap
        one.result = replace(
            one.result,
            threads=loaded['threads'],
            transfers=moved,
            cold=Cold(
                imports=opened['imports'], build=seconds.get('build'),
                prepare=self._exports.get(key) if one.needs_file else seconds.get('prepare'),
                load=seconds['load'], first_call=seconds['first_call']),
            memory=Memory(
                weights_on_disk=one.subject.bytes_on_disk if file is None else file.stat().st_size,
                weights_in_memory=loaded['weights'],
                baseline=opened['resident'],
                peak=used['peak'],
                cuda=None if used['cuda'] is None else CudaMemory(**used['cuda'])),
            agreement=_agreement(self._reference(key), outputs),
        )
        if not loaded['flushes_denormals']:
            self._note(one, 'this processor computes with denormals, so the time depends on the weights')
        if cap is not None and used['peak'] is not None and used['peak'] > cap:
            self._fail(one, 'does not fit', f'needs {used["peak"] / 1e6:.0f} of {cap / 1e6:.0f} MB')

    # In turns

    def _groups(self) -> List[List[_Measured]]:
        """Cases whose processes live at the same time: few, and in half of the memory that is there."""
        room = psutil.virtual_memory().available / 2
        groups: List[List[_Measured]] = []
        taken = 0
        for one in self._cases:
            if not one.sound:
                continue
            needed = (one.result.memory.peak if one.result.memory else None) or 0
            if not groups or len(groups[-1]) == _MOST_LIVE or taken + needed > room:
                groups.append([])
                taken = 0
            groups[-1].append(one)
            taken += needed
        return groups

    def _measure_in_turns(self, number: int, group: List[_Measured]) -> None:
        with ExitStack() as stack:
            live: Dict[int, WorkerProcess] = {}
            for index, one in enumerate(group):
                self._progress('warming up, cases', index, len(group))
                try:
                    process = stack.enter_context(self._start(one))
                    self._open(one, process)
                    self._load(one, process)
                    one.warm_up = process.ask({'do': 'warm_up'})
                    live[index] = process
                except WorkerFailed as e:
                    self._fail(one, e.kind, str(e))
            self._progress('warming up, cases', len(group), len(group))
            watch = LoadWatch(gpu=any(one.case.device == 'cuda' for one in group))
            done = 0
            try:
                while live and (done < self._plan.rounds or not all(self._enough(group[index]) for index in live)):
                    self._round(group, live, done)
                    done += 1
                    self._progress('measuring, rounds', done, max(done, self._plan.rounds))
            finally:  # after Ctrl-C the rounds that were finished still tell something
                load = watch.lap()
                for index in live:
                    if group[index].rounds:
                        self._judge(group[index], number, load)
                    if done < self._plan.rounds:
                        group[index].result = replace(group[index].result, status='interrupted')

    def _round(self, group: List[_Measured], live: Dict[int, WorkerProcess], number: int) -> None:
        """Every process is visited twice, there and back again, in an order of its own."""
        plan = self._plan
        order = random.Random(f'{self._seed} {number}').sample(sorted(live), len(live))
        visits: Dict[int, Dict[str, List[float]]] = {index: {'wall': [], 'device': []} for index in order}
        for index in order + order[::-1]:
            if index not in live or (number >= plan.rounds and self._enough(group[index])):
                continue
            meter = EnergyMeter()
            try:
                timed = live[index].ask(
                    {'do': 'time', 'seconds': plan.seconds / plan.rounds / 2, 'least': _LEAST_CALLS})
                group[index].add_energy(meter.lap(), timed['calls'])
                for clock, samples in visits[index].items():
                    samples += timed[clock]
            except WorkerFailed as e:
                self._fail(group[index], e.kind, str(e))
                del live[index]
        for index, by_clock in visits.items():
            if by_clock['wall']:
                group[index].rounds.append(by_clock['wall'])
            if by_clock['device']:
                group[index].device_rounds.append(by_clock['device'])

    def _enough(self, one: _Measured) -> bool:
        times = [seconds for of_round in one.rounds for seconds in of_round]
        return len(times) >= self._plan.samples or sum(times) >= self._plan.limit

    def _judge(self, one: _Measured, group: int, load: Load) -> None:
        wall, device = (
            latency(rounds, one.warm_up['calls'], one.warm_up['steady'], group) if rounds else None
            for rounds in (one.rounds, one.device_rounds))
        one.result = replace(
            one.result, status='measured', message='', load=load, latency=wall, device_latency=device,
            energy=None if one.energy is None or not one.visited_calls else one.energy / one.visited_calls)

    def _measure_peaks(self) -> None:
        for threads in sorted({one.case.threads for one in self._cases if one.result.status == 'measured'}):
            self._progress("this machine's peaks", 0, None)
            with WorkerProcess(_WORKER, _threads(threads)) as process:
                process.ask({
                    'do': 'open', 'subject': self._cases[0].subject.to_json(), 'runtime': 'eager', 'threads': threads,
                    'device': 'cpu'})
                self.peaks.append(Peaks(**process.ask({'do': 'peaks', 'threads': threads})))
            self._progress("this machine's peaks", 1, 1)

    # What each process is asked first

    def _start(self, one: _Measured) -> WorkerProcess:
        isa = {} if one.case.cpu_isa is None else isa_environment(one.case.runtime, one.case.cpu_isa)
        cache = RUNTIMES[one.case.runtime].cache_variable
        return WorkerProcess(_WORKER, {
            **_threads(one.case.threads), **isa,
            # The stacks of threads count as soon as they are reserved.
            **({} if one.case.memory_cap is None else {'OMP_STACKSIZE': '1M'}),
            **({cache: str(self._folder / 'compiled')} if cache else {})})

    def _open(self, one: _Measured, process: WorkerProcess) -> Dict[str, Any]:
        case = one.case
        opened: Dict[str, Any] = process.ask({
            'do': 'open', 'runtime': case.runtime, 'threads': case.threads, 'device': case.device,
            'cores': case.cores, 'memory_cap': case.memory_cap, 'gpu_memory_cap': case.gpu_memory_cap,
            'subject': one.subject.to_json(), 'whole_path': case.end_to_end})
        return opened

    def _load(self, one: _Measured, process: WorkerProcess, outputs: Optional[Path] = None) -> Dict[str, Any]:
        file = self._file(one)
        loaded: Dict[str, Any] = process.ask({
            'do': 'load', 'shape': one.shape, 'seed': self._seed, 'file': None if file is None else str(file),
            'outputs': None if outputs is None else str(outputs)})
        return loaded

    def _file(self, one: _Measured) -> Optional[Path]:
        """ONNX, for the runtimes that need it."""
        if one.subject.kind == 'onnx':
            return Path(str(one.subject.file))
        return self._files[one.case.model, one.shape] if one.needs_file else None

    def _fail(self, one: _Measured, status: str, message: str) -> None:
        if status == 'crashed' and one.case.memory_cap is not None and 'killed by signal' in message:
            # What libraries do that do not look whether they were given memory.
            status, message = 'does not fit', f'{message} (under the memory cap)'
        one.result = replace(one.result, status=status, message=message)

    def _note(self, one: _Measured, note: str) -> None:
        one.result = replace(one.result, notes=(*one.result.notes, note))


def _threads(count: int) -> Dict[str, str]:
    """For libraries that read it once, when they are loaded."""
    return {'OMP_NUM_THREADS': str(count), 'MKL_NUM_THREADS': str(count), 'OPENBLAS_NUM_THREADS': '1'}


def _work(plain: Dict[str, Any]) -> Work:
    return Work(**{
        **plain, 'input_size': tuple(plain['input_size']), 'not_counted': tuple(plain['not_counted']),
        'stages': tuple(StageWork(**stage) for stage in plain['stages'])})


def _agreement(reference: Path, outputs: Path) -> Optional[Agreement]:
    if not reference.exists():
        return None
    with np.load(reference) as expected, np.load(outputs) as found:
        pairs = [(expected[name], found[name]) for name in expected.files]
    first, other = pairs[0]
    finite = all(np.isfinite(array).all() for pair in pairs for array in pair)
    return Agreement(
        max_abs_difference=max(float(np.abs(a - b).max()) for a, b in pairs) if finite else None,
        largest_output=max(float(np.abs(a).max()) for a, _ in pairs) if finite else None,
        top1_agreement=float((first.argmax(1) == other.argmax(1)).mean()) if first.ndim > 1 else 1.0)

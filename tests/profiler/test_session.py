"""How cases are measured: who is asked what and when, and what becomes of those that fail. The processes are played."""
import itertools
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from rsq_backbone.profiler import session as session_module
from rsq_backbone.profiler.process import WorkerFailed
from rsq_backbone.profiler.profile import Case, Transfers
from rsq_backbone.profiler.session import Plan, Session
from rsq_backbone.profiler.subjects import Subject

PLAN = Plan(seconds=1.2, samples=12, rounds=4, limit=100)
SECONDS = {'slow': 0.25, 'fast': 0.125, 'other': 0.5}  # a call
WORK = {
    'model': 'slow', 'input_size': [3, 64, 64], 'parameters': 10, 'macs': 20, 'activations': 30, 'bytes_moved': 40,
    'peak_activations': 50, 'stages': [], 'not_counted': []}


class Played:
    """A process that answers at once; `log` holds (model, runtime, what it was asked), `live` who is there."""

    log: list = []
    live: set = set()
    most_live = 0
    fail: dict = {}  # (model, request) -> what is raised
    answers: dict = {}  # request -> changes of its answer
    number = itertools.count()

    def __init__(self, module, environment):
        self.environment = environment
        self.pid = next(self.number)

    def __enter__(self):
        self.live.add(self)
        Played.most_live = max(self.most_live, len(self.live))
        return self

    def __exit__(self, *args):
        self.live.discard(self)

    def ask(self, request, timeout=None):
        do = request.pop('do')
        if do == 'open':
            self.model, self.runtime, self.opened = request['subject']['name'], request['runtime'], request
        self.log.append((self.model, self.runtime, do))
        fault = self.fail.get((self.model, do)) or self.fail.get((self.model, self.runtime, do))
        if fault is not None:
            raise fault
        answer = getattr(self, do)(**request)
        return {**answer, **self.answers[do]} if do in self.answers else answer

    def open(self, **request):
        return {'imports': 1.0, 'resident': 100}

    def check(self, shape):
        return None

    def load(self, shape, seed, outputs=None, file=None):
        if outputs:
            logits = np.arange(12.0).reshape(2, 6) + (0.5 if self.runtime == 'onnxruntime' else 0)
            np.savez(outputs, logits)
        return {
            'seconds': {'load': 0.25, 'first_call': 0.5, **({} if file else {'build': 0.125})},
            'threads': self.opened['threads'], 'weights': 40, 'flushes_denormals': True}

    def export(self, shape, seed, file):
        Path(file).write_bytes(b'12345')
        return {'seconds': {'prepare': 2.0}}

    def work(self, shape):
        return {**WORK, 'model': self.model}

    def memory(self, calls):
        return {'peak': 350, 'cuda': None}

    def transfers(self, shape, seed, calls):
        return {'to_device': 0.25, 'to_host': 0.125}

    def layers(self, shape, seed, calls):
        return [{'name': 'conv', 'type': 'Conv2d', 'seconds': 0.01}]

    def warm_up(self):
        return {'calls': 10, 'steady': True, 'seconds_per_call': SECONDS[self.model]}

    def time(self, seconds, least):
        wall = [SECONDS[self.model]] * max(least, round(seconds / SECONDS[self.model]))
        on_gpu = self.opened['device'] == 'cuda'
        return {'wall': wall, 'device': [0.5 * second for second in wall] if on_gpu else [], 'calls': 1 + len(wall)}

    def peaks(self, threads):
        return {'threads': threads, 'device': 'cpu', 'macs_per_second': 1e9, 'bytes_per_second': 1e10}


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Measure models, each with each runtime; gives the results by (model, runtime)."""
    for name, value in (('log', []), ('live', set()), ('most_live', 0), ('fail', {}), ('answers', {})):
        monkeypatch.setattr(Played, name, value)
    monkeypatch.setattr(session_module, 'WorkerProcess', Played)

    def run(*models, runtimes=('eager',), plan=PLAN, layers=False, told=None, **settings):
        case = {'device': 'cpu', 'threads': 2, 'batch': 1, 'input_size': (3, 64, 64), **settings}
        cases = [(Subject(model, 'timm', (3, 64, 64)), Case(model=model, runtime=runtime, **case))
                 for model in models for runtime in runtimes]
        one = Session(cases, tmp_path, plan, layers, 0, told or (lambda what, done, total: None))
        with suppress(KeyboardInterrupt):
            one.measure()
        assert not Played.live
        return {(result.case.model, result.case.runtime): result for result in one.results}

    return run


def test_a_case_is_measured_alone_and_then_in_turns(play):
    result = play('fast')['fast', 'eager']
    assert result.status == 'measured'
    assert [do for _, _, do in Played.log] == [
        'open', 'check', 'load', 'work', 'open', 'load', 'memory', 'open', 'load', 'warm_up', *['time'] * 8, 'open',
        'peaks']
    cold, memory = result.cold, result.memory
    assert (cold.imports, cold.build, cold.prepare, cold.load, cold.first_call) == (1.0, 0.125, None, 0.25, 0.5)
    assert (memory.baseline, memory.peak, memory.own, memory.weights_in_memory) == (100, 350, 250, 40)
    # Eight visits of 1.2 / 8 s: one call of an eighth fits, three are the least.
    assert len(result.latency.samples) == 24
    assert len(result.latency.rounds) == 4
    assert (result.latency.p50.value, result.latency.warm_up_calls, result.latency.steady) == (0.125, 10, True)
    assert result.threads == 2


def test_a_gpu_is_timed_by_its_own_clock_too(play):
    result = play('fast', device='cuda')['fast', 'eager']
    assert (result.latency.p50.value, result.device_latency.p50.value) == (0.125, 0.0625)
    assert result.device_latency.rounds == (0.0625,) * 4
    assert result.transfers == Transfers(0.25, 0.125)
    on_cpu = play('fast')['fast', 'eager']
    assert (on_cpu.device_latency, on_cpu.transfers) == (None, None)


def test_energy_is_that_of_all_calls_of_a_case_by_their_number(play, monkeypatch):
    class Meter:
        def lap(self):
            return 8.0

    monkeypatch.setattr(session_module, 'EnergyMeter', Meter)
    # Eight visits, each of three calls that are timed and one that is not.
    assert play('fast')['fast', 'eager'].energy == 8 * 8.0 / (8 * 4)
    Meter.lap = lambda self: None
    assert play('fast')['fast', 'eager'].energy is None


def test_cases_take_turns_there_and_back_in_an_order_that_changes(play):
    play('slow', 'fast', 'other')
    timed = [model for model, _, do in Played.log if do == 'time']
    rounds = [timed[i:i + 6] for i in range(0, 24, 6)]
    for visited in rounds:
        assert sorted(visited[:3]) == ['fast', 'other', 'slow']
        assert visited[3:] == visited[2::-1]
    assert len({tuple(visited) for visited in rounds}) > 1
    assert Played.most_live == 3


def test_more_rounds_follow_for_those_with_too_few_calls(play):
    found = play('slow', 'fast', plan=Plan(seconds=1.2, samples=40, rounds=4, limit=100))
    assert len(found['fast', 'eager'].latency.samples) == 42  # six a round
    assert len(found['slow', 'eager'].latency.samples) == 42


def test_no_case_goes_on_beyond_the_limit(play):
    found = play('slow', 'fast', plan=Plan(seconds=1.2, samples=1000, rounds=4, limit=9))
    assert len(found['slow', 'eager'].latency.samples) == 36  # of 1.5 s a round: after six
    assert len(found['fast', 'eager'].latency.samples) == 72


def test_a_file_is_exported_once_for_all_runtimes_that_need_it(play):
    found = play('fast', runtimes=('eager', 'onnxruntime', 'openvino'))
    assert [do for _, _, do in Played.log].count('export') == 1
    for runtime in ('onnxruntime', 'openvino'):
        result = found['fast', runtime]
        assert (result.cold.build, result.cold.prepare, result.memory.weights_on_disk) == (None, 2.0, 5)
    assert found['fast', 'eager'].memory.weights_on_disk is None


def test_outputs_are_compared_with_those_of_eager(play):
    found = play('fast', runtimes=('eager', 'onnxruntime'))
    assert found['fast', 'eager'].agreement.max_abs_difference == 0
    other = found['fast', 'onnxruntime'].agreement
    assert (other.max_abs_difference, other.largest_output, other.top1_agreement) == (0.5, 11, 1)


def test_one_that_fails_does_not_keep_the_others_from_being_measured(play):
    Played.fail['slow', 'memory'] = WorkerFailed('crashed', 'its process was killed by signal 9')
    found = play('slow', 'fast')
    assert (found['slow', 'eager'].status, found['fast', 'eager'].status) == ('crashed', 'measured')
    assert found['slow', 'eager'].message == 'its process was killed by signal 9'
    assert ('slow', 'eager', 'time') not in Played.log


def test_one_that_fails_while_it_is_timed_keeps_what_was_found_before(play):
    Played.fail['slow', 'time'] = WorkerFailed('crashed', 'gone')
    found = play('slow', 'fast')
    assert found['slow', 'eager'].status == 'crashed'
    assert found['slow', 'eager'].memory.peak == 350
    assert found['fast', 'eager'].status == 'measured'


def test_a_size_that_a_network_refuses_is_refused_in_all_runtimes(play):
    Played.fail['slow', 'check'] = WorkerFailed('refused', 'slow refuses an input of 1 x 3 x 64 x 64')
    found = play('slow', 'fast', runtimes=('eager', 'onnxruntime'))
    assert {found['slow', runtime].status for runtime in ('eager', 'onnxruntime')} == {'refused'}
    assert {found['fast', runtime].status for runtime in ('eager', 'onnxruntime')} == {'measured'}


def test_a_network_that_cannot_be_exported_is_still_measured_where_no_file_is_needed(play):
    Played.fail['slow', 'export'] = WorkerFailed('refused', 'cannot be exported')
    found = play('slow', runtimes=('eager', 'onnxruntime'))
    assert (found['slow', 'eager'].status, found['slow', 'onnxruntime'].status) == ('measured', 'refused')


def test_a_crash_under_a_memory_cap_means_that_it_does_not_fit(play):
    Played.fail['slow', 'eager', 'memory'] = WorkerFailed('crashed', 'its process was killed by signal 6')
    result = play('slow', memory_cap=1000)['slow', 'eager']
    assert result.status == 'does not fit'
    assert 'memory cap' in result.message


def test_a_peak_above_the_cap_does_not_fit_either(play):
    result = play('fast', memory_cap=349)['fast', 'eager']
    assert result.status == 'does not fit'
    assert result.memory.peak == 350
    assert play('fast', memory_cap=350)['fast', 'eager'].status == 'measured'


def test_the_threads_that_the_runtime_says_it_uses_are_kept(play):
    Played.answers['load'] = {'threads': 1}
    result = play('fast')['fast', 'eager']
    assert (result.case.threads, result.threads) == (2, 1)


def test_what_was_found_before_ctrl_c_is_kept(play):
    def stop(what, done, total):
        if (what, done) == ('cold starts and memory, cases', 1):
            raise KeyboardInterrupt

    found = play('slow', 'fast', told=stop)
    assert {result.status for result in found.values()} == {'interrupted'}
    assert found['slow', 'eager'].memory.peak == 350
    assert found['fast', 'eager'].memory is None


def test_ctrl_c_between_rounds_keeps_the_rounds(play):
    def stop(what, done, total):
        if (what, done) == ('measuring, rounds', 2):
            raise KeyboardInterrupt

    result = play('fast', told=stop)['fast', 'eager']
    assert result.status == 'interrupted'
    assert len(result.latency.rounds) == 2


def test_more_cases_than_memory_holds_take_turns_in_groups(play, monkeypatch):
    monkeypatch.setattr(session_module.psutil, 'virtual_memory', lambda: type('', (), {'available': 1400})())
    play('slow', 'fast', 'other')
    assert Played.most_live == 2  # 350 bytes each, in half of the memory
    assert {do for *_, do in Played.log} >= {'time'}


def test_what_is_not_installed_is_listed_with_its_line(play, monkeypatch):
    monkeypatch.setattr(session_module.RUNTIMES['openvino'].__class__, 'missing',
                        lambda self: 'pip install it' if self.class_name == 'OpenVino' else None)
    found = play('fast', runtimes=('eager', 'openvino'))
    assert (found['fast', 'openvino'].status, found['fast', 'openvino'].message) == ('not installed', 'pip install it')
    assert found['fast', 'eager'].status == 'measured'


def test_layers_are_timed_in_a_process_of_their_own(play):
    result = play('fast', layers=True)['fast', 'eager']
    assert [(layer.name, layer.seconds) for layer in result.layers] == [('conv', 0.01)]
    dos = [do for _, _, do in Played.log]
    assert dos[dos.index('layers') - 1] == 'open'

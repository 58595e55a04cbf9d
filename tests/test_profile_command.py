"""`rsq profile` as it is typed: what it measures, writes and refuses, and how it ends."""
import csv
import json

import pytest
from jsonschema import validate
from profiles import calls, make_case, make_latency, make_profile, make_result

from rsq_backbone.profiler import measure
from rsq_backbone.profiler.files import write_profile
from rsq_backbone.profiler.profile import CaseResult, Memory
from rsq_backbone.profiler.schema import profile_schema


@pytest.fixture
def measured(monkeypatch):
    """Gives what the command asked for; `measured.results` is what it gets."""
    class Measured:
        results = [make_result(latency=make_latency(calls(0.02, 700)))]

    def profile(models, **settings):
        Measured.asked = {'models': models, **settings}
        return make_profile(Measured.results)

    monkeypatch.setattr(measure, 'profile', profile)
    return Measured


def test_without_arguments_it_measures_our_network_in_all_that_is_installed(rsq, measured):
    code, out, _ = rsq('profile')
    assert code == 0
    assert measured.asked['models'] == ['res_squeezenet']
    assert measured.asked['runtimes'] == ['eager', 'eager-channels-last', 'onnxruntime', 'openvino']
    assert measured.asked['plan'] is measure.STANDARD
    assert 'res_squeezenet' in out


def test_options_reach_what_measures(rsq, measured):
    rsq('profile', 'resnet18', 'lcnet_100', '--runtime', 'eager,compile', '--threads', '1, 2', '--batch', '1,4',
        '--input-size', '224', '--cores', '0', '--cpu-isa', 'avx2', '--memory-cap', '512MB', '--end-to-end', '--layers',
        '--quick', '--estimate', 'mx130,Raspberry Pi 5', '--seed', '3')
    progress = measured.asked.pop('progress')
    assert callable(progress)
    assert measured.asked == {
        'models': ['resnet18', 'lcnet_100'], 'runtimes': ['eager', 'compile'], 'threads': [1, 2], 'batches': [1, 4],
        'input_sizes': [224], 'device': 'cpu', 'cores': [0], 'cpu_isa': 'avx2', 'memory_cap': 512_000_000,
        'gpu_memory_cap': None, 'end_to_end': True, 'layers': True, 'plan': measure.QUICK,
        'devices': ['mx130', 'Raspberry Pi 5'], 'seed': 3}


@pytest.mark.parametrize(('text', 'size'), [
    ('512MB', 512_000_000), ('2GiB', 2 << 30), ('1.5 gb', 1_500_000_000), ('300m', 300_000_000), ('4096', 4096),
    ('64KiB', 65536)])
def test_sizes_are_read_with_their_units(rsq, measured, text, size):
    rsq('profile', '--memory-cap', text)
    assert measured.asked['memory_cap'] == size


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--memory-cap', 'much'], '512MB'),
    (['--memory-cap', '0MB'], '512MB'),
    (['--memory-cap', '-3GB'], '512MB'),
    (['--threads', 'one'], '--threads takes whole numbers'),
    (['--accuracy', 'resnet18'], 'MODEL=VALUE'),
    (['--json', 'nowhere/p.json'], 'no such folder'),
    (['compare', 'one.json'], 'compare takes two files'),
    (['compare', 'gone.json', 'gone.json'], 'gone.json'),
])
def test_what_cannot_be_is_refused_before_anything_is_measured(refused, measured, arguments, says):
    assert says in refused('profile', *arguments)
    assert not hasattr(measured, 'asked')


def test_every_format_is_written(rsq, measured, tmp_path):
    code, _, _ = rsq(
        'profile', '--json', tmp_path / 'p.json', '--csv', tmp_path / 'p.csv', '--markdown', tmp_path / 'p.md',
        '--html', tmp_path / 'p.html', '--accuracy', 'res_squeezenet=58.2')
    assert code == 0
    validate(json.loads((tmp_path / 'p.json').read_text()), profile_schema())
    with (tmp_path / 'p.csv').open(newline='') as file:
        [row] = csv.DictReader(file)
    assert float(row['p50_ms']) == pytest.approx(20)
    assert '20.0' in (tmp_path / 'p.md').read_text()
    assert 'Accuracy over the time of a picture' in (tmp_path / 'p.html').read_text()


def test_json_to_standard_output_is_all_there_is(rsq, measured):
    code, out, _ = rsq('profile', '--json', '-')
    assert code == 0
    assert json.loads(out)['cases'][0]['case']['model'] == 'res_squeezenet'


@pytest.mark.parametrize(('arguments', 'code', 'says'), [
    (['--budget-ms', '100', '--budget-mb', '1000'], 0, ''),
    (['--budget-ms', '10'], 3, 'the budget is 10 ms'),
    (['--budget-mb', '200'], 3, 'the budget is 200 MB'),
])
def test_the_exit_code_says_whether_it_fits_the_budget(rsq, measured, arguments, code, says):
    """p90 of these calls is a little above 20 ms, the process has 294 MB."""
    ended, _, err = rsq('profile', *arguments)
    assert ended == code
    assert says in err


def test_a_budget_is_not_met_by_what_could_not_be_measured(rsq, measured):
    measured.results = [CaseResult(make_case(), 'crashed', 'gone')]
    assert rsq('profile', '--budget-ms', '1000')[0] == 1


@pytest.mark.parametrize(('budget', 'code', 'says'), [
    ('1000', 0, ''),  # none of the twenty calls takes as long
    ('30', 4, 'cannot tell whether it is within the budget: res_squeezenet, eager: 0 of 20 calls'),  # though all near
    ('20.0001', 4, 'cannot tell whether it is within the budget: res_squeezenet, eager: '),
    ('1', 3, 'beyond the budget: res_squeezenet, eager: half of the calls take 20 ms or more, the budget is 1 ms'),
])
def test_too_few_calls_for_a_percentile_are_unknown_and_not_beyond(rsq, measured, budget, code, says):
    measured.results = [make_result(latency=make_latency([0.02] * 15 + [0.03] * 5))]
    ended, _, err = rsq('profile', '--budget-ms', budget)
    assert ended == code
    assert err.startswith(f'rsq: {says}' if says else '')
    assert budget != '20.0001' or '5 of 20 calls took more than 20.0001 ms, too few calls' in err


def test_strict_fails_where_calls_were_scattered(rsq, measured):
    assert rsq('profile', '--strict')[0] == 0
    measured.results = [make_result(latency=make_latency(calls(0.02, 700, noise=0.3)))]
    code, _, err = rsq('profile', '--strict')
    assert code == 4
    assert 'scattered by' in err
    assert rsq('profile')[0] == 0


@pytest.mark.parametrize(('status', 'code'), [
    ('crashed', 1), ('refused', 2), ('not installed', 2), ('does not fit', 3), ('interrupted', 130)])
def test_the_exit_code_says_what_became_of_the_cases(rsq, measured, status, code):
    measured.results = [make_result(), CaseResult(make_case('resnet18'), status, 'the reason')]
    ended, out, _ = rsq('profile')
    assert ended == code
    assert 'the reason' in out
    assert '20.0' in out  # what was measured all the same


def test_compare_prints_what_changed(rsq, tmp_path):
    """Twelve rounds of the same module, then of one that takes half as long again."""
    for name, median in (('old', 0.02), ('new', 0.03)):
        samples = calls(median, 240)
        rounds = tuple(sorted(samples)[i] for i in range(114, 126))
        memory = Memory(None, None, baseline=200_000_000, peak=294_000_000)
        write_profile(
            make_profile([make_result(latency=make_latency(samples, rounds=rounds), memory=memory)]),
            tmp_path / f'{name}.json')
    code, out, _ = rsq('profile', 'compare', tmp_path / 'old.json', tmp_path / 'new.json')
    assert code == 0
    assert 'slower' in out
    assert '20.0 ms' in out
    assert '30.0 ms' in out
    assert '1.500' in out
    assert 'no difference' in out  # of the memory
    both, written = (tmp_path / 'old.json', tmp_path / 'new.json'), tmp_path / 'compared.json'
    code, printed, _ = rsq('profile', 'compare', *both, '--json', '-')
    code, again, _ = rsq('profile', 'compare', *both, '--json', written)
    assert again == out
    assert json.loads(written.read_text()) == json.loads(printed)
    assert json.loads(printed)['changes'][0]['verdict'] == 'slower'
    code, out, _ = rsq('profile', 'compare', tmp_path / 'old.json', tmp_path / 'old.json')
    assert 'slower' not in out

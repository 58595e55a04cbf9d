"""Whole profiles of small networks, measured for real, as far as their figures can be known beforehand."""
import psutil
import pytest
import torch
from own_networks import Allocates, Dies, Scales

import rsq_backbone
from rsq_backbone.errors import UserError
from rsq_backbone.profiler.files import read_profile, write_profile
from rsq_backbone.profiler.measure import Plan, profile

PLAN = Plan(seconds=0.2, samples=11, rounds=4, limit=2)
PICTURE = torch.zeros(2, 3, 32, 32)


@pytest.fixture(scope='module')
def measured():
    """test_resnet at 64 pixels in two runtimes, three pictures a call."""
    return profile(
        'test_resnet', runtimes=['eager', 'onnxruntime'], threads=[1], batches=[3], input_sizes=[64], plan=PLAN,
        devices=['Raspberry Pi 4'])


def test_every_case_has_its_figures(measured):
    assert [(r.case.batch, r.case.runtime) for r in measured.cases] == [(3, 'eager'), (3, 'onnxruntime')]
    for result in measured.cases:
        assert (result.status, result.message) == ('measured', '')
        assert len(result.latency.samples) >= 24  # eight visits of three calls
        assert len(result.latency.rounds) == 4
        assert 0 < result.latency.minimum <= result.latency.p50.value <= max(result.latency.samples)
        assert result.memory.peak > result.memory.baseline > 1 << 20
        assert min(result.cold.imports, result.cold.first_call) > 0
        assert (result.cold.build is None, result.cold.prepare is None) == (
            (True, False) if result.case.runtime == 'onnxruntime' else (False, True))


def test_runtimes_agree_with_eager(measured):
    for result in measured.cases:
        agreement = result.agreement
        # float32, some twenty layers: the order of sums is all that differs
        assert agreement.max_abs_difference <= 1e-4 * agreement.largest_output
        assert agreement.top1_agreement == 1
    assert {r.agreement.max_abs_difference for r in measured.cases if r.case.runtime == 'eager'} == {0}


def test_work_is_that_of_the_network(measured):
    import timm

    [work] = measured.works
    assert work.parameters == sum(p.numel() for p in timm.create_model('test_resnet').parameters())
    assert [e.device for e in measured.estimates] == ['Raspberry Pi 4']
    assert [check.case.runtime for check in measured.estimate_checks] == ['eager', 'onnxruntime']
    assert [peaks.threads for peaks in measured.peaks] == [1]


def test_threads_are_verified(measured):
    assert {r.threads for r in measured.cases if r.case.runtime == 'eager'} == {1}


def test_it_is_written_and_read_without_loss(measured, tmp_path):
    write_profile(measured, tmp_path / 'p.json')
    assert read_profile(tmp_path / 'p.json') == measured


def test_a_module_of_several_inputs_is_measured_counted_and_exported():
    """A 3x3 convolution from 3 to 8 channels has 14 x 14 positions in a picture of 16 x 16."""
    found = profile(
        Scales(), [torch.randn(2, 3, 16, 16), torch.ones(2)], runtimes=['eager', 'onnxruntime'], threads=[1], plan=PLAN,
        layers=True)
    assert [(one.status, one.message) for one in found.cases] == [('measured', '')] * 2
    [work] = found.works
    assert (work.macs, work.activations) == (14 * 14 * 3 * 9 * 8, 14 * 14 * 8)
    assert [layer.name for layer in found.cases[0].layers][:1] == ['conv']


def test_nothing_in_the_working_folder_is_imported(tmp_path, monkeypatch):
    for name in ('psutil', 'yaml', 'numpy'):
        (tmp_path / f'{name}.py').write_text('raise SystemExit("imported")')
    monkeypatch.chdir(tmp_path)
    [result] = profile('test_resnet', threads=[1], plan=PLAN, input_sizes=[64]).cases
    assert (result.status, result.message) == ('measured', '')


def test_memory_of_a_known_size_is_found_within_five_per_cent():
    [result] = profile(Allocates(256), [PICTURE], threads=[1], plan=PLAN).cases
    assert result.status == 'measured'
    assert result.case.batch == 2
    assert result.memory.own / 2**20 == pytest.approx(256, rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(not psutil.LINUX, reason='only Linux can limit the memory of a process')
def test_under_a_memory_cap_it_is_said_whether_it_fits():
    """PyTorch itself takes what it takes; the cap leaves half or twice as much as the module needs beside it."""
    [free] = profile(Allocates(256), [PICTURE], threads=[1], plan=PLAN).cases
    for room, status in ((128, 'does not fit'), (512, 'measured')):
        cap = free.memory.baseline + (room << 20)
        [result] = profile(Allocates(256), [PICTURE], threads=[1], plan=PLAN, memory_cap=cap).cases
        assert (result.status, result.case.memory_cap) == (status, cap)


@pytest.mark.slow
def test_one_that_takes_its_process_with_it_is_reported():
    [result] = profile(Dies(), [PICTURE], threads=[1], plan=PLAN).cases
    assert result.status == 'crashed'
    assert 'signal 9' in result.message


@pytest.mark.slow
def test_a_size_that_the_model_refuses_is_said_in_one_line():
    [result] = profile('res_squeezenet', threads=[1], input_sizes=[3], plan=PLAN).cases
    assert result.status == 'refused'
    assert '\n' not in result.message
    assert '3 x 3' in result.message


@pytest.mark.parametrize(('settings', 'says'), [
    ({'models': 'res_squeezenot'}, 'res_squeezenet'),
    ({'runtimes': ['tflite']}, 'choose of eager'),
    ({'threads': [0]}, 'threads should be'),
    ({'batches': [-1]}, 'batch should be'),
    ({'device': 'tpu'}, 'cpu or cuda'),
    ({'cpu_isa': 'avx10'}, 'choose of sse41'),
    ({'devices': ['Cray-1']}, 'Cray-1'),
])
def test_what_does_not_exist_is_refused_before_anything_is_measured(settings, says):
    with pytest.raises(UserError, match=says) as raised:
        profile(**{'models': 'res_squeezenet', **settings})
    assert '\n' not in str(raised.value)


def test_the_package_offers_it():
    assert rsq_backbone.profile is profile

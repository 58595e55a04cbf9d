import dataclasses

import pytest
from profiles import MB, comparison, growth, make_case, make_latency, make_profile, make_result, make_work, on_cuda

from rsq_backbone.profiler.profile import Agreement, CaseResult, Load, Memory, Peaks, Percentile
from rsq_backbone.profiler.summary import (
    achieved,
    assumptions,
    case_label,
    common_settings,
    disturbances,
    figure,
    remarks,
    size,
    varying,
    verdicts,
    with_interval,
)
from rsq_backbone.profiler.tables import (
    calls_table,
    cases_table,
    cuda_table,
    growth_table,
    layers_table,
    load_table,
    machine_table,
    memory_table,
)


@pytest.mark.parametrize(('value', 'text'), [
    (0, '0'), (1234.5, '1234'), (123.4, '123'), (12.34, '12.3'), (1.234, '1.23'), (0.01234, '0.0123'),
    (-12.34, '-12.3')])
def test_figures_have_three_digits(value, text):
    assert figure(value) == text


@pytest.mark.parametrize(('input_size', 'text'), [
    ((3, 224, 224), '224'), ((3, 256, 512), '256x512'), ((1, 224, 224), '1x224x224')])
def test_sizes_are_short_where_they_can_be(input_size, text):
    assert size(input_size) == text


def with_p50(value, low, high, **fields):
    """A latency with this interval, in milliseconds."""
    latency = make_latency([value / 1e3] * 20, **fields)
    return dataclasses.replace(latency, p50=Percentile(value / 1e3, low / 1e3, None if high is None else high / 1e3))


def test_an_interval_without_an_upper_end_is_open():
    latency = with_p50(10, 9, None)
    assert with_interval(latency, latency.p50) == '10.0 [9.00, ...]'


def test_too_few_samples_are_said_with_their_number():
    latency = make_latency([0.01] * 7)
    assert with_interval(latency, latency.p50) == 'n/a (n=7)'


def test_labels_tell_cases_apart_and_leave_out_the_rest():
    cases = [make_case(threads=1), make_case(threads=2, cpu_isa='avx2')]
    parts = varying(cases)
    assert [case_label(case, parts) for case in cases] == ['1 thread', '2 threads, avx2 at most']
    assert common_settings(cases) == 'res_squeezenet, eager, CPU, batch 1, 224 px'


def test_a_single_case_is_called_by_its_model():
    case = make_case(cores=(0, 1), memory_cap=512 * MB, end_to_end=True)
    assert case_label(case, varying([case])) == 'res_squeezenet'
    assert common_settings([case]) == (
        'eager, CPU, 1 thread, batch 1, 224 px, pinned to 0, 1, memory cap 512 MB, from JPEG to class')


def test_a_rejected_case_that_seems_faster_is_named_with_the_fastest():
    profile = make_profile([
        make_result(make_case('slow'), latency=with_p50(44, 42, 45.6)),
        make_result(make_case('fast'), latency=with_p50(1.48, 1.36, 1.55, verdict='rejected'))])
    assert verdicts(profile)[0] == (
        'Fastest of those that can be relied on: slow, 44.0 ms [42.0, 45.6]; rejected, but with a lower median: '
        'fast, 1.48 ms [1.36, 1.55]')


def test_fastest_is_not_named_alone_where_intervals_overlap():
    profile = make_profile([
        make_result(make_case('a'), latency=with_p50(10, 9.5, 10.5)),
        make_result(make_case('b'), latency=with_p50(10.2, 10.4, 11)),
        make_result(make_case('c'), latency=with_p50(12, 11.5, 12.5))])
    assert verdicts(profile)[0] == 'Fastest: a, 10.0 ms [9.50, 10.5]; not clearly slower: b'


def test_rejected_and_unfinished_cases_win_nothing():
    small = Memory(1, 1, 200 * MB, 201 * MB)
    profile = make_profile([
        make_result(make_case('rejected'), latency=with_p50(1, 1, 1, verdict='rejected')),
        make_result(make_case('good'), latency=with_p50(10, 9, 11)),
        CaseResult(make_case('stopped'), 'does not fit', memory=small)])
    fastest, smallest, *others = verdicts(profile)
    assert fastest.startswith('Fastest of those that can be relied on: good')
    assert smallest == 'Smallest: rejected, 84.0 MB at its peak beyond the runtime (294 MB in all)'
    assert others == ['Rejected, spread above 25 %: rejected', 'Not measured: 1 of 3 cases']


def test_throughput_is_named_where_a_larger_batch_has_more():
    assert 'Most pictures: batch 8, 2000 a second' in verdicts(on_cuda())  # 8 in 4 ms


def test_what_was_achieved_reads_the_weights_once_a_batch():
    """400 M MACs and 80 MB (32 of them weights) a picture; four in 0.2 s are 8 GMAC/s and 224 MB / 0.2 s."""
    result = make_result(make_case(batch=4), latency=make_latency([0.2] * 20))
    profile = make_profile([result], works=(make_work(),), peaks=(Peaks(1, 'cpu', 16e9, 2e9), Peaks(2, 'cpu', 1, 1)))
    found = achieved(profile, result)
    assert found.macs_per_second == pytest.approx(8e9)
    assert found.bytes_per_second == pytest.approx(1.12e9)
    assert found.intensity == pytest.approx(1600 / 224)
    assert (found.compute_share, found.memory_share) == pytest.approx((0.5, 0.56))
    assert found.bound == 'memory'  # 7.1 MACs a byte are less than 8
    assert achieved(dataclasses.replace(profile, works=()), result) is None
    assert achieved(profile, make_result(make_case(end_to_end=True))) is None


def test_peaks_of_other_thread_counts_are_not_compared_with():
    result = make_result(make_case(threads=2))
    found = achieved(make_profile([result], works=(make_work(),), peaks=(Peaks(1, 'cpu', 16e9, 2e9),)), result)
    assert (found.compute_share, found.memory_share, found.bound) == (None, None, None)


def load(**fields):
    return Load(**{**dict.fromkeys((
        'foreign_cores', 'steal', 'pressure', 'frequency_before', 'frequency_after', 'temperature_before',
        'temperature_after')), **fields})


def test_what_disturbed_a_measurement_is_said():
    calm, busy = (make_result(load=load(foreign_cores=cores)) for cores in (0.0, 0.5))
    never_run = make_result(load=None)
    assert disturbances(make_profile([busy, calm, never_run])) == [
        'other processes kept 0.50 cores busy, at the worst; in 1 of 2 cases']
    assert disturbances(make_profile([calm])) == []


def test_a_runtime_that_took_other_threads_is_remarked_upon():
    results = [
        make_result(make_case('a', threads=2), threads=1),
        make_result(make_case('b', threads=2), latency=make_latency([0.01] * 20, steady=False)),
        make_result(make_case('c', threads=2), notes=('odd',)), make_result(make_case('d', threads=2), notes=('odd',))]
    assert remarks(make_profile(results)) == [
        'a: ran with 1 threads, not 2', 'b: the warm-up met its limit before calls took the same time', 'c; d: odd']


def test_growth_is_told_in_multiples_of_the_smallest():
    """The U-Net's memory beyond the runtime is 60 MB and 45 for each 256 x 256; its time is in proportion."""
    table = growth_table(growth())
    assert table.head == ('batch', 'size', 'pixels', 'p50, ms', 'time', 'ms a picture', 'memory, MB', 'memory')
    assert table.rows == (
        ('1', '256', '1.00 x', '50.0', '1.00 x', '50.0', '105', '1.00 x'),
        ('4', '256', '4.00 x', '200', '4.00 x', '50.0', '240', '2.29 x'),
        ('1', '512', '4.00 x', '200', '4.00 x', '200', '240', '2.29 x'),
        ('4', '512', '16.0 x', '800', '16.0 x', '200', '780', '7.43 x'),
        ('1', '1024', '16.0 x', '800', '16.0 x', '800', '780', '7.43 x'))
    assert growth_table(comparison()).rows == ()


def test_a_case_that_did_not_fit_is_not_called_by_its_speed():
    assert cases_table(growth()).rows[-1] == ('4', '1024', '-', '-', '-', '-', '1290', '-', 'does not fit')


@pytest.mark.parametrize(('agreement', 'text'), [
    (None, '-'), (Agreement(0.0, 5.0, 1.0), '0'), (Agreement(2e-5, 10.0, 1.0), '2e-06'),
    (Agreement(0.5, 10.0, 0.97), '5e-02, 97 %'), (Agreement(0.5, 10.0, 0.9999), '5e-02, 99.9 %'),
    (Agreement(None, 10.0, 0.0), 'not finite')])
def test_agreement_is_a_share_of_the_output(agreement, text):
    assert cases_table(make_profile([make_result(agreement=agreement)])).rows[0][-2] == text


def test_settings_without_a_column_of_their_own_share_one():
    table = cases_table(make_profile([make_result(make_case(cpu_isa=isa)) for isa in (None, 'avx2')]))
    assert table.head[0] == 'with'
    assert [row[0] for row in table.rows] == ['-', 'avx2 at most']


def test_gpu_memory_has_a_table_of_its_own():
    assert cuda_table(on_cuda()).rows == (
        ('1', '1.69 [1.65, 1.74]', '0.400', '0.0800', '69.0', '90.0', '390', '300', '510'),
        ('8', '3.00 [2.94, 3.09]', '0.400', '0.0800', '132', '160', '460', '300', '580'))
    assert cuda_table(comparison()).rows == ()


def test_calls_memory_and_load_are_told_in_full():
    latency = make_latency([0.010] * 30 + [0.011] * 30 + [0.012] * 30, standard_deviation=0.0008)
    profile = make_profile([
        make_result(latency=latency, energy=0.42, memory=Memory(44 * MB, None, 210 * MB, 294 * MB))])
    assert calls_table(profile).rows == ((
        'res_squeezenet', '90', '5', '8', '10.0', '11.0', '0.800', '18 %', '12.0 [11.8, 12.4]', 'n/a (n=90)',
        '0.420'),)
    assert memory_table(profile).rows == (('res_squeezenet', '44.0', '-', '210', '294', '84.0'),)
    assert load_table(profile).rows == (
        ('res_squeezenet', '0.02', '0.0 %', '1.0 %', '2600', '2590', '-', '-', '-', '-'),)


def test_growth_on_a_gpu_is_of_its_memory():
    assert [row[-2:] for row in growth_table(on_cuda()).rows] == [('90.0', '1.00 x'), ('160', '1.78 x')]


def test_layers_come_slowest_first():
    assert layers_table(on_cuda().cases[0]).rows == (
        ('fire2.squeeze', 'Conv2d', '1.20', '75 %'), ('conv1', 'Conv2d', '0.400', '25 %'))


def test_the_machine_is_compared_with():
    """400 M MACs and 80 MB in 20 ms are 20 GMAC/s and 4 GB/s."""
    profile = make_profile(
        [make_result(latency=make_latency([0.02] * 20))], works=(make_work(),), peaks=(Peaks(1, 'cpu', 80e9, 8e9),))
    table = machine_table(profile)
    assert table.rows == (('res_squeezenet', '20.0', '25 %', '4.00', '50 %', '5.00', 'memory'),)
    assert 'CPU, 1 thread: 80.0 GMAC/s, 8.00 GB/s' in table.explanation


def test_assumptions_that_not_all_estimates_share_are_named():
    assert assumptions(comparison()) == [
        'half of the peak is reached', 'res_squeezenet on Raspberry Pi 4: Raspberry Pi 4 as its maker describes it',
        'res_squeezenet on Jetson Nano: Jetson Nano as its maker describes it']


def test_profiles_import_nothing_heavy(run_python):
    run_python(
        'import sys, rsq_backbone.profiler.files\n'
        'heavy = {"torch", "timm", "numpy", "matplotlib", "jinja2", "onnxruntime", "openvino"} & set(sys.modules)\n'
        'assert not heavy, heavy')

"""What changed between two profiles: judged against scipy, and on runs whose difference is known."""
import dataclasses

import numpy as np
import pytest
from profiles import make_case, make_environment, make_latency, make_profile, make_result
from scipy.stats import mannwhitneyu

from rsq_backbone.profiler.compare import compare, ratio_interval
from rsq_backbone.profiler.profile import Memory


def run(seed, median=0.02, noise=0.03, between=0.015, case=None, rounds=12):
    """A result of this median; `noise` within the run, and `between` that all its calls have in common."""
    random = np.random.default_rng(seed)
    base = median * np.exp(random.normal(0, between))
    samples = base * np.exp(random.normal(0, noise, (rounds, 20)))
    latency = make_latency(samples.ravel().tolist(), rounds=tuple(np.median(samples, 1).tolist()))
    return make_result(case, latency=latency)


def latency_change(old, new):
    return next(change for change in compare(make_profile([old]), make_profile([new])).changes
                if change.figure == 'latency')


def test_ten_of_ten_runs_of_the_same_thing_are_no_difference():
    for seed in range(10):
        assert latency_change(run(seed), run(seed + 100)).verdict == 'no difference'


def test_ten_of_ten_slowdowns_by_a_fifth_are_found():
    for seed in range(10):
        change = latency_change(run(seed), run(seed + 100, median=0.024))
        assert change.verdict == 'slower'
        assert change.low <= change.ratio <= change.high
        assert latency_change(run(seed + 100, median=0.024), run(seed)).verdict == 'faster'


def test_what_scatters_more_than_it_changed_is_no_difference():
    change = latency_change(run(0, noise=0.3), run(1, median=0.024, noise=0.3))
    assert change.verdict == 'no difference'
    assert change.margin > 0.2


def test_the_interval_holds_a_ratio_as_often_as_it_says():
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = ratio_interval(np.exp(random.normal(0, 0.05, 12)), 1.1 * np.exp(random.normal(0, 0.05, 12)))
        held += low <= 1.1 <= high
    assert held / 400 >= 0.92


def test_the_interval_excludes_one_where_mann_and_whitney_find_a_difference():
    random = np.random.default_rng(1)
    for shift in np.linspace(0.9, 1.1, 41):
        old, new = np.exp(random.normal(0, 0.05, 12)), shift * np.exp(random.normal(0, 0.05, 12))
        low, high = ratio_interval(old, new)
        p = mannwhitneyu(old, new).pvalue
        if not 0.03 < p < 0.08:  # where the normal approximation may differ from the exact distribution
            assert (low > 1 or high < 1) == (p < 0.05)


def test_too_few_rounds_have_no_interval_and_show_no_difference():
    assert ratio_interval([1.0, 1.1], [2.0, 2.1]) == (None, None)
    change = latency_change(run(0, rounds=2), run(1, median=0.05, rounds=2))
    assert (change.low, change.verdict) == (None, 'no difference')


@pytest.mark.parametrize(('own', 'verdict'), [(103, 'no difference'), (120, 'more'), (80, 'less')])
def test_memory_is_compared_beyond_the_runtimes(own, verdict):
    before, after = (make_result(memory=Memory(None, None, baseline=200 << 20, peak=(200 + mb) << 20))
                     for mb in (100, own))
    [change] = [c for c in compare(make_profile([before]), make_profile([after])).changes if c.figure == 'memory']
    assert (change.verdict, change.ratio) == (verdict, pytest.approx(own / 100))


def test_small_sums_of_memory_are_the_allocators():
    before, after = (make_result(memory=Memory(None, None, baseline=0, peak=mb << 20)) for mb in (2, 4))
    [change] = [c for c in compare(make_profile([before]), make_profile([after])).changes if c.figure == 'memory']
    assert change.verdict == 'no difference'


def test_cases_are_matched_by_all_that_they_are():
    one, two = (run(0, case=make_case(threads=threads)) for threads in (1, 2))
    comparison = compare(make_profile([one]), make_profile([two]))
    assert comparison.changes == ()
    assert (comparison.only_old, comparison.only_new) == ((one.case,), (two.case,))


def test_what_was_not_measured_is_not_compared():
    failed = dataclasses.replace(run(0), status='crashed')
    assert compare(make_profile([failed]), make_profile([run(0)])).changes == ()


def test_another_machine_or_version_is_said():
    old = make_profile([run(0)])
    versions = {**old.versions, 'torch': '3.0'}
    new = make_profile([run(0)], environment=make_environment(cpu='AMD EPYC'), versions=versions)
    warnings = compare(old, new).warnings
    assert any('Intel' in line and 'AMD EPYC' in line for line in warnings)
    assert any(line == 'torch differs: 2.14.1 before, 3.0 now.' for line in warnings)
    assert compare(old, old).warnings == ()


def test_scattered_calls_are_said():
    scattered = make_profile([run(0, noise=0.3)])
    assert any('scattered' in line for line in compare(scattered, make_profile([run(0)])).warnings)

"""Percentiles, intervals and verdicts, against scipy, MLPerf's published minima, and distributions that are known."""
import math

import numpy as np
import pytest
from scipy.stats import binom

from rsq_backbone.profiler.statistics import LEAST_SAMPLES, _ranks_below, latency, median_interval, percentile, spread


@pytest.mark.parametrize('percent', LEAST_SAMPLES)
def test_a_percentile_wants_as_many_samples_as_mlperf_asks_for(percent):
    least = next(n for n in range(1, 10_000) if binom.cdf(1, n, 1 - percent / 100) <= 0.01)
    assert LEAST_SAMPLES[percent] == least
    samples = list(range(least))
    assert percentile(samples, percent) is not None
    assert percentile(samples[:-1], percent) is None


@pytest.mark.parametrize(('percent', 'n'), [(50, 11), (50, 100), (90, 64), (90, 1000), (99, 662), (99, 5000)])
def test_the_interval_lies_between_the_ranks_that_the_binomial_distribution_gives(percent, n):
    found = percentile(list(range(1, n + 1)), percent)  # each sample is its own rank
    share = percent / 100
    assert binom.cdf(found.low - 1, n, share) <= 0.025 < binom.cdf(found.low, n, share)
    if found.high is None:
        assert binom.sf(n - 1, n, share) > 0.025
    else:
        assert binom.sf(found.high - 1, n, share) <= 0.025 < binom.sf(found.high - 2, n, share)
    assert found.value == (np.median(range(1, n + 1)) if percent == 50 else math.ceil(n * share))


@pytest.mark.parametrize('percent', [50, 90, 99])
def test_the_interval_holds_the_true_percentile_as_often_as_it_says(percent):
    """Of skewed samples, as times are."""
    random, true = np.random.default_rng(0), np.exp(0.3 * {50: 0, 90: 1.2815516, 99: 2.3263479}[percent])
    held = 0
    for _ in range(400):
        found = percentile(np.exp(0.3 * random.standard_normal(700)).tolist(), percent)
        held += found.low <= true <= (math.inf if found.high is None else found.high)
    assert held / 400 >= binom.ppf(0.001, 400, 0.95) / 400


def test_a_high_percentile_of_few_samples_has_no_upper_bound():
    """Of 330 samples, the largest lies below the true 99th percentile with 0.99^330 = 3.6 %, of 662 with 0.1 %."""
    assert percentile(list(range(662)), 99).high is not None
    assert percentile(list(range(64)), 90).high is not None
    assert _ranks_below(330, 0.01) == 0


def test_a_median_has_an_interval_from_six_values_on():
    assert median_interval([3, 1, 2, 5, 4]).low is None
    assert (median_interval([3, 1, 2, 5, 4, 6]).low, median_interval([3, 1, 2, 5, 4, 6]).high) == (1, 6)


def test_spread_is_the_interquartile_range_over_the_median():
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    low, middle, high = np.percentile(values, [25, 50, 75])
    assert spread(values) == pytest.approx((high - low) / middle)
    assert math.isnan(spread([1.0]))


@pytest.mark.parametrize(('width', 'verdict'), [(0.02, 'ok'), (0.09, 'ok'), (0.11, 'noisy'), (0.3, 'rejected')])
def test_the_verdict_follows_the_spread(width, verdict):
    # Evenly from 1 - width to 1 + width, the quartiles lie half of that from the median.
    found = latency([np.linspace(1 - width, 1 + width, 101).tolist()], 5, True)
    assert found.spread == pytest.approx(width)
    assert found.verdict == verdict


def test_a_latency_sums_up_its_rounds():
    found = latency([[1.0, 2.0, 3.0], [5.0, 4.0]], 7, False)
    assert found.samples == (1, 2, 3, 5, 4)
    assert found.rounds == (2, 4.5)
    assert (found.minimum, found.mean) == (1, 3)
    assert found.standard_deviation == pytest.approx(np.std([1, 2, 3, 4, 5], ddof=1))
    assert (found.p50, found.p90, found.p99) == (None, None, None)
    assert (found.warm_up_calls, found.steady) == (7, False)

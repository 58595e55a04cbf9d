"""From timed calls to figures that say how far they can be believed."""
import math
import statistics
from dataclasses import dataclass
from typing import List, Optional, Sequence

from rsq_backbone.profiler.profile import Latency, Percentile

__all__ = [
    'LEAST_SAMPLES', 'NOISY', 'REJECTED', 'Interval', 'latency', 'median_interval', 'paired_ratio',
    'percentile', 'spread',
]

# By percentile, the fewest samples that can bound it from above with 99 % confidence when one of them may lie beyond:
# the least n with P(Binomial(n, 1 - p) <= 1) <= 0.01. MLPerf's early stopping criterion at a tolerance of zero.
LEAST_SAMPLES = {50: 11, 90: 64, 99: 662}
NOISY, REJECTED = 0.10, 0.25  # spreads; torch.utils.benchmark's thresholds
_TAIL = 0.025  # at either end of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """A median with its 95 % interval, None where the values are too few for one."""

    median: float
    low: Optional[float]
    high: Optional[float]
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f'{self.median:.3f} (no interval, n = {self.n})'
        return f'{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]'


def median_interval(values: Sequence[float]) -> Interval:
    """Median and the order statistics that enclose the true one with at least 95 %, whatever the distribution."""
    ordered, n = sorted(values), len(values)
    below = _ranks_below(n, 0.5)
    if below == 0:
        return Interval(statistics.median(ordered), None, None, n)
    return Interval(statistics.median(ordered), ordered[below - 1], ordered[n - below], n)


def paired_ratio(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """How many times as large `values` are, from the ratios of those that belong to the same round."""
    return median_interval([a / b for a, b in zip(values, reference, strict=False)])


def percentile(samples: Sequence[float], percent: int) -> Optional[Percentile]:
    """A percentile of LEAST_SAMPLES with its 95 % interval; None where the samples are too few.

    The value is the sample of rank ceil(n percent / 100), of 50 the median. The interval is between order statistics
    whose ranks the binomial distribution gives, so it holds whatever the distribution of the samples.
    """
    n = len(samples)
    if n < LEAST_SAMPLES[percent]:
        return None
    ordered, share = sorted(samples), percent / 100
    value = statistics.median(ordered) if percent == 50 else ordered[math.ceil(n * percent / 100) - 1]
    below, above = _ranks_below(n, share), _ranks_below(n, 1 - share)
    return Percentile(value, ordered[below - 1], ordered[n - above] if above else None)


def _ranks_below(n: int, share: float) -> int:
    """The largest r for which the r-th smallest of n samples is above the true percentile with at most 2.5 %.

    The r-th is above it if fewer than r samples are below: P(Binomial(n, share) <= r - 1). Counted from the other end
    with 1 - share, the same gives the upper bound.
    """
    rank, total = 0, 0.0
    while rank < n:
        total += math.exp(
            math.lgamma(n + 1) - math.lgamma(rank + 1) - math.lgamma(n - rank + 1)
            + rank * math.log(share) + (n - rank) * math.log(1 - share))
        if total > _TAIL:
            break
        rank += 1
    return rank


def spread(values: Sequence[float]) -> float:
    """Interquartile range as a share of the median; NaN of a single value."""
    if len(values) < 2:
        return math.nan
    low, middle, high = statistics.quantiles(values, n=4, method='inclusive')
    return (high - low) / middle


def latency(rounds: Sequence[Sequence[float]], warm_up_calls: int, steady: bool, group: int = 0) -> Latency:
    """Of the calls of each round, in seconds, two or more in all."""
    samples: List[float] = [seconds for of_round in rounds for seconds in of_round]
    scatter = spread(samples)
    return Latency(
        samples=tuple(samples),
        rounds=tuple(statistics.median(of_round) for of_round in rounds),
        group=group,
        warm_up_calls=warm_up_calls,
        steady=steady,
        minimum=min(samples),
        p50=percentile(samples, 50),
        p90=percentile(samples, 90),
        p99=percentile(samples, 99),
        mean=statistics.fmean(samples),
        standard_deviation=statistics.stdev(samples),
        spread=scatter,
        verdict='rejected' if scatter > REJECTED else 'noisy' if scatter > NOISY else 'ok',
    )

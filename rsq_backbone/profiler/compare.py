"""What changed between two profiles, and what only seems to have."""
import math
import statistics
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from rsq_backbone.profiler.profile import Case, CaseResult, Environment, Profile

__all__ = ['Change', 'Comparison', 'compare', 'ratio_interval']

# What two runs of the same thing may differ by: another placement in memory, another clock of the processor, another
# neighbour. No interval computed within the runs knows of it; models in one profile take turns, and are told apart
# much finer.
BETWEEN_RUNS = 0.10
_MEMORY_MARGIN = 0.05  # which depends on none of that
_LEAST_MEMORY = 4 << 20  # bytes; smaller differences are the allocator's
_NORMAL_975 = 1.959964
# Packages by which two profiles have to agree to be of the same software.
_PACKAGES = ('python', 'torch', 'timm', 'segmentation-models-pytorch', 'onnxruntime', 'openvino')


@dataclass(frozen=True)
class Change:
    """Of one figure of one case."""

    case: Case
    figure: str  # 'latency' (median, seconds) or 'memory' (peak over the runtime's, bytes)
    old: float
    new: float
    ratio: float  # new / old
    low: Optional[float]  # 95 % interval of the ratio; None where the rounds are too few, and of memory
    high: Optional[float]
    margin: float  # ratios within 1 / (1 + margin) .. 1 + margin are no difference
    verdict: str  # 'faster', 'slower', 'less', 'more' or 'no difference'


@dataclass(frozen=True)
class Comparison:
    changes: Tuple[Change, ...]
    only_old: Tuple[Case, ...]  # measured in one of the profiles only
    only_new: Tuple[Case, ...]
    warnings: Tuple[str, ...]  # why the two may not be comparable, one line each


def compare(old: Profile, new: Profile) -> Comparison:
    """Judge every case that both have measured.

    A latency has changed if the 95 % interval of the ratio (Hodges and Lehmann's, from the medians of the rounds) lies
    beyond what two runs of the same thing may differ by: 10 %, or the spread of either run's calls if that is more.
    """
    olds, news = _measured(old), _measured(new)
    changes: List[Change] = []
    for case in olds.keys() & news.keys():
        changes += _changes(case, olds[case], news[case])
    order = list(olds)
    return Comparison(
        changes=tuple(sorted(changes, key=lambda change: (order.index(change.case), change.figure))),
        only_old=tuple(case for case in olds if case not in news),
        only_new=tuple(case for case in news if case not in olds),
        warnings=tuple(_differences(old, new)),
    )


def _measured(profile: Profile) -> Dict[Case, CaseResult]:
    return {result.case: result for result in profile.cases if result.status == 'measured'}


def _changes(case: Case, old: CaseResult, new: CaseResult) -> List[Change]:
    changes = []
    if old.latency and new.latency:
        low, high = ratio_interval(old.latency.rounds, new.latency.rounds)
        before, after = (statistics.median(result.latency.rounds) for result in (old, new) if result.latency)
        margin = max(BETWEEN_RUNS, old.latency.spread, new.latency.spread)
        slower = low is not None and low > 1 + margin
        faster = high is not None and high < 1 / (1 + margin)
        changes.append(Change(
            case, 'latency', before, after, after / before, low, high, margin,
            'slower' if slower else 'faster' if faster else 'no difference'))
    own_before, own_after = (result.memory.own if result.memory else None for result in (old, new))
    if own_before and own_after:
        before, after = float(own_before), float(own_after)
        margin = max(_MEMORY_MARGIN, _LEAST_MEMORY / min(before, after))
        ratio = after / before
        verdict = 'more' if ratio > 1 + margin else 'less' if ratio < 1 / (1 + margin) else 'no difference'
        changes.append(Change(case, 'memory', before, after, ratio, None, None, margin, verdict))
    return changes


def ratio_interval(old: Sequence[float], new: Sequence[float]) -> Tuple[Optional[float], Optional[float]]:
    """95 % interval of how many times as large the new values are, whatever their distribution.

    Between the order statistics of all ratios new / old that the Mann-Whitney statistic gives (Hodges and Lehmann
    1963; the normal approximation, with its continuity correction). None where the values are too few.
    """
    n, m = len(old), len(new)
    ratios = sorted(after / before for before in old for after in new)
    cut = math.floor(n * m / 2 - 0.5 - _NORMAL_975 * math.sqrt(n * m * (n + m + 1) / 12))
    if cut < 1:
        return None, None
    return ratios[cut - 1], ratios[n * m - cut]


def _differences(old: Profile, new: Profile) -> List[str]:
    machines = [_machine(profile.environment) for profile in (old, new)]
    software = [{package: profile.versions.get(package, 'none') for package in _PACKAGES} for profile in (old, new)]
    lines = [
        f'{what} differs: {before[what]} before, {after[what]} now.'
        for before, after in (machines, software) for what in before if before[what] != after[what]]
    for profile, when in ((old, 'before'), (new, 'now')):
        noisy = [result.case.model for result in profile.cases if result.latency and result.latency.verdict != 'ok']
        if noisy:
            lines.append(f'calls of {", ".join(dict.fromkeys(noisy))} were scattered {when}.')
    return lines


def _machine(environment: Environment) -> Dict[str, str]:
    """What makes it another one, or another setting of the same."""
    return {
        'processor': environment['cpu'],
        'number of usable cores': str(environment['usable_cores']),
        'governor': ', '.join(sorted({group['governor'] or 'unknown' for group in environment['core_groups']})),
        'power source': environment['power'] or 'unknown',
        'GPU': ', '.join(gpu['name'] for gpu in environment['gpus']) or 'none',
    }

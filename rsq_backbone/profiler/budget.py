"""Whether what was measured is within what a user can spend."""
import statistics
from typing import AbstractSet, Iterator, List, Optional, Tuple

from rsq_backbone.profiler.profile import Latency, Profile
from rsq_backbone.profiler.summary import case_label, varying

__all__ = ['over_budget', 'undecided', 'untrusted']


def over_budget(profile: Profile, seconds: Optional[float], memory: Optional[int]) -> List[str]:
    """One line for each measured case that is beyond the budget.

    Args:
        profile: Of cases that were to be measured.
        seconds: Of a call. The 90th percentile counts, as a frame that is late now and then is late.
        memory: Bytes of the whole process at its peak, libraries included: what the machine has to have.
    """
    found = []
    for case, latency, peak in _measured(profile):
        if seconds is not None and latency is not None:
            budget, median = f'the budget is {1e3 * seconds:g} ms', statistics.median(latency.samples)
            if latency.p90 is not None and latency.p90.value > seconds:
                found.append(f'{case}: 90 % of the calls take up to {1e3 * latency.p90.value:.3g} ms, {budget}')
            elif latency.p90 is None and median > seconds:
                found.append(f'{case}: half of the calls take {1e3 * median:.3g} ms or more, {budget}')
        if memory is not None and peak is not None and peak > memory:
            found.append(f'{case}: its process needs {peak / 1e6:.0f} MB, the budget is {memory / 1e6:.0f} MB')
    return found


def undecided(profile: Profile, seconds: Optional[float], memory: Optional[int]) -> List[str]:
    """One line for each measured case of which too little is known to say whether it is within the budget."""
    found = []
    for case, latency, peak in _measured(profile):
        if seconds is not None and latency is not None and latency.p90 is None:
            late = sum(sample > seconds for sample in latency.samples)
            # Without a late call, 29 make it 95 % sure that less than a tenth are late; of fewer none may come near.
            sure = not late and (len(latency.samples) >= 29 or max(latency.samples) <= seconds / 2)
            if not sure and statistics.median(latency.samples) <= seconds:
                found.append(
                    f'{case}: {late} of {len(latency.samples)} calls took more than {1e3 * seconds:g} ms, too few '
                    'calls for a 90th percentile; measure longer')
        if memory is not None and peak is None:
            found.append(f'{case}: this system does not tell the memory of a process')
    return found


def _measured(profile: Profile) -> Iterator[Tuple[str, Optional[Latency], Optional[int]]]:
    """Name, latency and peak memory of each case that was measured."""
    parts = _parts(profile)
    for result in profile.cases:
        if result.status == 'measured':
            yield case_label(result.case, parts), result.latency, result.memory.peak if result.memory else None


def _parts(profile: Profile) -> AbstractSet[str]:
    return varying(result.case for result in profile.cases) | {'model', 'runtime'}


def untrusted(profile: Profile) -> List[str]:
    """One line for each case whose calls were scattered, or that was not measured."""
    parts = _parts(profile)
    return [
        f'{case_label(result.case, parts)}: '
        + (f'{result.status}: {result.message}' if result.latency is None else
           f'{result.latency.verdict}, calls scattered by {100 * result.latency.spread:.0f} % of their median')
        for result in profile.cases if result.latency is None or result.latency.verdict != 'ok']

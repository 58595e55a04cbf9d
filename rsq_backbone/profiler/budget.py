"""Whether what was measured is within what a user can spend."""
from typing import AbstractSet, List, Optional

from rsq_backbone.profiler.profile import CaseResult, Profile
from rsq_backbone.profiler.summary import case_label, varying

__all__ = ['over_budget', 'untrusted']


def over_budget(profile: Profile, seconds: Optional[float], memory: Optional[int]) -> List[str]:
    """One line for each case beyond the budget, or without the figure that would tell.

    Args:
        profile: Of cases that were to be measured.
        seconds: Of a call. The 90th percentile counts, as a frame that is late now and then is late.
        memory: Bytes of the whole process at its peak, libraries included: what the machine has to have.
    """
    parts = _parts(profile)
    return [f'{case_label(result.case, parts)}: {problem}' for result in profile.cases
            for problem in _problems(result, seconds, memory)]


def _parts(profile: Profile) -> AbstractSet[str]:
    return varying(result.case for result in profile.cases) | {'model', 'runtime'}


def _problems(result: CaseResult, seconds: Optional[float], memory: Optional[int]) -> List[str]:
    if seconds is None and memory is None:
        return []
    if result.status != 'measured':
        return [f'{result.status}: {result.message}']
    problems = []
    if seconds is not None:
        p90 = result.latency.p90 if result.latency else None
        if p90 is None:
            problems.append('too few calls for a 90th percentile; measure longer')
        elif p90.value > seconds:
            problems.append(
                f'90 % of the calls take up to {1e3 * p90.value:.3g} ms, the budget is {1e3 * seconds:g} ms')
    if memory is not None:
        peak = result.memory.peak if result.memory else None
        if peak is None:
            problems.append('this system does not tell the memory of a process')
        elif peak > memory:
            problems.append(f'its process needs {peak / 1e6:.0f} MB, the budget is {memory / 1e6:.0f} MB')
    return problems


def untrusted(profile: Profile) -> List[str]:
    """One line for each case whose calls were scattered, or that was not measured."""
    parts = _parts(profile)
    return [
        f'{case_label(result.case, parts)}: '
        + (f'{result.status}: {result.message}' if result.latency is None else
           f'{result.latency.verdict}, calls scattered by {100 * result.latency.spread:.0f} % of their median')
        for result in profile.cases if result.latency is None or result.latency.verdict != 'ok']

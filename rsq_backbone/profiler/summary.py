"""What follows from a profile, in figures and in sentences: the same for the terminal, markdown and the page."""
import math
from dataclasses import dataclass
from typing import AbstractSet, Any, Callable, Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple

from rsq_backbone.profiler import load
from rsq_backbone.profiler.profile import Case, CaseResult, Latency, Percentile, Profile, Work
from rsq_backbone.profiler.statistics import Interval, paired_ratio

__all__ = [
    'COLD_STEPS', 'PARTS', 'SCATTER_MARKS', 'Achieved', 'achieved', 'assumptions', 'case_label', 'common_settings',
    'disturbances', 'failures', 'fastest_case', 'figure', 'first_works', 'growing_memory', 'machine_line', 'megabytes',
    'milliseconds', 'percentile', 'pictures_per_second', 'ratio_in_turns', 'remarks', 'scatter_mark',
    'seconds_per_call', 'series', 'setting', 'size', 'threads', 'varying', 'verdicts', 'with_interval', 'work_of',
]

COLD_STEPS = ('imports', 'build', 'prepare', 'load', 'first_call')

# Of a case, in the order in which they are named.
PARTS = (
    'model', 'runtime', 'device', 'threads', 'batch', 'input_size', 'cores', 'cpu_isa', 'memory_cap',
    'gpu_memory_cap', 'end_to_end')


def figure(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f'{value:.0f}'
    return f'{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}'


def milliseconds(seconds: Optional[float]) -> str:
    return '-' if seconds is None else figure(1e3 * seconds)


def megabytes(count: Optional[int]) -> str:
    """Of a million bytes each."""
    return '-' if count is None else figure(count / 1e6)


# What the marks of `scatter_mark` mean.
SCATTER_MARKS = '* calls scattered by more than 10 % of the median, ** by more than 25 %'


def scatter_mark(verdict: Optional[str]) -> str:
    """Of a latency's verdict, to stand behind its time where a table has no room for the word."""
    return {'noisy': '*', 'rejected': '**'}.get(verdict or '', '')


def size(input_size: Tuple[int, int, int]) -> str:
    """224 for a square colour picture, else 256x512, or 1x256x512 where the channels are not three."""
    channels, height, width = input_size
    sides = str(height) if height == width and channels == 3 else f'{height}x{width}'
    return sides if channels == 3 else f'{channels}x{sides}'


def threads(count: int) -> str:
    return f'{count} thread' if count == 1 else f'{count} threads'


def percentile(latency: Latency, of: Optional[Percentile]) -> str:
    """In milliseconds; where it is None, with the number of samples that were too few for it."""
    return f'n/a (n={len(latency.samples)})' if of is None else milliseconds(of.value)


def with_interval(latency: Latency, of: Optional[Percentile]) -> str:
    """In milliseconds, with the 95 % interval."""
    if of is None:
        return percentile(latency, of)
    high = '...' if of.high is None else milliseconds(of.high)
    return f'{milliseconds(of.value)} [{milliseconds(of.low)}, {high}]'


def seconds_per_call(result: CaseResult) -> Optional[float]:
    """The median, where there are samples enough for one."""
    return None if result.latency is None or result.latency.p50 is None else result.latency.p50.value


def pictures_per_second(result: CaseResult) -> Optional[float]:
    seconds = seconds_per_call(result)
    return result.case.batch / seconds if seconds else None


def varying(cases: Iterable[Case]) -> FrozenSet[str]:
    """Parts in which the cases differ, by which they are told apart; the model where they differ in nothing."""
    cases = tuple(cases)
    return frozenset(part for part in PARTS if len({getattr(case, part) for case in cases}) > 1) or frozenset({'model'})


_IN_WORDS: Dict[str, Callable[[Any], str]] = {
    'device': lambda name: name.upper(),
    'threads': threads,
    'batch': lambda pictures: f'batch {pictures}',
    'input_size': lambda channels_height_width: f'{size(channels_height_width)} px',
    'cores': lambda numbers: f'pinned to {", ".join(map(str, numbers))}' if numbers else '',
    'cpu_isa': lambda name: f'{name} at most' if name else '',
    'memory_cap': lambda count: f'memory cap {megabytes(count)} MB' if count else '',
    'gpu_memory_cap': lambda count: f'GPU memory cap {megabytes(count)} MB' if count else '',
    'end_to_end': lambda whole: 'from JPEG to class' if whole else '',
}


def setting(case: Case, part: str) -> str:
    """A part of a case in words; empty where it was left to the system."""
    return _IN_WORDS.get(part, str)(getattr(case, part))


def case_label(case: Case, parts: AbstractSet[str]) -> str:
    """Those parts of the case, in words."""
    return ', '.join(filter(None, (setting(case, part) for part in PARTS if part in parts)))


def common_settings(cases: Iterable[Case]) -> str:
    """What is not in their labels, as all share it; empty where there are no cases."""
    cases = tuple(cases)
    differing = varying(cases)
    return ', '.join(filter(None, (setting(case, p) for case in cases[:1] for p in PARTS if p not in differing)))


def failures(profile: Profile) -> List[str]:
    """Cases that did not come to their end, and why."""
    parts = varying(result.case for result in profile.cases)
    return [
        ': '.join(filter(None, (case_label(result.case, parts), result.status, result.message)))
        for result in profile.cases if result.status != 'measured']


def work_of(profile: Profile, case: Case) -> Optional[Work]:
    return next((w for w in profile.works if (w.model, w.input_size) == (case.model, case.input_size)), None)


def first_works(profile: Profile) -> List[Work]:
    """Of each model, at the first of its sizes: the others differ from it by their scale only."""
    return list({work.model: work for work in reversed(profile.works)}.values())[::-1]


def growing_memory(result: CaseResult) -> Optional[int]:
    """Bytes that the network added: reserved on the GPU where it ran on one, else those beyond the runtime."""
    if result.memory is None:
        return None
    return result.memory.own if result.memory.cuda is None else result.memory.cuda.reserved


@dataclass(frozen=True)
class Achieved:
    """What a case made of the machine."""

    macs_per_second: float
    bytes_per_second: float
    intensity: float  # MACs a byte
    compute_share: Optional[float]  # of the machine's peaks with as many threads, where those were measured
    memory_share: Optional[float]
    bound: Optional[str]  # 'compute' or 'memory': which of the peaks the work would meet first


def achieved(profile: Profile, result: CaseResult) -> Optional[Achieved]:
    """None without a median or the model's work, and end to end, where most of the time is not the network's.

    A batch reads the weights (float32) once.
    """
    seconds, work = seconds_per_call(result), work_of(profile, result.case)
    if not seconds or work is None or not work.bytes_moved or result.case.end_to_end:
        return None
    weights = min(4 * work.parameters, work.bytes_moved)
    macs = result.case.batch * work.macs
    moved = weights + result.case.batch * (work.bytes_moved - weights)
    peaks = next(
        (p for p in profile.peaks if (p.threads, p.device) == (result.case.threads, result.case.device)), None)
    if peaks is None or not peaks.macs_per_second or not peaks.bytes_per_second:
        return Achieved(macs / seconds, moved / seconds, macs / moved, None, None, None)
    ridge = peaks.macs_per_second / peaks.bytes_per_second
    return Achieved(
        macs / seconds, moved / seconds, macs / moved, macs / seconds / peaks.macs_per_second,
        moved / seconds / peaks.bytes_per_second, 'compute' if macs / moved >= ridge else 'memory')


def series(profile: Profile) -> List[Tuple[CaseResult, ...]]:
    """Measured cases that differ in nothing but input size and batch, the smallest first; two or more of each."""
    groups: Dict[Tuple[Any, ...], List[CaseResult]] = {}
    for result in profile.cases:
        if result.status == 'measured':
            fixed = tuple(getattr(result.case, part) for part in PARTS if part not in ('input_size', 'batch'))
            groups.setdefault(fixed, []).append(result)
    return [
        tuple(sorted(group, key=lambda result: (math.prod(result.case.input_size), result.case.batch)))
        for group in groups.values() if len({(r.case.input_size, r.case.batch) for r in group}) > 1]


def verdicts(profile: Profile) -> List[str]:
    """The fastest, the smallest, and what cannot be relied on."""
    parts = varying(result.case for result in profile.cases)
    said = []
    timed = _by_time(profile)
    if timed:
        fastest = timed[0]
        said.append(f'Fastest: {case_label(fastest.case, parts)}, {_p50(fastest)}')
        rejected = [
            result for result in profile.cases if result.latency and result.latency.verdict == 'rejected'
            for seconds in [seconds_per_call(result)] if seconds and seconds < (seconds_per_call(fastest) or 0)]
        if rejected:
            named = _some([f'{case_label(r.case, parts)}, {_p50(r)}' for r in rejected])
            said[-1] = (
                f'Fastest of those that can be relied on: {case_label(fastest.case, parts)}, {_p50(fastest)}; '
                f'rejected, but with a lower median: {named}')
        level = [case_label(other.case, parts) for other in timed[1:] if not _clearly_slower(other, fastest)]
        if level:
            said[-1] += f'; not clearly slower: {_some(level)}'
        by_picture = max(timed, key=lambda r: r.case.batch / (seconds_per_call(r) or 1))
        if by_picture is not fastest and 'batch' in parts:
            said.append(
                f'Most pictures: {case_label(by_picture.case, parts)}, '
                f'{figure(pictures_per_second(by_picture) or 0)} a second')
    sized = [(r.memory.own, r) for r in profile.cases
             if r.status == 'measured' and r.memory is not None and r.memory.own is not None]
    if sized:
        own, smallest = min(sized, key=lambda pair: pair[0])
        peak = smallest.memory.peak if smallest.memory else None
        said.append(
            f'Smallest: {case_label(smallest.case, parts)}, {megabytes(own)} MB at its peak beyond the runtime '
            f'({megabytes(peak)} MB in all)')
    for verdict, text in (
            ('noisy', 'Noisy, spread above 10 %'), ('rejected', 'Rejected, spread above 25 %')):
        names = [case_label(r.case, parts) for r in profile.cases if r.latency and r.latency.verdict == verdict]
        if names:
            said.append(f'{text}: {_some(names)}')
    failed = sum(result.status != 'measured' for result in profile.cases)
    if failed:
        said.append(f'Not measured: {failed} of {len(profile.cases)} cases')
    return said


def _p50(result: CaseResult) -> str:
    assert result.latency is not None
    value, _, interval = with_interval(result.latency, result.latency.p50).partition(' ')
    return f'{value} ms {interval}'


def _clearly_slower(one: CaseResult, other: CaseResult) -> bool:
    ratio = ratio_in_turns(one, other)
    if ratio is not None and ratio.low is not None:
        return ratio.low > 1
    a = one.latency.p50 if one.latency else None
    b = other.latency.p50 if other.latency else None
    return a is None or b is None or b.high is None or a.low > b.high


def fastest_case(profile: Profile) -> Optional[CaseResult]:
    """By the time of a call; scattered calls win nothing."""
    return next(iter(_by_time(profile)), None)


def _by_time(profile: Profile) -> List[CaseResult]:
    """The fastest first, of those whose time can be relied on."""
    timed = [(seconds, result) for result in profile.cases if result.latency and result.latency.verdict != 'rejected'
             for seconds in [seconds_per_call(result)] if seconds is not None]
    return [result for _, result in sorted(timed, key=lambda pair: pair[0])]


def ratio_in_turns(one: CaseResult, other: CaseResult) -> Optional[Interval]:
    """How many times as long calls of `one` take, round by round; None unless the two took turns."""
    if one.latency is None or other.latency is None or one.latency.group != other.latency.group:
        return None
    return paired_ratio(one.latency.rounds, other.latency.rounds)


def _some(names: Sequence[str], limit: int = 3) -> str:
    return '; '.join(names[:limit]) + (f' and {len(names) - limit} more' if len(names) > limit else '')


def disturbances(profile: Profile) -> List[str]:
    """What else the machine did meanwhile, a line each; empty where nothing was noticed."""
    return load.disturbances([result.load for result in profile.cases if result.load is not None])


def assumptions(profile: Profile) -> List[str]:
    """What the estimates stand on, with those that do not share it named."""
    users: Dict[str, List[str]] = {}
    for estimate in profile.estimates:
        for assumption in estimate.assumptions:
            users.setdefault(assumption, []).append(f'{estimate.model} on {estimate.device}')
    return [
        assumption if len(names) == len(profile.estimates) else f'{_some(names)}: {assumption}'
        for assumption, names in users.items()]


def remarks(profile: Profile) -> List[str]:
    """What single cases have to be read with: notes, and runtimes that did not do as they were told."""
    parts = varying(result.case for result in profile.cases)
    names: Dict[str, List[str]] = {}
    for result in profile.cases:
        said = list(result.notes)
        if result.threads is not None and result.threads != result.case.threads:
            said.append(f'ran with {result.threads} threads, not {result.case.threads}')
        if result.latency is not None and not result.latency.steady:
            said.append('the warm-up met its limit before calls took the same time')
        for remark in said:
            names.setdefault(remark, []).append(case_label(result.case, parts))
    return [f'{_some(cases)}: {remark}' for remark, cases in names.items()]


def machine_line(profile: Profile) -> str:
    """The machine, the threads and how much was measured, on one line."""
    environment = profile.environment
    samples = [len(result.latency.samples) for result in profile.cases if result.latency is not None]
    rounds = [len(result.latency.rounds) for result in profile.cases if result.latency is not None]
    counts = sorted({result.case.threads for result in profile.cases})
    return '; '.join(filter(None, [
        f'{environment["cpu"]}, {environment["usable_cores"]} cores',
        ', '.join(gpu['name'] for gpu in environment['gpus']),
        f'{_range(counts)} {"thread" if counts == [1] else "threads"}' if counts else '',
        f'{_range(samples)} samples a case in {_range(rounds)} rounds' if samples else '',
        f'torch {profile.versions["torch"]}' if 'torch' in profile.versions else '',
    ]))


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f'{low} .. {high}'

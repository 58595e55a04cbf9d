"""The tables of a profile, as text, for the terminal, markdown and the page. What was estimated has one of its own."""
import math
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple, TypeVar

from rsq_backbone.profiler.profile import Agreement, Case, CaseResult, Profile, Work
from rsq_backbone.profiler.summary import (
    COLD_STEPS,
    achieved,
    case_label,
    fastest_case,
    figure,
    growing_memory,
    megabytes,
    milliseconds,
    percentile,
    pictures_per_second,
    ratio_in_turns,
    seconds_per_call,
    series,
    size,
    threads,
    varying,
    with_interval,
)

__all__ = [
    'Table', 'calls_table', 'cases_table', 'checks_table', 'cold_table', 'cuda_table', 'estimates_table',
    'growth_table', 'layers_table', 'load_table', 'machine_table', 'memory_table', 'ratios_table', 'stages_table',
    'work_table',
]


T = TypeVar('T')


@dataclass(frozen=True)
class Table:
    name: str
    head: Tuple[str, ...]
    rows: Tuple[Tuple[str, ...], ...]
    words: int  # columns at the left that hold words; all others hold figures
    explanation: str = ''


# With a column each where they differ; all others share one.
_HEADS = {'model': 'model', 'runtime': 'runtime', 'threads': 'threads', 'batch': 'batch', 'input_size': 'size'}


def cases_table(profile: Profile) -> Table:
    """A row for each case that has figures; what all cases share has no column."""
    results = [r for r in profile.cases if r.latency is not None or r.memory is not None]
    return _by_case('cases', profile, results, (
        ('p50 [95 %], ms', lambda r: _of(r.latency, lambda x: with_interval(x, x.p50))),
        ('p90, ms', lambda r: _of(r.latency, lambda x: percentile(x, x.p90))),
        ('p99, ms', lambda r: _of(r.latency, lambda x: percentile(x, x.p99))),
        ('pictures/s', lambda r: _figure(pictures_per_second(r))),
        ('memory, MB', lambda r: _of(r.memory, lambda x: megabytes(x.own))),
        ('vs eager', lambda r: _of(r.agreement, _difference)),
        ('verdict', lambda r: r.latency.verdict if r.latency and r.status == 'measured' else r.status),
    ), 'Memory: peak of the process beyond one with the runtime only. vs eager: largest difference from the output '
       'under PyTorch eager, as a share of the largest output; and the share of equal top-1 classes where it is not '
       '100 %. n/a: too few samples (p50 needs 11, p90 64, p99 662). noisy: interquartile range above 10 % of the '
       'median; rejected: above 25 %.')


def ratios_table(profile: Profile) -> Table:
    """Beside the fastest, of the cases that took turns with it."""
    fastest = fastest_case(profile)
    found = {} if fastest is None else {
        id(r): ratio for r in profile.cases if r is not fastest for ratio in [ratio_in_turns(r, fastest)] if ratio}
    name = '' if fastest is None else case_label(fastest.case, varying(r.case for r in profile.cases))
    return _by_case('ratios', profile, [r for r in profile.cases if id(r) in found], (
        ('time of a call, times [95 %]', lambda r: str(found[id(r)])),
    ), f'Times that of {name}: median of the rounds, in each of which both took their turns.')


def cold_table(profile: Profile) -> Table:
    """What comes before the first result is there."""
    return _by_case('cold', profile, [r for r in profile.cases if r.cold is not None], (
        *((f'{step.replace("_", " ")}, ms', lambda r, step=step: milliseconds(getattr(r.cold, step)))
          for step in COLD_STEPS),
        ('sum, ms', lambda r: milliseconds(sum(getattr(r.cold, step) or 0 for step in COLD_STEPS))),
    ), 'In a fresh process: import of the libraries, building the network, export or compilation, loading that, and '
       'the first call. -: there is no such step.')


def growth_table(profile: Profile) -> Table:
    """How time and memory grow with input size and batch, each as a multiple of the smallest case's."""
    rows: List[CaseResult] = []
    first: Dict[int, CaseResult] = {}
    for group in series(profile):
        rows.extend(group)
        first.update((id(result), group[0]) for result in group)

    def times(value: Callable[[CaseResult], Optional[float]]) -> Callable[[CaseResult], str]:
        def cell(result: CaseResult) -> str:
            one, least = value(result), value(first[id(result)])
            return '-' if one is None or not least else f'{figure(one / least)} x'

        return cell

    return _by_case('growth', profile, rows, (
        ('pixels', times(lambda r: r.case.batch * r.case.input_size[1] * r.case.input_size[2])),
        ('p50, ms', lambda r: milliseconds(seconds_per_call(r))),
        ('time', times(seconds_per_call)),
        ('ms a picture', lambda r: milliseconds(_seconds_per_picture(r))),
        ('memory, MB', lambda r: megabytes(growing_memory(r))),
        ('memory', times(growing_memory)),
    ), 'Multiples are of the smallest case of the same model and settings. Memory: beyond the runtime; of cases on a '
       'GPU, reserved there.')


def calls_table(profile: Profile) -> Table:
    """How the calls of each case are spread."""
    return _by_case('calls', profile, [r for r in profile.cases if r.latency is not None], (
        ('samples', lambda r: _of(r.latency, lambda x: str(len(x.samples)))),
        ('rounds', lambda r: _of(r.latency, lambda x: str(len(x.rounds)))),
        ('warm-up calls', lambda r: _of(r.latency, lambda x: str(x.warm_up_calls))),
        ('minimum, ms', lambda r: _of(r.latency, lambda x: milliseconds(x.minimum))),
        ('mean, ms', lambda r: _of(r.latency, lambda x: milliseconds(x.mean))),
        ('standard deviation, ms', lambda r: _of(r.latency, lambda x: milliseconds(x.standard_deviation))),
        ('spread', lambda r: _of(r.latency, lambda x: _percent(x.spread))),
        ('p90 [95 %], ms', lambda r: _of(r.latency, lambda x: with_interval(x, x.p90))),
        ('p99 [95 %], ms', lambda r: _of(r.latency, lambda x: with_interval(x, x.p99))),
        ('energy, J', lambda r: '-' if r.energy is None else figure(r.energy)),
    ), 'Spread: interquartile range as a share of the median. Energy: of the whole processor during a call, idle power '
       'included; -: not measured, as the system lets nobody read it.')


def memory_table(profile: Profile) -> Table:
    """Of what the memory of each case is made up."""
    return _by_case('memory', profile, [r for r in profile.cases if r.memory is not None], (
        ('weights on disk, MB', lambda r: _of(r.memory, lambda x: megabytes(x.weights_on_disk))),
        ('weights in memory, MB', lambda r: _of(r.memory, lambda x: megabytes(x.weights_in_memory))),
        ('runtime alone, MB', lambda r: _of(r.memory, lambda x: megabytes(x.baseline))),
        ('peak, MB', lambda r: _of(r.memory, lambda x: megabytes(x.peak))),
        ('beyond the runtime, MB', lambda r: _of(r.memory, lambda x: megabytes(x.own))),
    ))


def load_table(profile: Profile) -> Table:
    """What else the machine did while each case was measured."""
    return _by_case('load', profile, [r for r in profile.cases if r.load is not None], (
        ('foreign cores', lambda r: _of(r.load, lambda x: _hundredths(x.foreign_cores))),
        ('stolen', lambda r: _of(r.load, lambda x: _percent(x.steal))),
        ('waiting', lambda r: _of(r.load, lambda x: _percent(x.pressure))),
        ('MHz before', lambda r: _of(r.load, lambda x: _whole(x.frequency_before))),
        ('after', lambda r: _of(r.load, lambda x: _whole(x.frequency_after))),
        ('°C before', lambda r: _of(r.load, lambda x: _whole(x.temperature_before))),
        ('after', lambda r: _of(r.load, lambda x: _whole(x.temperature_after))),
        ('load average before', lambda r: _of(r.load, lambda x: _hundredths(_first(x.load_average_before)))),
        ('after', lambda r: _of(r.load, lambda x: _hundredths(_first(x.load_average_after)))),
    ), 'Foreign cores: kept busy by other processes. Stolen: share of the time that a hypervisor gave to others. '
       'Waiting: share of the time that a thread, of the case or another, waited for a core. -: the system does not '
       'tell.')


def cuda_table(profile: Profile) -> Table:
    """The GPU's own time and memory, of the cases that used one."""
    results = [r for r in profile.cases if r.memory is not None and r.memory.cuda is not None]

    def cell(name: str) -> Callable[[CaseResult], str]:
        return lambda r: megabytes(getattr(r.memory and r.memory.cuda, name))

    return _by_case('cuda', profile, results, (
        ('p50 by events, ms', lambda r: _of(r.device_latency, lambda x: with_interval(x, x.p50))),
        ('inputs there, ms', lambda r: _of(r.transfers, lambda x: milliseconds(x.to_device))),
        ('outputs back, ms', lambda r: _of(r.transfers, lambda x: milliseconds(x.to_host))),
        *((f'{name}, MB', cell(name)) for name in ('allocated', 'reserved', 'process', 'context', 'device'))),
        "By events: on the GPU's own clock, without the caller's waiting. There and back: between ordinary memory and "
        "the GPU's, in no latency. "
        "Allocated and reserved: peaks of PyTorch's allocator. Process: this process's memory on the device, its "
        'context included. Device: of all processes, at the peak.')


def work_table(profile: Profile) -> Table:
    """What one picture asks of any runtime."""
    return Table(
        'work',
        ('model', 'size', 'parameters', 'MACs, M', 'activations, M', 'bytes moved, MB', 'peak activations, MB'),
        tuple((
            w.model, size(w.input_size), f'{w.parameters:,}', figure(w.macs / 1e6), figure(w.activations / 1e6),
            megabytes(w.bytes_moved), megabytes(w.peak_activations)) for w in profile.works), 1,
        'Of one picture, counted and not measured. MACs: multiply-accumulates of convolutions, matrix '
        'products and attention. Activations: the values that these put out. Bytes moved: weights once, and what '
        'each layer reads and writes, as if nothing stayed in a cache. Peak activations: all values needed at the same '
        'time, as float32.' + ''.join(
            f' Not counted in {w.model}: {", ".join(w.not_counted)}.' for w in profile.works if w.not_counted))


def machine_table(profile: Profile) -> Table:
    """What the cases made of the machine, beside the most that it was seen to do."""
    found = {id(r): a for r in profile.cases for a in [achieved(profile, r)] if a is not None}
    peaks = '; '.join(
        f'{p.device.upper()}, {threads(p.threads)}: {figure(p.macs_per_second / 1e9)} GMAC/s, '
        f'{figure(p.bytes_per_second / 1e9)} GB/s' for p in profile.peaks)
    return _by_case('machine', profile, [r for r in profile.cases if id(r) in found], (
        ('GMAC/s', lambda r: figure(found[id(r)].macs_per_second / 1e9)),
        ('of peak', lambda r: _percent(found[id(r)].compute_share)),
        ('GB/s', lambda r: figure(found[id(r)].bytes_per_second / 1e9)),
        ('of peak', lambda r: _percent(found[id(r)].memory_share)),
        ('MACs a byte', lambda r: figure(found[id(r)].intensity)),
        ('bound', lambda r: found[id(r)].bound or '-'),
    ), 'At the median. GB/s are those of layers that keep nothing in a cache, so they may pass the peak. Bound: the '
       'peak that the work as a whole would meet first.' + (f' Peaks measured here: {peaks}.' if peaks else ''))


def stages_table(work: Work) -> Table:
    """Of each part of a network, in order."""
    rows = [
        (s.name, f'{s.parameters:,}', figure(s.macs / 1e6), _percent(s.macs / work.macs if work.macs else None),
         figure(s.activations / 1e6), megabytes(s.bytes_moved),
         _percent(s.bytes_moved / work.bytes_moved if work.bytes_moved else None)) for s in work.stages]
    return Table('stages', (
        'stage', 'parameters', 'MACs, M', 'of all', 'activations, M', 'bytes moved, MB', 'of all'), tuple(rows), 1)


def layers_table(result: CaseResult) -> Table:
    """The time of each layer, the slowest first."""
    total = sum(layer.seconds for layer in result.layers)
    ordered = sorted(result.layers, key=lambda layer: -layer.seconds)
    return Table('layers', ('layer', 'type', 'ms', 'of all'), tuple(
        (x.name, x.type, milliseconds(x.seconds), _percent(x.seconds / total if total else None)) for x in ordered), 2,
        'Medians, from a pass of its own, which is slower than a call without timers.')


def checks_table(profile: Profile) -> Table:
    """The method of the estimates, tried on the machine that is here."""
    return Table(
        'checks', ('model', 'runtime', 'threads', 'batch', 'size', 'method, ms', 'measured, ms', 'error'), tuple((
            c.case.model, c.case.runtime, str(c.case.threads), str(c.case.batch), size(c.case.input_size),
            milliseconds(c.estimated), milliseconds(c.measured), f'{100 * (c.estimated / c.measured - 1):+.0f} %')
            for c in profile.estimate_checks), 2,
        'The same method for this machine, from the peaks that were measured, beside what was measured.')


def estimates_table(profile: Profile) -> Table:
    """Of machines that are not here."""
    return Table('estimates', (
        'device', 'model', 'batch', 'size', 'estimated ms', 'bound', 'estimated MB', 'fits'), tuple(
        (e.device, e.model, str(e.batch), size(e.input_size), milliseconds(e.seconds), e.bound, megabytes(e.memory),
         'yes' if e.fits else 'no') for e in profile.estimates), 2)


def _by_case(
        name: str, profile: Profile, results: Sequence[CaseResult],
        columns: Tuple[Tuple[str, Callable[[CaseResult], str]], ...], explanation: str = '',
) -> Table:
    """The parts in which the profile's cases differ, then the columns."""
    differing = varying(r.case for r in profile.cases)
    parts = [part for part in _HEADS if part in differing]
    others = frozenset(differing) - frozenset(_HEADS)
    if others:
        parts.insert(len(differing & {'model'}), 'with')

    def cell_of(case: Case, part: str) -> str:
        if part == 'with':
            return case_label(case, others) or '-'
        return size(case.input_size) if part == 'input_size' else str(getattr(case, part))

    return Table(
        name, (*(_HEADS.get(part, part) for part in parts), *(head for head, _ in columns)),
        tuple((*(cell_of(r.case, part) for part in parts), *(cell(r) for _, cell in columns)) for r in results),
        len({'model', 'with', 'runtime'}.intersection(parts)), explanation)


def _seconds_per_picture(result: CaseResult) -> Optional[float]:
    seconds = seconds_per_call(result)
    return None if seconds is None else seconds / result.case.batch


def _of(part: Optional[T], cell: Callable[[T], str]) -> str:
    return '-' if part is None else cell(part)


def _first(values: Optional[Sequence[float]]) -> Optional[float]:
    return None if values is None else values[0]


def _hundredths(value: Optional[float]) -> str:
    return '-' if value is None else f'{value:.2f}'


def _whole(value: Optional[float]) -> str:
    return '-' if value is None else f'{value:.0f}'


def _figure(value: Optional[float]) -> str:
    return '-' if value is None else figure(value)


def _percent(share: Optional[float]) -> str:
    return '-' if share is None else f'{100 * share:.0f} %' if share >= 0.0995 else f'{100 * share:.1f} %'


def _difference(agreement: Agreement) -> str:
    if agreement.max_abs_difference is None or agreement.largest_output is None:
        return 'not finite'
    share = agreement.max_abs_difference / (agreement.largest_output or 1)
    text = '0' if share == 0 else f'{share:.0e}'
    # Rounded down: what differs anywhere is not called 100 %.
    return text if agreement.top1_agreement == 1 else f'{text}, {math.floor(1000 * agreement.top1_agreement) / 10:g} %'

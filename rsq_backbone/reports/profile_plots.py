"""Pictures of a profile, as PNG files that can be read on a phone; no file where there is nothing to draw."""
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from rsq_backbone.profiler.profile import CaseResult, Profile, Work
from rsq_backbone.profiler.summary import (
    COLD_STEPS,
    achieved,
    case_label,
    figure,
    growing_memory,
    seconds_per_call,
    series,
    size,
    threads,
    varying,
    work_of,
)
from rsq_backbone.reports.drawing import LIGHT, Theme, drawing, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    'draw_accuracy', 'draw_cold', 'draw_growth', 'draw_latency', 'draw_memory', 'draw_roofline', 'draw_stages',
]

WIDTH = 4.8  # inches: a narrow figure, whose letters stay readable where a phone makes it narrower still
DOTS_PER_INCH = 200
LETTERS = 8.5  # points
LONGEST_MODEL, LONGEST_LABEL = 26, 68
MOST_POINTS = 60  # samples that are shown one by one; more would hide each other
LOG_FROM = 8  # times between the ends of a scale from which on it is logarithmic
_MARKERS = 'osD^vPX*'


def draw_latency(profile: Profile, path: Path, theme: Theme = LIGHT) -> None:
    """A row a case, the fastest first: a box from quartile to quartile, whiskers to the 1st and 99th percentile."""
    results = sorted((r for r in profile.cases if r.latency and r.latency.samples), key=_median_ms)
    if not results:
        return
    labels = _labels(profile, results)
    with drawing(path, WIDTH, 0.7 + 0.42 * len(results), theme=theme, dots_per_inch=DOTS_PER_INCH) as drawn:
        axes = drawn.subplots()
        ends = []
        colours = dict(zip(('ok', 'noisy', 'rejected'), (theme.colours[0], theme.colours[4], theme.colours[1]),
                           strict=True))
        for row, (result, label) in enumerate(zip(results, labels, strict=True)):
            assert result.latency is not None
            samples = 1e3 * np.array(result.latency.samples)
            first, low, middle, high, last = np.percentile(samples, [1, 25, 50, 75, 99])
            ends += [first, last]
            verdict = result.latency.verdict
            colour = colours.get(verdict, theme.quiet)
            axes.hlines(row, first, last, color=colour, linewidth=1.3)
            axes.barh(row, high - low, 0.34, low, color=colour, alpha=0.45)
            axes.plot([middle, middle], [row - 0.22, row + 0.22], color=colour, linewidth=2.2)
            if len(samples) <= MOST_POINTS:
                axes.plot(samples, np.full(len(samples), row), '.', color=theme.text, markersize=3, alpha=0.6)
                ends += [samples.min(), samples.max()]
            said = label if verdict == 'ok' else f'{label}: {verdict}'
            axes.text(
                0, row - 0.3, said, transform=axes.get_yaxis_transform(), va='bottom', fontsize=LETTERS,
                color=theme.text if verdict == 'ok' else colour)
        _scale(axes, min(ends), max(ends), 'x')
        _rows(axes, len(results), theme)
        axes.set_xlabel('ms a call', fontsize=LETTERS)


def draw_memory(profile: Profile, path: Path, theme: Theme = LIGHT) -> None:
    """A bar for each case: the process's peak, of which what the runtime alone takes is the first part."""
    results = [r for r in profile.cases if r.memory is not None and r.memory.own is not None]
    if not results:
        return
    with drawing(path, WIDTH, 1.0 + 0.42 * len(results), theme=theme, dots_per_inch=DOTS_PER_INCH) as drawn:
        axes = drawn.subplots()
        baselines, own = ([(getattr(r.memory, name) or 0) / 1e6 for r in results] for name in ('baseline', 'own'))
        _stacked(
            axes, _labels(profile, results), {'the runtime alone': baselines, 'beyond it': own},
            [theme.colours[5], theme.colours[2]], theme, [f'{figure(value)}' for value in own])
        axes.set_xlabel('MB at the peak; figures: beyond the runtime', fontsize=LETTERS)


def draw_growth(profile: Profile, path: Path, theme: Theme = LIGHT) -> None:
    """Memory and time over the input's pixels and over the batch, a line for each model and its settings."""
    groups = series(profile)
    kinds: List[Tuple[str, Callable[[CaseResult], float], Callable[[CaseResult], Any]]] = [
        ('pixels of a picture (side as labelled)', lambda r: float(np.prod(r.case.input_size[1:])),
         lambda r: r.case.batch),
        ('batch', lambda r: float(r.case.batch), lambda r: r.case.input_size)]
    panels = []
    for axis, x, other in kinds:
        lines = []
        for group in groups:
            for fixed in sorted({other(r) for r in group}):
                line = sorted((r for r in group if other(r) == fixed), key=x)
                if len({x(r) for r in line}) > 1:
                    lines.append(line)
        if lines:
            panels += [(axis, x, lines, *y) for y in (('memory, MB', _growing_mb), ('ms a call', _p50_ms))]
    if not panels:
        return
    count = max(len(lines) for _, _, lines, _, _ in panels)
    with drawing(
            path, WIDTH, 2.5 * len(panels) + 0.17 * count * len(panels) / 2, theme=theme,
            dots_per_inch=DOTS_PER_INCH) as drawn:
        all_axes = drawn.subplots(len(panels), squeeze=False)[:, 0]
        for axes, (axis, x, lines, what, y) in zip(all_axes, panels, strict=True):
            parts = varying(line[0].case for line in lines)
            for i, line in enumerate(lines):
                axes.plot(
                    [x(r) for r in line], [y(r) for r in line], marker=_MARKERS[i % len(_MARKERS)], markersize=5,
                    color=theme.colours[i % len(theme.colours)],
                    label=_label(line[0], parts - {'input_size' if axis != 'batch' else 'batch'}))
            ticks = {x(r): size(r.case.input_size) if axis != 'batch' else str(r.case.batch)
                     for line in lines for r in line}
            axes.set_xscale('log')
            axes.set_yscale('log')
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.minorticks_off()
            _plain_ticks(axes, 'y', *_ends(v for line in lines for v in map(y, line)))
            axes.grid(color=theme.line, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=LETTERS)
            axes.set_xlabel('batch' if axis == 'batch' else 'input size, px', fontsize=LETTERS)
            axes.set_ylabel(what, fontsize=LETTERS)
            if what == 'ms a call':  # below both panels of its kind
                axes.legend(
                    fontsize=LETTERS - 1, loc='upper center', bbox_to_anchor=(0.5, -0.22), frameon=False,
                    labelcolor=theme.text)


def draw_roofline(profile: Profile, path: Path, theme: Theme = LIGHT) -> None:
    """Achieved GMAC/s over MACs a byte, under the roofs that this machine's measured peaks put up."""
    found = [(r, a) for r in profile.cases for a in [achieved(profile, r)] if a is not None]
    used = {(r.case.threads, r.case.device) for r, _ in found}
    peaks = [p for p in profile.peaks
             if (p.threads, p.device) in used and p.macs_per_second > 0 and p.bytes_per_second > 0]
    if not found or not peaks:
        return
    ridges = [p.macs_per_second / p.bytes_per_second for p in peaks]
    left = min([a.intensity for _, a in found] + ridges) / 2.5
    right = max([a.intensity for _, a in found] + ridges) * 2.5
    models, runtimes = (list(dict.fromkeys(getattr(r.case, n) for r, _ in found)) for n in ('model', 'runtime'))
    counts = sorted({r.case.threads for r, _ in found})
    with drawing(
            path, WIDTH, 3.4 + 0.17 * (len(models) + len(runtimes) + len(peaks)) / 2, theme=theme,
            dots_per_inch=DOTS_PER_INCH) as drawn:
        axes = drawn.subplots()
        x = np.geomspace(left, right, 200)
        for i, p in enumerate(peaks):
            axes.plot(
                x, np.minimum(p.macs_per_second, x * p.bytes_per_second) / 1e9, linewidth=1.5, color=theme.quiet,
                linestyle=('-', '--', '-.', ':')[i % 4],
                label=f'peak, {p.device.upper()}, {threads(p.threads)}')
        for result, a in found:
            axes.plot(
                a.intensity, a.macs_per_second / 1e9, linestyle='',
                color=theme.colours[models.index(result.case.model) % len(theme.colours)],
                marker=_MARKERS[runtimes.index(result.case.runtime) % len(_MARKERS)],
                markersize=5 + 2.5 * counts.index(result.case.threads), alpha=0.85)
        for i, model in enumerate(models):
            axes.plot([], [], 's', color=theme.colours[i % len(theme.colours)], label=short(model, 28))
        for i, runtime in enumerate(runtimes):
            axes.plot([], [], _MARKERS[i % len(_MARKERS)], color=theme.quiet, label=short(runtime, 28), linestyle='')
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.set_xlim(left, right)
        rates = [a.macs_per_second / 1e9 for _, a in found]
        axes.set_ylim(min(rates) / 3, 2 * max(*rates, *(p.macs_per_second / 1e9 for p in peaks)))
        _plain_ticks(axes, 'x', left, right)
        _plain_ticks(axes, 'y', *axes.get_ylim())
        axes.grid(color=theme.line, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=LETTERS)
        larger = f'; larger marks: more threads ({", ".join(map(str, counts))})' if len(counts) > 1 else ''
        axes.set_xlabel(f'MACs a byte moved{larger}', fontsize=LETTERS)
        axes.set_ylabel('GMAC/s', fontsize=LETTERS)
        drawn.legend(fontsize=LETTERS - 1, loc='outside lower center', ncols=2, frameon=False, labelcolor=theme.text)


def draw_stages(work: Work, path: Path, theme: Theme = LIGHT) -> None:
    """For each part of a network its share of the MACs and of the bytes."""
    if not work.stages or not work.macs or not work.bytes_moved:
        return
    names = [short(stage.name, LONGEST_LABEL) for stage in work.stages]
    with drawing(path, WIDTH, 1.0 + 0.34 * len(names), theme=theme, dots_per_inch=DOTS_PER_INCH) as drawn:
        axes = drawn.subplots()
        rows = np.arange(len(names))
        for offset, colour, what, shares in (
                (-0.19, theme.colours[0], 'MACs', [100 * s.macs / work.macs for s in work.stages]),
                (0.19, theme.colours[1], 'bytes moved', [100 * s.bytes_moved / work.bytes_moved for s in work.stages])):
            axes.barh(rows + offset, shares, 0.36, color=colour, label=what)
        axes.set_yticks(rows, names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis='x', color=theme.line, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=LETTERS)
        axes.set_xlabel('% of the network', fontsize=LETTERS)
        drawn.legend(fontsize=LETTERS - 1, loc='outside upper center', ncols=2, frameon=False, labelcolor=theme.text)


def draw_accuracy(profile: Profile, accuracies: Mapping[str, float], path: Path, theme: Theme = LIGHT) -> None:
    """Accuracy over the time of a picture: each model's fastest case that was not rejected; area by parameters."""
    best: Dict[str, Tuple[float, CaseResult]] = {}
    for result in profile.cases:
        seconds = seconds_per_call(result)
        if result.case.model in accuracies and seconds and result.latency and result.latency.verdict != 'rejected':
            found = (seconds / result.case.batch, result)
            best[result.case.model] = min(best.get(result.case.model, found), found, key=lambda pair: pair[0])
    if not best:
        return
    parameters = {m: w.parameters for m, (_, r) in best.items() for w in [work_of(profile, r.case)] if w is not None}
    largest = max(parameters.values(), default=1) or 1
    with drawing(path, WIDTH, 3.6, theme=theme, dots_per_inch=DOTS_PER_INCH) as drawn:
        axes = drawn.subplots()
        parts = varying(r.case for r in profile.cases)
        for i, (model, (seconds, result)) in enumerate(best.items()):
            colour = theme.colours[i % len(theme.colours)]
            area = 1100 * parameters[model] / largest if model in parameters else 30
            axes.scatter(1e3 * seconds, 100 * accuracies[model], s=max(area, 12), color=colour, alpha=0.55)
            counted = f', {parameters[model] / 1e6:.1f} M' if model in parameters else ''
            axes.plot([], [], 'o', color=colour, label=f'{_label(result, parts)}{counted}')
        times = [1e3 * seconds for seconds, _ in best.values()]
        _scale(axes, min(times), max(times), 'x')
        axes.margins(y=0.25)
        axes.grid(color=theme.line, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=LETTERS)
        axes.set_xlabel('ms a picture', fontsize=LETTERS)
        axes.set_ylabel('accuracy, %', fontsize=LETTERS)
        drawn.legend(
            fontsize=LETTERS - 1, loc='outside lower center', frameon=False, labelcolor=theme.text,
            title='area: parameters' if parameters else None, title_fontsize=LETTERS - 1)


def draw_cold(profile: Profile, path: Path, theme: Theme = LIGHT) -> None:
    """A bar for each case: what comes before the first result is there, one after the other."""
    results = [r for r in profile.cases if r.cold is not None]
    if not results:
        return
    with drawing(path, WIDTH, 1.1 + 0.42 * len(results), theme=theme, dots_per_inch=DOTS_PER_INCH) as drawn:
        axes = drawn.subplots()
        parts = {step.replace('_', ' '): [getattr(r.cold, step) or 0.0 for r in results] for step in COLD_STEPS}
        totals = [f'{figure(sum(seconds))}' for seconds in zip(*parts.values(), strict=True)]
        order = (theme.colours[i] for i in (5, 0, 3, 4, 1))
        _stacked(axes, _labels(profile, results), parts, list(order), theme, totals)
        axes.set_xlabel('seconds until the first result', fontsize=LETTERS)


def _stacked(
        axes: 'Axes', labels: Sequence[str], parts: Mapping[str, Sequence[float]], colours: Sequence[str],
        theme: Theme, figures: Sequence[str],
) -> None:
    """Bars of parts one after the other, under their labels, with a figure at their ends."""
    ends = np.zeros(len(labels))
    for (name, values), colour in zip(parts.items(), colours, strict=True):
        if any(values):
            axes.barh(np.arange(len(labels)), values, 0.36, ends, color=colour, label=name)
        ends = ends + np.array(values)
    for row, (label, end, text) in enumerate(zip(labels, ends, figures, strict=True)):
        axes.text(
            0, row - 0.27, label, transform=axes.get_yaxis_transform(), va='bottom', fontsize=LETTERS)
        axes.annotate(text, (end, row), (4, 0), textcoords='offset points', va='center', fontsize=LETTERS)
    axes.set_xlim(0, 1.14 * max(ends) or 1)
    _rows(axes, len(labels), theme)
    columns = min(3, len(parts))
    axes.legend(
        fontsize=LETTERS - 1, loc='lower center', bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False,
        labelcolor=theme.text)


def _rows(axes: 'Axes', count: int, theme: Theme) -> None:
    """The first at the top, each with room for its label above it."""
    axes.set_ylim(count - 0.5, -0.8)
    axes.set_yticks([])
    axes.spines['left'].set_visible(False)
    axes.grid(axis='x', color=theme.line, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=LETTERS)


def _scale(axes: 'Axes', least: float, largest: float, which: str) -> None:
    """Logarithmic where the values lie far apart, else from zero."""
    if least > 0 and largest / least >= LOG_FROM:
        axes.set_xscale('log')
        axes.set_xlim(least / 1.3, largest * 1.3)
        _plain_ticks(axes, which, least / 1.3, largest * 1.3)
    else:
        axes.set_xlim(0, 1.1 * largest)


def _plain_ticks(axes: 'Axes', which: str, least: float, largest: float) -> None:
    """1, 2, 5, 10 ... on a logarithmic scale, written out."""
    from matplotlib.ticker import NullLocator

    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(largest)) + 1)
    steps = (1, 2, 5) if math.log10(largest / least) < 2.5 else (1,)
    ticks = [step * 10.0 ** d for d in decades for step in steps if least <= step * 10.0 ** d <= largest]
    axis = axes.xaxis if which == 'x' else axes.yaxis
    axis.set_minor_locator(NullLocator())
    if len(ticks) > 1:
        axis.set_ticks(ticks, [f'{tick:g}' for tick in ticks])


def _ends(values: Iterator[float]) -> Tuple[float, float]:
    finite = [value for value in values if value > 0]
    return (min(finite) / 1.3, 1.3 * max(finite)) if finite else (1.0, 10.0)


def _labels(profile: Profile, results: Sequence[CaseResult]) -> List[str]:
    parts = varying(r.case for r in profile.cases)
    return [_label(r, parts) for r in results]


def _label(result: CaseResult, parts: AbstractSet[str]) -> str:
    """On one line; of long ones, the model's name is what is cut first."""
    case = dataclasses.replace(result.case, model=short(result.case.model, LONGEST_MODEL))
    return short(case_label(case, parts), LONGEST_LABEL)


def _median_ms(result: CaseResult) -> float:
    return 1e3 * float(np.median(result.latency.samples)) if result.latency else math.nan


def _p50_ms(result: CaseResult) -> float:
    seconds = seconds_per_call(result)
    return math.nan if seconds is None else 1e3 * seconds


def _growing_mb(result: CaseResult) -> float:
    memory = growing_memory(result)
    return math.nan if memory is None else memory / 1e6

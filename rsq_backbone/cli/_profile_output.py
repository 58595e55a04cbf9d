"""How `rsq profile` prints what it found, to standard output."""
from typing import Dict, List, Tuple

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from rsq_backbone.cli._output import stdout
from rsq_backbone.profiler.compare import Change, Comparison
from rsq_backbone.profiler.profile import Profile
from rsq_backbone.profiler.summary import (
    assumptions,
    case_label,
    common_settings,
    disturbances,
    failures,
    first_works,
    machine_line,
    megabytes,
    milliseconds,
    remarks,
    varying,
    verdicts,
)
from rsq_backbone.profiler.tables import (
    Table,
    cases_table,
    checks_table,
    cold_table,
    cuda_table,
    estimates_table,
    growth_table,
    layers_table,
    machine_table,
    ratios_table,
    stages_table,
    work_table,
)

__all__ = ['print_comparison', 'print_profile']

# Heads and names, as they fit into a terminal of a hundred columns.
_NARROW = {
    'threads': 'thr.', 'pictures/s': 'pict.\nper s', 'vs eager': 'vs\neager',
    'eager-channels-last': 'eager-\nchannels-last'}
_COLOURS = {
    'noisy': 'yellow', 'rejected': 'red', 'does not fit': 'red', 'refused': 'red', 'crashed': 'red',
    'not installed': 'yellow', 'interrupted': 'yellow', 'no': 'red', 'slower': 'red', 'more': 'red', 'faster': 'green',
    'less': 'green'}


def print_profile(profile: Profile, *, cold: bool = False, work: bool = False) -> None:
    """Print the figures, then what they have to be read with; what was estimated comes last and apart.

    Args:
        profile: Of one or more cases.
        cold: Whether to print what comes before the first result too.
        work: Whether to print operations, stages and what of the machine's peaks was achieved too.
    """
    _print_lines([common_settings(result.case for result in profile.cases)], 'bold')
    _print_table('', cases_table(profile))
    _print_lines(failures(profile), 'red')
    _print_lines(verdicts(profile))
    _print_table('Beside the fastest', ratios_table(profile))
    _print_table('Growth with input size and batch', growth_table(profile), explained=False)
    _print_table('GPU memory', cuda_table(profile))
    if cold:
        _print_table('Cold start', cold_table(profile))
    if work:
        _print_table('Work of one picture', work_table(profile))
        for one in first_works(profile):
            _print_table(f'Stages of {one.model}', stages_table(one))
        _print_table("Beside this machine's peaks", machine_table(profile))
    parts = varying(result.case for result in profile.cases)
    for result in profile.cases:
        _print_table(f'Layers of {case_label(result.case, parts)}', layers_table(result))
    stdout.print()
    _print_lines([machine_line(profile)])
    if any(result.load is not None for result in profile.cases):
        noticed = disturbances(profile)
        _print_lines([f'disturbed: {line}' for line in noticed], 'yellow')
        _print_lines(['' if noticed else 'Nothing was seen to disturb the measurement.'])
    _print_lines([f'note: {remark}' for remark in remarks(profile)])
    _print_table('ESTIMATES, not measured', estimates_table(profile), 'bold yellow')
    _print_lines([f'assumed: {assumption}' for assumption in assumptions(profile)])
    _print_table('How far the method is off here', checks_table(profile))


def print_comparison(comparison: Comparison) -> None:
    """Print what changed between two profiles, what did not, and what speaks against comparing them."""
    parts = varying(change.case for change in comparison.changes)
    _print_table('', Table(
        'comparison',
        (*(['case'] if parts else []), 'figure', 'before', 'now', 'now / before [95 %]', 'verdict'), tuple(
            (*([case_label(change.case, parts)] if parts else []), *_change(change)) for change in comparison.changes),
        2 if parts else 1,
        'A latency has changed if the interval of the ratio lies beyond what two runs of the same thing may differ by: '
        '10 %, or the spread of the calls if that is more.'), explained=True)
    if not comparison.changes:
        _print_lines(['The two have no measured case in common.'], 'yellow')
    alone = varying((*comparison.only_old, *comparison.only_new))
    for which, cases in (('before', comparison.only_old), ('now', comparison.only_new)):
        _print_lines([f'only {which}: {case_label(case, alone)}' for case in cases])
    _print_lines([f'warning: {line}' for line in comparison.warnings], 'yellow')


def _change(change: Change) -> Tuple[str, ...]:
    if change.figure == 'latency':
        old, new = (f'{milliseconds(value)} ms' for value in (change.old, change.new))
    else:
        old, new = (f'{megabytes(round(value))} MB' for value in (change.old, change.new))
    interval = '' if change.low is None or change.high is None else f' [{change.low:.3f}, {change.high:.3f}]'
    return change.figure, old, new, f'{change.ratio:.3f}{interval}', change.verdict


def _print_table(title: str, table: Table, style: str = 'bold', explained: bool = True) -> None:
    if not table.rows:
        return
    if title:
        stdout.print()
        _print_lines([title], style)
    # Into a file or a pipe it goes at the width that it was made for.
    console = stdout if stdout.is_terminal else Console(width=max(stdout.width, 100))
    heads = [_NARROW.get(head, head).replace(', ', '\n') for head in table.head]
    rows = [[_NARROW.get(cell) or _plain(cell) for cell in row] for row in table.rows]
    widths = [max(cell_len(line) for text in column for line in text.splitlines() or [''])
              for column in zip(heads, *rows, strict=True)]
    groups: Dict[str, List[List[str]]] = {}
    grouped = table.head[0] == 'model' and sum(widths) + len(widths) > console.width
    for row in rows:  # where models take too much room, each stands on a line of its own above its rows
        groups.setdefault(row[0] if grouped else '', []).append(row[1:] if grouped else row)
    for number, (model, group) in enumerate(groups.items()):
        printed = RichTable(box=None, pad_edge=False, collapse_padding=True, show_header=number == 0)
        for i in range(grouped, len(heads)):
            is_words = i < table.words
            printed.add_column(
                heads[i], justify='left' if is_words else 'right', no_wrap=not is_words, overflow='fold',
                min_width=min(widths[i], 13) if is_words else widths[i])
        if grouped:
            printed.title, printed.title_justify, printed.title_style = escape(model), 'left', 'bold'
        for row in group:
            cells = [escape(cell) for cell in row]
            cells[-1] = f'[{_COLOURS[row[-1]]}]{cells[-1]}[/]' if row[-1] in _COLOURS else cells[-1]
            printed.add_row(*cells)
        console.print(printed)
    if explained and table.explanation:
        _print_lines([table.explanation], 'dim')


def _print_lines(lines: List[str], style: str = '') -> None:
    for line in filter(None, lines):
        stdout.print(_plain(line), style=style, highlight=False, markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Without control characters, which a terminal would obey, and letters that it could not be sent."""
    return ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in text)

"""A profile as files: JSON, which keeps everything and is read again, CSV for a spreadsheet, markdown for an issue."""
import dataclasses
import json
import math
from functools import cache
from pathlib import Path
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import write_rows, write_text
from rsq_backbone.profiler.profile import FORMAT, CaseResult, Percentile, Profile
from rsq_backbone.profiler.summary import (
    COLD_STEPS,
    assumptions,
    common_settings,
    disturbances,
    failures,
    machine_line,
    pictures_per_second,
    remarks,
    verdicts,
    work_of,
)
from rsq_backbone.profiler.tables import (
    Table,
    cases_table,
    checks_table,
    cold_table,
    cuda_table,
    estimates_table,
    growth_table,
    ratios_table,
)

__all__ = ['markdown', 'read_profile', 'write_csv', 'write_markdown', 'write_profile']

MAX_BYTES = 200_000_000  # some ten million samples
MAX_WHOLE = 2 ** 63


def write_profile(profile: Profile, path: Path) -> None:
    """JSON with every raw sample, as profile.schema.json describes it.

    Raises:
        ValueError: if a number is not finite, which JSON cannot say.
    """
    write_text(path, json.dumps(dataclasses.asdict(profile), indent=1, allow_nan=False) + '\n')


def read_profile(path: Path) -> Profile:
    """What `write_profile` wrote.

    Keys that this version does not know are left out.

    Raises:
        UserError: if there is no such file, or it holds no profile, a damaged one or one of another format.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f'{path} is larger than {MAX_BYTES / 1e6:.0f} MB; no profile is.')
        plain = json.loads(path.read_text(encoding='utf-8'), parse_constant=_refuse)
    except UserError:
        raise
    except OSError as e:
        raise UserError(f'{path} cannot be read ({e.strerror or one_line(e)}); name a file that --json wrote.') from e
    except (ValueError, RecursionError) as e:
        raise UserError(
            f'{path} is not a profile, or damaged ({one_line(e, 80)}); name a file that --json wrote.') from e
    if not isinstance(plain, dict) or not {'format', 'cases'} <= set(plain):
        raise UserError(f'{path} is not a profile; name a file that --json wrote.')
    if type(plain['format']) is not int or plain['format'] != FORMAT:
        raise UserError(
            f'{path} has format {one_line(ValueError(plain["format"]), 20)}, this version reads {FORMAT}; profile '
            'again, or install the version that wrote it.')
    try:
        profile: Profile = _typed(plain, Profile, '')
        for i, result in enumerate(profile.cases):
            if min(result.case.threads, result.case.batch, *result.case.input_size) < 1:
                raise _Damage(f'threads, batch and size of cases[{i}].case should be 1 or more')
    except _Damage as e:
        raise UserError(f'{path} is a damaged profile: {e}; profile again.') from e
    return profile


class _Damage(Exception):
    """Where the file does not hold what it should."""


def _refuse(constant: str) -> None:
    raise ValueError(f'{constant} is not a number')


def _typed(value: Any, hint: Any, where: str) -> Any:
    """The value as what the hint says, dataclasses and tuples rebuilt."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Union:  # Optional
        return None if value is None else _typed(value, arguments[0], where)
    if dataclasses.is_dataclass(hint):
        optional = {field.name for field in dataclasses.fields(hint) if field.default is not dataclasses.MISSING}
        kind: Any = hint
        return kind(**_fields(value, kind, where, optional))
    if is_typeddict(hint):
        return _fields(value, hint, where, frozenset())
    if origin is list:
        return list(_tuple(value, (*arguments, Ellipsis), where))
    if origin is tuple:
        return _tuple(value, arguments, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _Damage(f'{where} should be an object')
        return {key: _typed(v, arguments[1], f'{where}.{key[:40]!r}') for key, v in value.items()}
    if hint is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    if hint is not float and type(value) is hint:
        if hint is int and abs(value) >= MAX_WHOLE:
            raise _Damage(f'{where} is too large')
        return value
    names = {int: 'a whole number', float: 'a finite number', str: 'a text', bool: 'true or false'}
    raise _Damage(f'{where} should be {names[hint]}')


def _fields(value: Any, kind: Any, where: str, optional: AbstractSet[str]) -> Dict[str, Any]:
    """Of a dataclass or a TypedDict; those that it does not have are left out."""
    if not isinstance(value, dict):
        raise _Damage(f'{where or "it"} should be an object')
    fields = {}
    for name, hint in _hints(kind).items():
        inside = f'{where}.{name}' if where else name
        if name in value:
            fields[name] = _typed(value[name], hint, inside)
        elif name not in optional:
            raise _Damage(f'{inside} is missing')
    return fields


def _tuple(value: Any, arguments: Tuple[Any, ...], where: str) -> Tuple[Any, ...]:
    if not isinstance(value, list):
        raise _Damage(f'{where} should be a list')
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise _Damage(f'{where} should have {len(kinds)} entries')
    return tuple(_typed(v, kind, f'{where}[{i}]') for i, (v, kind) in enumerate(zip(value, kinds, strict=True)))


@cache
def _hints(kind: Any) -> Dict[str, Any]:
    return get_type_hints(kind)


def write_csv(profile: Profile, path: Path) -> None:
    """One row a case, with plain numbers, and units in the names of the columns; what was not measured is empty."""
    head = [name for name, _ in _COLUMNS]
    rows = [[_cell(value(profile, result)) for _, value in _COLUMNS] for result in profile.cases]
    write_rows(path, [head, *rows])


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f'{value:.7g}'
    if isinstance(value, (tuple, list)):
        return ' '.join(map(str, value))
    # Names of files need not be valid text.
    return '' if value is None else value.encode('utf-8', 'backslashreplace').decode() if isinstance(
        value, str) else value


_Column = Tuple[str, Callable[[Profile, CaseResult], Any]]


def _of(path: str, factor: Optional[float] = None) -> Callable[[Profile, CaseResult], Any]:
    """The field of a result by its dotted name, times a factor; None where any part of the way is."""
    def value(_: Profile, result: CaseResult) -> Any:
        found: Any = result
        for name in path.split('.'):
            found = None if found is None else getattr(found, name)
        return found if found is None or factor is None else factor * found

    return value


def _of_work(name: str, factor: Optional[float] = None) -> Callable[[Profile, CaseResult], Any]:
    def value(profile: Profile, result: CaseResult) -> Any:
        work = work_of(profile, result.case)
        return None if work is None else getattr(work, name) if factor is None else factor * getattr(work, name)

    return value


_MS, _MB, _PERCENT = 1e3, 1e-6, 100.0

_COLUMNS: List[_Column] = [
    *((name, _of(f'case.{name}')) for name in ('model', 'runtime', 'device', 'threads', 'batch')),
    *((name, lambda _, r, i=i: r.case.input_size[i]) for i, name in enumerate(('channels', 'height', 'width'))),
    ('cores', _of('case.cores')),
    ('cpu_isa', _of('case.cpu_isa')),
    ('memory_cap_mb', _of('case.memory_cap', _MB)),
    ('gpu_memory_cap_mb', _of('case.gpu_memory_cap', _MB)),
    ('end_to_end', _of('case.end_to_end')),
    ('status', _of('status')),
    ('message', _of('message')),
    ('verified_threads', _of('threads')),
    ('verdict', _of('latency.verdict')),
    ('spread_percent', _of('latency.spread', _PERCENT)),
    ('samples', lambda _, r: None if r.latency is None else len(r.latency.samples)),
    ('rounds', lambda _, r: None if r.latency is None else len(r.latency.rounds)),
    ('warm_up_calls', _of('latency.warm_up_calls')),
    ('steady', _of('latency.steady')),
    ('minimum_ms', _of('latency.minimum', _MS)),
    *((f'{name}_ms' if part == 'value' else f'{name}_{part}_ms', _of(f'latency.{name}.{part}', _MS))
      for name in ('p50', 'p90', 'p99') for part in (f.name for f in dataclasses.fields(Percentile))),
    ('mean_ms', _of('latency.mean', _MS)),
    ('standard_deviation_ms', _of('latency.standard_deviation', _MS)),
    ('pictures_per_second', lambda _, r: pictures_per_second(r)),
    *((f'cold_{name}_ms', _of(f'cold.{name}', _MS)) for name in COLD_STEPS),
    *((f'cuda_events_{name}_ms', _of(f'device_latency.{name}.value', _MS)) for name in ('p50', 'p90', 'p99')),
    *((f'cuda_transfer_{name}_ms', _of(f'transfers.{name}', _MS)) for name in ('to_device', 'to_host')),
    ('energy_joules', _of('energy')),
    *((f'{name}_mb', _of(f'memory.{name}', _MB)) for name in (
        'weights_on_disk', 'weights_in_memory', 'baseline', 'peak', 'own')),
    *((f'cuda_{name}_mb', _of(f'memory.cuda.{name}', _MB)) for name in (
        'allocated', 'reserved', 'process', 'context', 'device')),
    ('max_abs_difference', _of('agreement.max_abs_difference')),
    ('largest_output', _of('agreement.largest_output')),
    ('top1_agreement_percent', _of('agreement.top1_agreement', _PERCENT)),
    *((name, _of_work(name)) for name in ('parameters', 'macs', 'activations')),
    *((f'{name}_mb', _of_work(name, _MB)) for name in ('bytes_moved', 'peak_activations')),
    ('foreign_cores', _of('load.foreign_cores')),
    ('steal_percent', _of('load.steal', _PERCENT)),
    ('pressure_percent', _of('load.pressure', _PERCENT)),
    *((f'{name}_mhz', _of(f'load.{name}')) for name in ('frequency_before', 'frequency_after')),
    *((f'{name}_celsius', _of(f'load.{name}')) for name in ('temperature_before', 'temperature_after')),
    ('notes', lambda _, r: '; '.join(r.notes)),
]


def write_markdown(profile: Profile, path: Path) -> None:
    write_text(path, markdown(profile).encode('utf-8', 'backslashreplace').decode())


def markdown(profile: Profile) -> str:
    """The tables that people paste into an issue, with what they need to be believed."""
    shared = common_settings(result.case for result in profile.cases)
    lines = [f'{_escaped(machine_line(profile))}.']
    if shared:
        lines.append(f'Each: {_escaped(shared)}.')
    noticed = disturbances(profile)
    if any(result.load is not None for result in profile.cases):
        lines.append(f'Disturbed: {_escaped("; ".join(noticed))}.' if noticed else 'Nothing was seen to disturb it.')
    parts = [' '.join(lines)]
    parts += [_table(t) for t in (cases_table(profile), ratios_table(profile), growth_table(profile),
                                  cold_table(profile), cuda_table(profile)) if t.rows]
    said = [*verdicts(profile), *remarks(profile), *failures(profile)]
    if said:
        parts.append(_list(said))
    estimates = estimates_table(profile)
    if estimates.rows:
        parts += ['### ESTIMATES, not measured', _table(estimates), _list(assumptions(profile))]
    checks = checks_table(profile)
    if checks.rows:
        parts += ['### How far the method is off here', _table(checks)]
    return '\n\n'.join(parts) + '\n'


def _list(lines: Sequence[str]) -> str:
    return '\n'.join(f'- {_escaped(line)}' for line in lines)


def _table(table: Table) -> str:
    rows = [[_escaped(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '| ' + ' | '.join(
            cell.ljust(w) if i < table.words else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))) + ' |' for row in rows]
    lines.insert(1, '|' + '|'.join(
        '-' * (w + 2) if i < table.words else '-' * (w + 1) + ':' for i, w in enumerate(widths)) + '|')
    return '\n'.join(lines) + (f'\n\n{_escaped(table.explanation)}' if table.explanation else '')


def _escaped(text: str) -> str:
    """On one line, and with no letter that markdown or HTML would obey."""
    text = ' '.join(text.split()).replace('&', '&amp;').replace('<', '&lt;')
    return ''.join(f'\\{c}' if c in '\\`*|' else c for c in text).replace('](', ']\\(')

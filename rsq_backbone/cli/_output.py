"""How the sub-commands print: results to standard output, progress and errors to standard error."""
import dataclasses
import json
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Iterable, List, Sequence, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, track
from rich.table import Table

if TYPE_CHECKING:
    from rsq_backbone.analysis import Analysis
    from rsq_backbone.classification import Classification
    from rsq_backbone.demo import DemoResult

T = TypeVar('T')

stdout = Console()
stderr = Console(stderr=True)


def loading(what: str) -> AbstractContextManager[Any]:
    """A spinner with the time elapsed, for work of unknown length such as importing torch."""
    columns = (SpinnerColumn(), TextColumn('{task.description}'), TimeElapsedColumn())
    bar = Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)
    bar.add_task(what, total=None)
    return bar


def progress(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """A bar with the time remaining, where there is anyone to see it."""
    return track(
        items, what, total=total, console=stderr, transient=True, disable=total < 2 or not stderr.is_terminal)


def print_json(result: Any) -> None:
    """A dataclass or a list of them."""
    plain = [dataclasses.asdict(r) for r in result] if isinstance(result, list) else dataclasses.asdict(result)
    sys.stdout.write(json.dumps(plain, indent=2) + '\n')


def report_bad_input(errors: List[Any]) -> None:
    """One line each, and exit code 2, after what was sound has been printed."""
    for e in errors:
        print(f'rsq: {e}', file=sys.stderr)
    if errors:
        raise typer.Exit(2)


def print_path(text: str, style: str = '') -> None:
    """On one line, brackets and all, so that it can be copied."""
    stdout.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def print_classification(result: 'Classification') -> None:
    print_path(f'{result.path} ({result.width} x {result.height})', style='bold')
    table = Table(box=None)
    table.add_column('probability', justify='right')
    table.add_column('')
    table.add_column('class')
    for p in result.predictions:
        table.add_row(f'{100 * p.probability:.1f} %', '█' * round(20 * p.probability), p.class_name)
    stdout.print(table)


def print_segmentation_sizes(result: 'DemoResult') -> None:
    for architecture, shape in result.segmentation_outputs.items():
        stdout.print(
            f'{architecture:>12}  {_size(result.segmentation_input)} -> {_size(shape)} (decoder not trained yet)',
            highlight=False)
    stdout.print()


def print_analysis(analysis: 'Analysis') -> None:
    stdout.print(f'{analysis.model}, input {_size(analysis.input_size)}', style='bold', highlight=False)
    table = Table(box=None)
    table.add_column('#', justify='right', style='dim')
    table.add_column('name', no_wrap=True)
    table.add_column('type', no_wrap=True)
    table.add_column('activations', justify='right', no_wrap=True)
    table.add_column('learnables', overflow='fold')
    table.add_column('parameters', justify='right', no_wrap=True)
    table.add_column('MACs', justify='right', no_wrap=True)
    for number, layer in enumerate(analysis.layers, 1):
        learnables = ', '.join(f'{name} {_size(shape)}' for name, shape in layer.learnables.items())
        table.add_row(
            str(number), layer.name, layer.type, _size(layer.activation), learnables,
            f'{layer.parameters:,}' if layer.parameters else '', f'{layer.macs:,}' if layer.macs else '')
    stdout.print(table)
    stdout.print(
        f'\n{len(analysis.layers)} layers, {analysis.parameters:,} parameters ({analysis.parameters * 4 / 1e6:.2f} MB '
        f'as float32), {analysis.macs:,} MACs, {analysis.activations:,} activations', highlight=False)
    if not analysis.warnings:
        stdout.print('No warnings.')
    for warning in analysis.warnings:
        stdout.print(f'[yellow]warning:[/yellow] {warning}', highlight=False)


def _size(shape: Sequence[int]) -> str:
    return ' x '.join(map(str, shape))

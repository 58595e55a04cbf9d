"""How the sub-commands print: results to standard output, progress and errors to standard error."""
import dataclasses
import json
import os
import shlex
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rsq_backbone.errors import UserError
from rsq_backbone.files import write_text
from rsq_backbone.printable import printable

if TYPE_CHECKING:
    from rsq_backbone.analysis import Analysis
    from rsq_backbone.demo import DemoResult
    from rsq_backbone.evaluation import Evaluation
    from rsq_backbone.metrics import ClassMetrics, Interval
    from rsq_backbone.predictions import Classification
    from rsq_backbone.results import TrainingResult

# By which a command knows whether an extra is installed, as pyproject.toml lists them.
_MODULES = {
    'report': ('matplotlib', 'jinja2'),
    'train': ('lightning', 'sklearn', 'matplotlib', 'jinja2'),
    'onnx': ('onnx', 'onnxscript', 'onnxruntime'),
    'openvino': ('onnx', 'onnxscript', 'openvino'),
    'deploy': ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'nncf'),
    'ncnn': ('ncnn', 'pnnx'),
    'serve': ('fastapi', 'uvicorn', 'python_multipart'),
}

stdout = Console()
_FILE_WIDTH = 200  # of tables that go into a file or a program, where nothing is to be broken into lines


@contextmanager
def resumable(label: str) -> Iterator[None]:
    """Answer Ctrl-C by saying how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f'{label}: interrupted; the same command with --resume goes on from the last whole epoch', file=sys.stderr)
        raise typer.Exit(130) from None


def is_installed(extra: str) -> bool:
    """Whether all modules of an extra can be imported; none is."""
    return all(find_spec(module) is not None for module in _MODULES[extra])


def require(extra: str) -> None:
    """Raise a UserError that names the extra to install, if one of its modules is missing."""
    if not is_installed(extra):
        raise UserError(f'this needs more packages: pip install "rsq-backbone[{extra}]"')


def print_json(result: Any) -> None:
    """A dataclass or a list of them."""
    sys.stdout.write(_json(result))


def write_json(result: Any, path: Path) -> None:
    write_text(path, _json(result))


def _json(result: Any) -> str:
    plain = [dataclasses.asdict(r) for r in result] if isinstance(result, list) else dataclasses.asdict(result)
    return json.dumps(plain, indent=2, allow_nan=False) + '\n'


def report_bad_input(errors: Sequence[Any], name: str = 'rsq') -> None:
    """One line each after the command's name, and exit code 2, once what was sound has been printed."""
    for e in errors:
        print(printable(f'{name}: {e}'), file=sys.stderr)
    if errors:
        raise typer.Exit(2)


def print_path(text: str, style: str = '') -> None:
    """On one line, brackets and all, so that it can be copied; names in it may be anything."""
    stdout.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=True)


def print_classification(result: 'Classification') -> None:
    print_path(f'{result.path} ({result.width} x {result.height})', style='bold')
    table = Table(box=None)
    table.add_column('probability', justify='right')
    table.add_column('')
    table.add_column('class')
    bar = '█' if (stdout.encoding or '').lower().startswith('utf') else '#'
    for p in result.predictions:
        table.add_row(f'{100 * p.probability:.1f} %', bar * round(20 * p.probability), escape(printable(p.class_name)))
    stdout.print(table)


def print_training(result: 'TrainingResult', folder: Path) -> None:
    from rsq_backbone.results import compared_with_linear, nothing_learned

    print_data_report(result.data.left_out, result.data.notes)
    print_path(
        f'{result.model}, recipe {result.recipe["name"]}, seed {result.seed}: trained on '
        f'{sum(result.data.train_counts)} pictures in {result.seconds["total"]:.0f} s, judged by '
        f'{result.metrics.n} others', 'bold')
    table = Table(box=None)
    for column in ('', 'accuracy', '95 %', 'mIoU', '95 %'):
        table.add_column(column, justify='left' if column == '' else 'right', no_wrap=True)
    rows = [(f'recipe {result.recipe["name"]}', result.metrics), ('linear probe', result.linear)]
    for name, metrics in rows if result.difference else rows[1:]:
        table.add_row(
            name, f'{100 * metrics.accuracy:.1f} %', _percent_interval(metrics.accuracy_interval),
            f'{metrics.mean_iou:.3f}', interval(metrics.mean_iou_interval))
    stdout.print(table)
    fault = nothing_learned(result)
    comparison = compared_with_linear(result)
    if fault is not None:
        print_path(f'warning: {fault}', 'yellow')
    elif comparison is not None:
        print_path(comparison)
    print_classes(result.metrics.classes)
    print_what_next(
        folder, 'rsq predict', 'photo.jpg',
        f'import timm, rsq_backbone; model = timm.create_model({f"local-dir:{folder}"!r}, pretrained=True).eval()')


def print_what_next(folder: Path, command: str, arguments: str, python: str) -> None:
    """What to do with a finished run; each line can be pasted as it is."""
    stdout.print()
    print_path(f'look at it:    {shlex.quote(str(folder / "report.html"))}')
    print_path(f'use it:        {command} {shlex.quote(str(folder))} {arguments}')
    print_path(f'in Python:     {python}')


def print_evaluation(evaluation: 'Evaluation') -> None:
    print_data_report(evaluation.left_out, evaluation.notes)
    metrics = evaluation.metrics
    stdout.print(
        f'{metrics.n} pictures: accuracy {100 * metrics.accuracy:.1f} % '
        f'({_percent_interval(metrics.accuracy_interval)}), mIoU {metrics.mean_iou:.3f} '
        f'({interval(metrics.mean_iou_interval)}; 95 % intervals), '
        f'{evaluation.seconds:.1f} s', style='bold', highlight=False, markup=False)
    print_classes(metrics.classes)


def print_data_report(left_out: Sequence[str], notes: Sequence[str]) -> None:
    for line in left_out:
        print_path(f'left out: {line}')
    for line in notes:
        print_path(f'note: {line}')


def print_classes(classes: Sequence['ClassMetrics'], pixels: int = 0) -> None:
    """A row a class; of segmentation, where `pixels` count and not pictures, with their share and Dice for F1."""
    table = Table(box=None)
    table.add_column('class')
    for column in ('pixels' if pixels else 'pictures', 'precision', 'recall', 'Dice' if pixels else 'F1', 'IoU'):
        table.add_column(column, justify='right')
    for c in classes:
        shares = ('-' if share is None else f'{share:.3f}' for share in (c.precision, c.recall, c.f1, c.iou))
        support = f'{100 * c.support / pixels:.1f} %' if pixels else str(c.support)
        table.add_row(escape(printable(c.name)), support, *shares)
    stdout.print(table)


def interval(of: 'Interval') -> str:
    return f'{of.low:.3f} .. {of.high:.3f}'


def _percent_interval(interval: 'Interval') -> str:
    return f'{100 * interval.low:.1f} .. {100 * interval.high:.1f} %'


def print_segmentation_sizes(result: 'DemoResult') -> None:
    for architecture, shape in result.segmentation_outputs.items():
        stdout.print(
            f'{architecture:>12}  {_size(result.segmentation_input)} -> {_size(shape)} (decoder not trained yet)',
            highlight=False)
    stdout.print()


def print_analysis(analysis: 'Analysis') -> None:
    print_path(f'{analysis.model}, input {_size(analysis.input_size)}', 'bold')
    figures = [
        (str(number), _size(layer.output_shape), f'{layer.parameters:,}' if layer.parameters else '',
         f'{layer.macs:,}' if layer.macs else '') for number, layer in enumerate(analysis.layers, 1)]
    widths = [max(map(len, column)) for column in zip(*figures, strict=True)]
    table = Table(box=None, padding=(0, 1, 0, 0))
    # Where a terminal is narrow, names are broken into lines, shapes of weights are left out, and figures stay whole.
    console = stdout if stdout.is_terminal or 'COLUMNS' in os.environ else Console(width=_FILE_WIDTH)
    wide = console.width >= 100
    table.add_column('#', justify='right', style='dim', min_width=widths[0])
    table.add_column('name', overflow='fold')
    table.add_column('type', overflow='fold')
    table.add_column('output', justify='right', min_width=widths[1])
    if wide:
        table.add_column('learnables', overflow='fold')
    table.add_column('parameters', justify='right', min_width=max(widths[2], len('parameters')))
    table.add_column('MACs', justify='right', min_width=widths[3])
    for (number, output, parameters, macs), layer in zip(figures, analysis.layers, strict=True):
        learnables = ', '.join(f'{name} {_size(shape)}' for name, shape in layer.learnables.items())
        table.add_row(
            number, escape(printable(layer.name)), escape(layer.type), output, *([learnables] if wide else []),
            parameters, macs)
    console.print(table)
    stdout.print(
        f'\n{len(analysis.layers)} layers, {analysis.parameters:,} parameters ({analysis.parameters * 4 / 1e6:.2f} MB '
        f'as float32), {analysis.macs:,} MACs, {analysis.activations:,} activations', highlight=False)
    if not analysis.warnings:
        stdout.print('No warnings.')
    for warning in analysis.warnings:
        stdout.print(Text.assemble(('warning:', 'yellow'), f' {printable(warning)}'))


def _size(shape: Sequence[int]) -> str:
    return ' x '.join(map(str, shape))

"""rsq deploy"""
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, Tuple

import typer

if TYPE_CHECKING:
    from rsq_backbone.deploy.deployment import Candidate, Deployment
    from rsq_backbone.deploy.measuring import Speed


def deploy(
        run: Annotated[Path, typer.Argument(
            metavar='RUN', help='Run folder of rsq finetune, rsq import or a demo.')],
        data: Annotated[Optional[str], typer.Option(
            metavar='DATA', help='Pictures to judge by: with classes as rsq evaluate takes them, or with masks as the '
            'demos take them. By default those that the run was judged by.')] = None,
        target: Annotated[Optional[str], typer.Option(
            help='onnx, openvino, ncnn or torch-export. By default the faster of onnx and openvino.')] = None,
        precision: Annotated[Optional[str], typer.Option(
            help='fp32, fp16, bf16 or int8. By default whatever is fastest.')] = None,
        calibration: Annotated[Optional[Path], typer.Option(
            metavar='FOLDER', help='Pictures for int8 to find the ranges of activations by. By default those that the '
            'run was trained on.')] = None,
        max_drop: Annotated[float, typer.Option(
            min=0, help='Points of accuracy, or of mean IoU, that may be lost. What loses more gives way to a higher '
            'precision.')] = 1.0,
        threads: Annotated[Optional[int], typer.Option(
            min=1, max=1024, help='To run with. By default as many as there are cores.')] = None,
        output: Annotated[Optional[Path], typer.Option(
            help="Folder of the artifact. By default the run's, with -artifact at its end.")] = None,
        overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace an artifact that is there.')] = False,
        json: Annotated[bool, typer.Option('--json', help='Print JSON instead of the table.')] = False,
) -> None:
    """Make a trained network small and fast: find the runtime and precision that suit this machine, and prove them.

    Each candidate is compared with PyTorch on pictures that the network did not learn from and measured by the
    profiler. The fastest that keeps the accuracy, or the mean IoU, is written as a folder that runs without PyTorch.

    Examples:

        rsq deploy runs/photos-laptop

        rsq deploy runs/photos-laptop --data more/ --max-drop 0.5

        rsq deploy runs/photos-laptop --target onnx --precision int8

        rsq deploy runs/cells-unet --threads 1
    """
    from rsq_backbone.cli._output import is_installed, print_json, require
    from rsq_backbone.cli._progress import loading, progress_bars

    if target in ('onnx', 'openvino', 'ncnn'):
        require(target)
    elif target is None and not is_installed('onnx') and not is_installed('openvino'):
        require('deploy')
    with loading('loading PyTorch'):
        from rsq_backbone.deploy.deployment import deploy as deploy_run

    with progress_bars() as progress:
        result = deploy_run(
            run, data, target=target, precision=precision, calibration=calibration, max_drop=max_drop,
            threads=threads, output=output, overwrite=overwrite, progress=progress)
    if json:
        print_json(result)
    else:
        _print(result)


def _print(result: 'Deployment') -> None:
    from rich.table import Table

    from rsq_backbone.cli._output import print_data_report, print_path, stdout
    from rsq_backbone.deploy.artifact import LOADER
    from rsq_backbone.profiler.summary import SCATTER_MARKS

    classifies = result.task == 'classification'
    height, width = result.input_size
    print_data_report((), result.notes)
    print_path(
        f'{result.model}, {width} x {height} pixels, {result.threads} thread{"s" if result.threads > 1 else ""}, '
        f'judged by {result.pictures} pictures'
        + (f', of which one is {100 / result.pictures:.2f} points' if classifies else ''), 'bold')
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column('', no_wrap=True)
    for column in (
            'p50\nms', 'p90\nms', 'times\nas fast', 'process\nMB', 'files\nMB',
            'accu-\nracy %' if classifies else 'mean\nIoU %', 'as Py-\nTorch'):
        table.add_column(column, justify='right', no_wrap=True)
    table.add_column('', no_wrap=True)
    table.add_row(
        'PyTorch eager', *_speed(result.eager), f'{result.bytes / 1e6:.2f}', f'{100 * result.score:.1f}', '', '')
    for one in result.candidates:
        chosen = one == result.chosen
        table.add_row(*_row(one, chosen), style='bold green' if chosen else 'dim' if one.status != 'sound' else '')
    stdout.print(table)
    print_path(
        f'process: peak of the whole process. as PyTorch: share of the {"pictures" if classifies else "pixels"} that '
        f'get the class which PyTorch gives them. {SCATTER_MARKS}.', 'dim')
    for one in result.candidates:
        if one.message:
            print_path(f'{one.name}: {one.status}: {one.message}')
    command = 'rsq predict' if classifies else 'python -m seg_demos.predict'
    stdout.print()
    print_path(f'written:       {result.folder}')
    program = shlex.quote(str(Path(result.folder) / LOADER))
    permission = ' --allow-code' if result.chosen.target == 'torch-export' else ''
    print_path(f'use it:        {command} {shlex.quote(str(result.folder))} photo.jpg{permission}')
    print_path(f'without this:  python {program} photo.jpg{permission}   # needs {_needs(result.chosen)}')


# That the table fits into 80 columns; what is meant stands below it.
_IN_A_WORD = {'sound': '', 'loses too much': 'loses', 'not available': 'none'}


def _row(one: 'Candidate', chosen: bool) -> Tuple[str, ...]:
    return (
        one.name, *_speed(one.speed), '-' if one.bytes is None else f'{one.bytes / 1e6:.2f}',
        '-' if one.score is None else f'{100 * one.score:.1f}',
        '-' if one.same_classes is None else f'{100 * one.same_classes:.1f} %',
        'chosen' if chosen else _IN_A_WORD.get(one.status, one.status))


def _speed(speed: 'Speed') -> Tuple[str, str, str, str]:
    from rsq_backbone.profiler.summary import scatter_mark

    return (
        '-' if speed.p50 is None else f'{1e3 * speed.p50:.2f}{scatter_mark(speed.verdict)}',
        '-' if speed.p90 is None else f'{1e3 * speed.p90:.2f}',
        '' if speed.ratio is None else f'{1 / speed.ratio.median:.1f}',
        '-' if speed.memory is None else f'{speed.memory / 1e6:.0f}')


def _needs(one: 'Candidate') -> str:
    from rsq_backbone.deploy.conversion import TARGETS

    return f'numpy, opencv-python-headless and {TARGETS[one.target].runtime} only'

"""rsq import"""
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from rsq_backbone.importing.importing import ImportedCheckpoint


def import_checkpoint(
        checkpoint: Annotated[Path, typer.Argument(
            metavar='CHECKPOINT', help="Output folder of timm's train.py, folder of timm's save_for_hf, or a file of "
            'weights (.pth, .pth.tar, .safetensors).')],
        output: Annotated[Optional[Path], typer.Option(help='The folder to make; runs/NAME if not given.')] = None,
        classes: Annotated[Optional[Path], typer.Option(
            metavar='FILE|FOLDER', help='Class names: a text file with a name a line, or the folder of pictures that '
            'it was trained on. By default what the checkpoint names.')] = None,
        model: Annotated[Optional[str], typer.Option(
            help='timm name of the architecture, where the checkpoint does not tell.')] = None,
        use_ema: Annotated[bool, typer.Option(
            '--use-ema', help='Take the averaged weights of --model-ema.')] = False,
        overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace what was imported before.')] = False,
        json: Annotated[bool, typer.Option('--json', help='Print JSON instead of text.')] = False,
) -> None:
    """Make a run folder of a classifier that timm trained, for rsq evaluate, predict, deploy and profile.

    The weights are read without running anything from the checkpoint. Preprocessing comes from its arguments. From a
    folder, the best epoch is taken.

    Examples:

        rsq import output/train/20250101-120000-resnet18-224

        rsq import training/last.pth.tar --use-ema --output runs/birds

        rsq import weights.pth --model resnet18 --classes names.txt
    """
    from rsq_backbone.cli._output import print_json
    from rsq_backbone.cli._progress import loading

    with loading('loading PyTorch'):
        from rsq_backbone.importing.importing import import_checkpoint as run

    result = run(checkpoint, output, model=model, classes=classes, use_ema=use_ema, overwrite=overwrite)
    if json:
        print_json(result)
    else:
        _print(result)


def _print(result: 'ImportedCheckpoint') -> None:
    from rsq_backbone.cli._output import print_data_report, print_path

    epoch = '' if result.epoch is None else f', epoch {result.epoch}'
    averaged = ', averaged weights' if result.ema else ''
    channels, height, width = result.input_size
    print_data_report((), result.notes)
    print_path(f'{result.model} from {result.file}{epoch}{averaged}', 'bold')
    print_path(f'input:         {width} x {height} pixels, {channels} channel{"s" if channels > 1 else ""}')
    print_path(
        f'classes:       {len(result.classes)} ({", ".join(result.classes[:5])}'
        f'{" ..." if len(result.classes) > 5 else ""}), from {result.classes_from}')
    print_path(f'written:       {result.folder}')
    folder = shlex.quote(str(result.folder))
    print_path(f'use it:        rsq predict {folder} photo.jpg')
    print_path(f'judge it:      rsq evaluate {folder} images/')
    print_path(f'make it fast:  rsq deploy {folder} --data images/')

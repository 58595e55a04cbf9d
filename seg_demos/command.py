"""The command line that the four demos share."""
import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Dict, Optional

import typer

from rsq_backbone.cli._running import plain_app, run_app
from rsq_backbone.errors import UserError
from seg_demos.recipe import SegmentationRecipe

if TYPE_CHECKING:
    from seg_demos.results import SegmentationResult
    from seg_demos.training import Build

__all__ = ['run']

_DEFAULT = SegmentationRecipe()


def run(architecture: str, build: 'Build', description: str) -> None:
    """Run one demo as a command line of its own.

    Args:
        architecture: Its name, for the run folder and the report.
        build: Makes the network; its keyword-only arguments become options of the command line.
        description: For --help.
    """
    signature = inspect.signature(_main)
    shared = [p for name, p in signature.parameters.items() if name not in ('architecture', 'build', 'own')]
    own = [p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def main(**options: Any) -> None:
        _main(architecture, build, {p.name: options.pop(p.name) for p in own}, **options)

    # typer reads a function's options off its signature.
    keyword_only = [p.replace(kind=p.KEYWORD_ONLY) for p in (*shared[:2], *own, *shared[2:])]
    main.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
    main.__annotations__ = {p.name: p.annotation for p in keyword_only}
    main.__doc__ = description
    app = plain_app()
    app.command()(main)
    run_app(app, f'python -m seg_demos.{architecture}')


def _main(
        architecture: str,
        build: 'Build',
        own: Dict[str, Any],
        source: Annotated[str, typer.Argument(
            metavar='DATA', help='synthetic, synthetic-food, oxford-pet, or a folder: with images/ and masks/ (or both '
            'under train/ and val/), a CamVid tree or a VOC tree.')] = 'synthetic',
        encoder: Annotated[str, typer.Option(help="Any of smp's encoders, tu- and a timm name included.")] =
        'res_squeezenet',
        random: Annotated[bool, typer.Option('--random', help='Start the encoder at random.')] = False,
        epochs: Annotated[int, typer.Option(min=1)] = _DEFAULT.epochs,
        batch_size: Annotated[int, typer.Option(min=2, help='Crops, of all devices together.')] = _DEFAULT.batch_size,
        crop: Annotated[int, typer.Option(min=64, max=4096, help='Side of the training crops in pixels.')] =
        _DEFAULT.crop,
        learning_rate: Annotated[float, typer.Option(help='Of the decoder.')] = _DEFAULT.learning_rate,
        encoder_factor: Annotated[float, typer.Option(
            help="The encoder's learning rate, as a multiple of that; 1 with --random.")] = _DEFAULT.encoder_factor,
        augmentation: Annotated[str, typer.Option(help='none, light or strong.')] = _DEFAULT.augmentation,
        class_names: Annotated[Optional[Path], typer.Option(
            metavar='FILE', help='Text file with one name a line, the first for mask value 0; '
            'what is called void, unlabelled or ignore does not count.')] = None,
        colour_map: Annotated[Optional[Path], typer.Option(
            metavar='FILE', help='For painted masks: text file with a class and its colour a line (sky 128 128 128).',
        )] = None,
        ignore_index: Annotated[Optional[int], typer.Option(
            help='Mask value that neither trains nor counts; 255 by itself where it is no class.')] = None,
        train_share: Annotated[float, typer.Option(
            min=0.05, max=0.95, help='Share of the pictures to train on, where DATA has no split of its own.')] = 0.7,
        seed: Annotated[int, typer.Option(help='Of the split and of everything random.')] = 0,
        output: Annotated[Path, typer.Option(help='Folder of the run folders.')] = Path('runs'),
        name: Annotated[Optional[str], typer.Option(help='Of the run folder; made of DATA and demo if not given.')] =
        None,
        resume: Annotated[bool, typer.Option(
            '--resume', help='Go on where the same command was stopped, whatever stopped it.')] = False,
        overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace a run of the same name.')] = False,
        accelerator: Annotated[str, typer.Option(help="Lightning's: auto, cpu, gpu, mps.")] = 'auto',
        devices: Annotated[str, typer.Option(help="Lightning's: a number, or auto for all GPUs there are.")] = 'auto',
        strategy: Annotated[str, typer.Option(help="Lightning's: auto, ddp.")] = 'auto',
        num_nodes: Annotated[int, typer.Option(min=1, help='Machines; start the same command on each.')] = 1,
        precision: Annotated[str, typer.Option(
            help='32-true, bf16-mixed, or auto: the faster one on this machine.')] = _DEFAULT.precision,
        json: Annotated[bool, typer.Option('--json', help='Print metrics.json instead of the table.')] = False,
) -> None:
    from rsq_backbone.cli._output import print_json, require, resumable
    from rsq_backbone.cli._progress import loading, progress_bars

    require('train')
    with loading('loading PyTorch'):
        from rsq_backbone.training.fitting import Hardware
        from seg_demos.masks import read_class_names, read_colour_map
        from seg_demos.training import train

    if class_names and colour_map:
        raise UserError('a colour map has names of its own; leave out --class-names.')
    classes = read_class_names(class_names) if class_names else None
    colours = None
    if colour_map:
        classes, colours = read_colour_map(colour_map)
    recipe = dataclasses.replace(
        _DEFAULT, epochs=epochs, batch_size=batch_size, crop=crop, learning_rate=learning_rate,
        encoder_factor=encoder_factor, augmentation=augmentation, precision=precision)
    with progress_bars() as progress, resumable(f'seg_demos.{architecture}'):
        result = train(
            architecture, build, source, recipe, encoder, None if random else 'imagenet', options=own,
            classes=classes, colours=colours, ignore_index=ignore_index, train_share=train_share, seed=seed,
            output=output, name=name, resume=resume, overwrite=overwrite,
            hardware=Hardware(accelerator, devices, strategy, num_nodes), progress=progress)
    if json:
        print_json(result)
    else:
        _print(result, output / result.name)


def _print(result: 'SegmentationResult', folder: Path) -> None:
    from rsq_backbone.cli._output import interval, print_classes, print_data_report, print_path, print_what_next

    print_data_report(result.data.left_out, result.data.notes)
    metrics = result.metrics
    weights = 'random' if result.encoder_weights is None else result.encoder_weights
    print_path(
        f'{result.architecture} on {result.encoder} ({weights} start), seed {result.seed}: trained on '
        f'{result.data.train_pictures} pictures in {result.seconds["total"]:.0f} s, judged by {metrics.n} others',
        'bold')
    print_path(
        f'mean IoU {metrics.mean_iou:.3f} ({interval(metrics.mean_iou_interval)}, 95 %), mean Dice '
        f'{metrics.mean_dice:.3f}, pixel accuracy {100 * metrics.pixel_accuracy:.1f} %', 'bold')
    print_classes(metrics.classes, metrics.pixels)
    registers = ', seg_demos.segnet_model' if result.architecture == 'segnet' else ''
    print_what_next(
        folder, 'python -m seg_demos.predict', 'images/ --out overlays/',
        f'import rsq_backbone{registers}, segmentation_models_pytorch as smp; '
        f'model = smp.from_pretrained({str(folder)!r}).eval()')

"""The command line that the four demos share."""
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Dict, Optional

import typer

from seg_demos.recipe import SegmentationRecipe

__all__ = ['run']


def run(architecture: str, build: Any, description: str) -> None:
    """Run one demo as a command line of its own.

    Args:
        architecture: Its name, for the run folder and the report.
        build: Encoder, its weights, and the number of classes -> smp model.
        description: For --help.
    """
    default = SegmentationRecipe()

    def main(
            source: Annotated[str, typer.Argument(
                metavar='DATA', help='synthetic, oxford-pet, or a folder with images/ and masks/ (also under train/ '
                'and val/), a CamVid or a VOC tree.')] = 'synthetic',
            encoder: Annotated[str, typer.Option(help="Any of smp's encoders.")] = 'res_squeezenet',
            random: Annotated[bool, typer.Option('--random', help='Start the encoder from random weights.')] = False,
            epochs: Annotated[int, typer.Option(min=1)] = default.epochs,
            batch_size: Annotated[int, typer.Option(min=2)] = default.batch_size,
            crop: Annotated[int, typer.Option(min=64, help='Side of the training crops.')] = default.crop,
            learning_rate: Annotated[float, typer.Option(help='Of the decoder.')] = default.learning_rate,
            encoder_factor: Annotated[
                float, typer.Option(help="The encoder's, times that.")] = default.encoder_factor,
            augmentation: Annotated[
                str, typer.Option(help='none, light, paper or strong.')] = default.augmentation,
            class_names: Annotated[Optional[Path], typer.Option(help='Text file, one name a line.')] = None,
            colour_map: Annotated[Optional[Path], typer.Option(
                help='Text file for painted masks, one class and its colour a line: sky 128 128 128.')] = None,
            ignore_index: Annotated[
                Optional[int], typer.Option(help='Mask value that neither trains nor counts.')] = None,
            seed: Annotated[int, typer.Option()] = 0,
            output: Annotated[Path, typer.Option(help='Folder of the run folders.')] = Path('runs'),
            name: Annotated[Optional[str], typer.Option(help='Of the run folder.')] = None,
            resume: Annotated[bool, typer.Option('--resume', help='Go on where the same command was stopped.')] = False,
            overwrite: Annotated[bool, typer.Option('--overwrite', help='Replace a run of the same name.')] = False,
            accelerator: Annotated[str, typer.Option(help="Lightning's: auto, cpu, gpu, mps.")] = 'auto',
            devices: Annotated[str, typer.Option(help="Lightning's.")] = 'auto',
            precision: Annotated[str, typer.Option(help='32-true, bf16-mixed or auto.')] = default.precision,
            json: Annotated[bool, typer.Option('--json', help='Print metrics.json instead of the table.')] = False,
    ) -> None:
        from rsq_backbone.cli._output import loading, print_json, progress_bars

        with loading('loading PyTorch'):
            from rsq_backbone.training.fitting import Hardware
            from seg_demos.masks import read_class_names, read_colour_map
            from seg_demos.training import train

        classes = read_class_names(class_names) if class_names else None
        colours = None
        if colour_map:
            classes, colours = read_colour_map(colour_map)
        recipe = dataclasses.replace(
            default, epochs=epochs, batch_size=batch_size, crop=crop, learning_rate=learning_rate,
            encoder_factor=encoder_factor, augmentation=augmentation, precision=precision)
        with progress_bars() as progress:
            try:
                result = train(
                    architecture, build, source, recipe, encoder, None if random else 'imagenet', classes=classes,
                    colours=colours, ignore_index=ignore_index, seed=seed, output=output, name=name, resume=resume,
                    overwrite=overwrite, hardware=Hardware(accelerator, devices), progress=progress)
            except KeyboardInterrupt:
                print('interrupted; the same command with --resume goes on from the last whole epoch', file=sys.stderr)
                raise typer.Exit(130) from None
        if json:
            print_json(result)
            return
        _print(result, output / result.name)

    main.__doc__ = description
    app = typer.Typer(add_completion=False, rich_markup_mode='rich')
    app.command()(main)
    app()


def _print(result: Any, folder: Path) -> None:
    metrics = result.metrics
    print(f'{metrics.n} pictures: mIoU {metrics.mean_iou:.3f}, pixel accuracy {100 * metrics.pixel_accuracy:.1f} %, '
          f'{result.seconds["total"]:.0f} s; {folder}')
    names: Dict[str, Any] = {c.name: c.iou for c in metrics.classes}
    for name, iou in names.items():
        print(f'  {name}: {"-" if iou is None else f"{iou:.3f}"}')

"""Segment pictures and videos with a trained network: python -m seg_demos.predict RUN PICTURE ..."""
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, List, Optional

import typer

from rsq_backbone.cli._running import AllowCode, plain_app, run_app

if TYPE_CHECKING:
    from seg_demos.segmenting import Segmented

COMMAND = 'python -m seg_demos.predict'
app = plain_app()


@app.command()
def predict(
        run: Annotated[Path, typer.Argument(
            metavar='RUN', help='Run folder of one of the demos, or artifact of rsq deploy.')],
        pictures: Annotated[List[Path], typer.Argument(
            metavar='PICTURE', help='Pictures, folders of pictures, or videos.')],
        out: Annotated[Path, typer.Option(help='Folder of the results.')] = Path('overlays'),
        tile: Annotated[int, typer.Option(
            min=96, help='Side of the tiles that larger pictures are cut into, at most; less saves memory.')] = 1024,
        overlap: Annotated[Optional[int], typer.Option(
            min=32, help='Pixels that neighbouring tiles share, by default a quarter; more shows fewer seams.')] = None,
        allow_code: AllowCode = False,
        json: Annotated[bool, typer.Option('--json', help='Print JSON instead of a list.')] = False,
) -> None:
    """Segment pictures and videos of any size with a network that you trained.

    Of each picture NAME two files are written: NAME-mask.png, which opens in colours and whose pixel values are the
    class numbers, so that it can be trained on again, and NAME-overlay.jpg. Of a video it is NAME-overlay.mp4, without
    sound; for masks of its frames, save them as pictures first. Results of the same name are replaced.

    Examples:

        python -m seg_demos.predict runs/synthetic-unet photo.jpg

        python -m seg_demos.predict runs/pets-unet new/ cat.mp4 --out segmented

        python -m seg_demos.predict runs/fields-unet aerial.tif --tile 512 --json

        python -m seg_demos.predict runs/fields-unet-artifact aerial.tif   (faster)
    """
    from rsq_backbone.cli._output import print_json, report_bad_input
    from rsq_backbone.cli._progress import loading, progress_bars

    with loading('loading PyTorch'):
        from rsq_backbone.deploy.artifact import is_artifact
        from seg_demos import artifact, trained
        from seg_demos.segmenting import find_files, segment_files

        network = artifact.load(run, allow_code) if is_artifact(run) else trained.load(run)
    files = find_files(pictures)
    with progress_bars() as progress:
        results, bad = segment_files(network, files, out, tile, overlap, progress)
    if json:
        print_json(results)
    else:
        for result in results:
            _print(result)
    report_bad_input(bad, COMMAND.split()[-1])


def _print(result: 'Segmented') -> None:
    from rich.text import Text

    from rsq_backbone.cli._output import print_path, stdout
    from rsq_backbone.printable import printable
    from seg_demos.overlays import palette

    frames = f', {result.frames} frames' if result.mask is None else ''
    print_path(f'{result.path} ({result.width} x {result.height}{frames}, {result.seconds:.1f} s)', style='bold')
    rows = zip(result.shares.items(), palette(len(result.shares)), strict=True)
    for (name, share), (red, green, blue) in sorted(rows, key=lambda row: -row[0][1]):
        if share > 0:
            stdout.print(Text.assemble(
                f'{100 * share:6.1f} % ', ('\u2588\u2588', f'rgb({red},{green},{blue})'), f' {printable(name)}'),
                soft_wrap=True)
    print_path(f'  {result.overlay}')


if __name__ == '__main__':
    run_app(app, COMMAND)

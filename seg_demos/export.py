"""Write a trained network as ONNX: python -m seg_demos.export RUN"""
from pathlib import Path
from typing import Annotated, Optional

import typer

from rsq_backbone.cli._running import plain_app, run_app

COMMAND = 'python -m seg_demos.export'
app = plain_app()


@app.command()
def export(
        run: Annotated[Path, typer.Argument(metavar='RUN', help='Run folder of one of the demos.')],
        out: Annotated[Optional[Path], typer.Option(help='File to write; RUN/model.onnx if not given.')] = None,
) -> None:
    """Write a network that you trained as one ONNX file, for any batch and size, that runs without PyTorch.

    It is written only if ONNX Runtime computes from it what PyTorch does. Class names, mean, std and the stride that
    sizes have to be multiples of stand in its metadata.

    Examples:

        python -m seg_demos.export runs/synthetic-unet

        python -m seg_demos.export runs/fields-deeplab --out fields.onnx
    """
    from rsq_backbone.cli._output import print_path, require
    from rsq_backbone.cli._progress import loading

    require('onnx')
    with loading('exporting'):
        from seg_demos.onnx_export import export_onnx
        from seg_demos.trained import load

        file = run / 'model.onnx' if out is None else out
        difference = export_onnx(load(run), file)
    print_path(f'{file} ({file.stat().st_size / 1e6:.1f} MB; off PyTorch by {difference:.1g} of the largest logit)')


if __name__ == '__main__':
    run_app(app, COMMAND)

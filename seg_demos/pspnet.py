"""PSPNet: the last map beside its means over 1, 4, 9 and 36 parts of the picture, so that each place knows the whole.

Examples:

    python -m seg_demos.pspnet   (drawn plates of food, works offline)

    python -m seg_demos.pspnet DATA --epochs 20

    python -m seg_demos.pspnet DATA --output-stride 16   (coarser, a quarter of the work)
"""
from typing import Annotated, Any, Optional

import typer

from seg_demos.command import run


def build(
        encoder: str,
        weights: Optional[str],
        classes: int,
        *,
        output_stride: Annotated[int, typer.Option(
            help='Of the encoder, 16 or 8: the later stages keep the maps that large, and dilate.')] = 8,
) -> Any:
    import segmentation_models_pytorch as smp

    return smp.PSPNet(
        encoder, encoder_weights=weights, classes=classes,
        encoder_depth=5,  # smp's own 3 would leave out the deeper half of the encoder
        output_stride=output_stride, upsampling=output_stride,  # there is no other way back to the picture's size
        psp_out_channels=128,  # a quarter of smp's
    )


if __name__ == '__main__':
    run('pspnet', build, __doc__)

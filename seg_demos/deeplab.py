"""DeepLabV3+: the same map seen at several dilations, then joined with a finer one. DeepLabV3 (--v3) does not join.

Examples:

    python -m seg_demos.deeplab   (drawn plates of food, works offline)

    python -m seg_demos.deeplab DATA --epochs 20

    python -m seg_demos.deeplab DATA --v3 --output-stride 8   (finer and slower)
"""
from typing import Annotated, Any, Optional

import typer

from seg_demos.command import run


def build(
        encoder: str,
        weights: Optional[str],
        classes: int,
        *,
        v3: Annotated[bool, typer.Option('--v3', help='DeepLabV3 instead of DeepLabV3+.')] = False,
        output_stride: Annotated[int, typer.Option(
            help="Of the encoder, 16 or 8: the later stages keep the maps that large, and dilate.")] = 16,
) -> Any:
    import segmentation_models_pytorch as smp

    rates = {16: (6, 12, 18), 8: (12, 24, 36)}  # the same field of view in pixels (DeepLabV3 paper, section 3.3)
    return (smp.DeepLabV3 if v3 else smp.DeepLabV3Plus)(
        encoder, encoder_weights=weights, classes=classes,
        encoder_output_stride=output_stride,
        decoder_atrous_rates=rates.get(output_stride, rates[16]),
        decoder_aspp_separable=True,  # a ninth of the operations
        decoder_channels=128,  # half of smp's
    )


if __name__ == '__main__':
    run('deeplab', build, __doc__)

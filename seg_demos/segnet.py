"""SegNet: where the encoder pooled, the decoder puts each value back to the place of its maximum.

Examples:

    python -m seg_demos.segnet   (drawn plates of food, works offline)

    python -m seg_demos.segnet DATA --epochs 20

    python -m seg_demos.segnet DATA --encoder vgg11   (the paper's kind of encoder: all steps are pools)
"""
from typing import Any, Optional

from seg_demos.command import run


def build(encoder: str, weights: Optional[str], classes: int) -> Any:
    from seg_demos.segnet_model import SegNet

    return SegNet(
        encoder, encoder_weights=weights, classes=classes,
        decoder_channels=(128, 64, 48, 32, 16),  # where nothing is unpooled; else as wide as what the pool read
    )


if __name__ == '__main__':
    run('segnet', build, __doc__)

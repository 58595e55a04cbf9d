"""U-Net: what the encoder saw at each level goes across to the decoder. The one to begin with.

Examples:

    python -m seg_demos.unet   (drawn plates of food, works offline)

    python -m seg_demos.unet DATA --epochs 20

    python -m seg_demos.unet DATA --encoder resnet18 --random (the same with another encoder, for comparison)
"""
from typing import Any, Optional

from seg_demos.command import run


def build(encoder: str, weights: Optional[str], classes: int) -> Any:
    import segmentation_models_pytorch as smp

    return smp.Unet(
        encoder, encoder_weights=weights, classes=classes,
        decoder_channels=(128, 64, 48, 32, 16),  # half of smp's: else the decoder takes most of the time
    )


if __name__ == '__main__':
    run('unet', build, __doc__)

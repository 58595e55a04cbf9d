"""U-Net: python -m seg_demos.unet [DATA]"""
import segmentation_models_pytorch as smp

import rsq_backbone  # noqa: F401  registers
from seg_demos.command import run


def build(encoder, weights, classes):
    # Half of smp's widths: a decoder no heavier than the encoder.
    return smp.Unet(encoder, encoder_weights=weights, classes=classes, decoder_channels=(128, 64, 48, 32, 16))


if __name__ == '__main__':
    run('unet', build, 'Train a U-Net on pictures with masks.')

"""How the segmentation demos train, from top to bottom what a reader needs to repeat it."""
from dataclasses import dataclass

__all__ = ['SegmentationRecipe']


@dataclass(frozen=True)
class SegmentationRecipe:
    """Defaults that suit a few hundred pictures on two cores."""

    name: str = 'segmentation'
    epochs: int = 15  # three minutes of a hundred pictures on two cores
    batch_size: int = 6  # the largest that leaves a notebook computer usable; batch norms see six crops' pixels
    crop: int = 256  # small enough for that batch, large enough to show an object with its surroundings
    learning_rate: float = 1e-3  # of the decoder, which begins at random
    # The encoder begins trained and has no batch norms in its trunk: shorter steps keep what it knows. At the full rate
    # U-Net is a little better, but some seeds of SegNet and FPN fall far behind; at a tenth nothing is better
    # (benchmarks/unit_scale.py).
    encoder_factor: float = 0.3
    weight_decay: float = 1e-4
    schedule: str = 'one-cycle'  # warm-up spares the encoder while the decoder is noise; the end at zero settles
    augmentation: str = 'light'  # seg_demos.augmentation; masks are changed with their pictures
    dice: float = 1.0  # weight of the Dice loss, which minds small classes, beside the cross-entropy, which trains fast
    precision: str = 'auto'  # bfloat16 on a CPU that computes in it, else float32

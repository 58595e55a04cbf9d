"""The recipes, from top to bottom what a reader needs to repeat them."""
from dataclasses import dataclass
from typing import Dict, Optional

from rsq_backbone.errors import UserError

__all__ = ['RECIPES', 'Recipe']


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned."""

    name: str
    summary: str
    epochs: int
    batch_size: int  # of all processes together
    trained_stages: Optional[int]  # besides the last layer, counted from it; None trains everything
    optimizer: str  # 'sgd' (momentum 0.9) or 'adamw'
    learning_rate: float  # of the last trained stage
    classifier_factor: float  # of the last layer, times the learning rate
    # Mean square of the pooled features where the last layer starts at random, for which the rates hold if it is 1;
    # finetuning fills it in, and `layers.parameter_groups` says what it changes.
    feature_size: float
    stage_factor: float  # of each earlier stage, times that of the stage after it
    weight_decay: float
    schedule: str  # 'constant', or 'one-cycle': linear warm-up over a tenth, then half a cosine down to zero
    augmentation: str  # a name of AUGMENTATIONS, drawn anew in each epoch
    label_smoothing: float
    balance: float  # classes weigh by their frequency to the power of -balance; 0: all pictures alike, 1: all classes
    drop_rate: Optional[float]  # before the last layer; None: the model's own
    logit_relu: bool  # the paper's ReLU between the last convolution and the pooling, where the model has one
    crop_mode: str  # 'squash' to the input size as MATLAB does, or 'center': the middle of the picture, undistorted
    keep_statistics: bool  # batch norms go on with the statistics they have; a batch of ten says little about them
    linear_start: bool  # the last layer starts as the logistic regression that is the floor
    precision: str  # of training, Lightning's name; 'auto': 'bf16-mixed' on a CPU that computes in it, else '32-true'
    held_out: float  # share of the training pictures by which the best epoch is chosen; 0 keeps the last epoch

    def __post_init__(self) -> None:
        choices = {
            'optimizer': ('sgd', 'adamw'), 'schedule': ('constant', 'one-cycle'), 'crop_mode': ('squash', 'center')}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise UserError(f'{field} should be {" or ".join(allowed)}, got {getattr(self, field)!r}.')


RECIPES: Dict[str, Recipe] = {recipe.name: recipe for recipe in (
    # `python benchmarks/solar_cells.py --arms laptop,...` changes one of these choices at a time.
    Recipe(
        name='laptop',
        summary='Starts as the logistic regression that is the floor, then trains all but the first layers, gently.',
        epochs=7,
        batch_size=16,
        trained_stages=3,  # the first layers suit any picture, and have the largest maps
        optimizer='adamw',
        learning_rate=3e-4,
        classifier_factor=1,
        feature_size=1,
        stage_factor=1,
        weight_decay=0.01,
        schedule='one-cycle',
        augmentation='light',
        label_smoothing=0,
        balance=0.5,  # half-way between all pictures alike and all classes alike
        drop_rate=0,  # the last layer starts right; dropout would drown that in noise
        logit_relu=False,
        crop_mode='squash',
        keep_statistics=True,
        linear_start=True,
        precision='auto',  # bfloat16 takes two thirds of the time of float32
        held_out=0,
    ),
    Recipe(
        name='paper',
        summary="The paper's: SGD with momentum, constant rate, the fire trunk frozen (sections 2.1 and 2.3).",
        epochs=6,
        batch_size=10,
        trained_stages=1,
        optimizer='sgd',
        learning_rate=3e-4,
        classifier_factor=10,  # MATLAB's guide, which the paper follows, has the new layer learn ten times faster
        feature_size=1,
        stage_factor=1,
        weight_decay=1e-4,  # MATLAB's default
        schedule='constant',
        augmentation='none',
        label_smoothing=0,
        balance=0,
        drop_rate=None,  # 50 % in the paper's network
        logit_relu=True,
        crop_mode='squash',
        keep_statistics=False,
        linear_start=False,
        precision='32-true',
        held_out=0,
    ),
    Recipe(
        name='linear',
        summary='Logistic regression on the pretrained features: seconds, and the floor for every other recipe.',
        epochs=0,
        batch_size=10,
        trained_stages=0,
        optimizer='sgd',
        learning_rate=0,
        classifier_factor=1,
        feature_size=1,
        stage_factor=1,
        weight_decay=0,
        schedule='constant',
        augmentation='none',
        label_smoothing=0,
        balance=0,
        drop_rate=0,
        logit_relu=False,
        crop_mode='squash',
        keep_statistics=False,
        linear_start=True,
        precision='32-true',
        held_out=0,
    ),
)}

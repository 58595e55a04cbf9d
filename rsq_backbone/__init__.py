"""Res-SqueezeNet for timm and segmentation_models_pytorch.

Importing this package registers `res_squeezenet` with both, as soon as they are imported themselves:

    import rsq_backbone
    timm.create_model("res_squeezenet", pretrained=True)
    smp.Unet(encoder_name="res_squeezenet", classes=11)
"""
import importlib
from functools import partial
from typing import TYPE_CHECKING, Any, List

from rsq_backbone._import_hooks import when_imported

if TYPE_CHECKING:
    from rsq_backbone.analysis import Analysis, Layer, analyze
    from rsq_backbone.classification import classify
    from rsq_backbone.evaluation import Evaluation, evaluate
    from rsq_backbone.images import ImageError, read_image
    from rsq_backbone.importing.importing import ImportedCheckpoint, import_checkpoint
    from rsq_backbone.predictions import Classification
    from rsq_backbone.profiler.compare import Comparison, compare
    from rsq_backbone.profiler.measure import profile
    from rsq_backbone.profiler.profile import Profile
    from rsq_backbone.res_squeezenet import ResSqueezeNet
    from rsq_backbone.results import TrainingResult
    from rsq_backbone.smp_encoder import ResSqueezeNetEncoder, register_smp
    from rsq_backbone.training.finetuning import finetune
    from rsq_backbone.training.fitting import Hardware
    from rsq_backbone.training.recipes import RECIPES, Recipe

__version__ = '0.1.0'
__all__ = [
    'Analysis', 'Classification', 'Comparison', 'Evaluation', 'Hardware', 'ImageError', 'ImportedCheckpoint', 'Layer',
    'Profile', 'RECIPES', 'Recipe', 'ResSqueezeNet', 'ResSqueezeNetEncoder', 'TrainingResult', 'analyze', 'classify',
    'compare', 'evaluate', 'finetune', 'import_checkpoint', 'profile', 'read_image', 'register_smp',
]

_HOME = {
    'Analysis': 'analysis',
    'Classification': 'predictions',
    'Evaluation': 'evaluation',
    'Hardware': 'training.fitting',
    'ImageError': 'images',
    'ImportedCheckpoint': 'importing.importing',
    'Layer': 'analysis',
    'RECIPES': 'training.recipes',
    'Recipe': 'training.recipes',
    'ResSqueezeNet': 'res_squeezenet',
    'ResSqueezeNetEncoder': 'smp_encoder',
    'TrainingResult': 'results',
    'Comparison': 'profiler.compare',
    'Profile': 'profiler.profile',
    'analyze': 'analysis',
    'classify': 'classification',
    'compare': 'profiler.compare',
    'evaluate': 'evaluation',
    'finetune': 'training.finetuning',
    'import_checkpoint': 'importing.importing',
    'profile': 'profiler.measure',
    'read_image': 'images',
    'register_smp': 'smp_encoder',
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_HOME[name]}'), name)


def __dir__() -> List[str]:
    return sorted([*globals(), *__all__])


# Both modules register as they are imported.
when_imported('timm', partial(importlib.import_module, 'rsq_backbone.res_squeezenet'))
when_imported('segmentation_models_pytorch', partial(importlib.import_module, 'rsq_backbone.smp_encoder'))

"""What a classifier sees in photographs."""
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config

from rsq_backbone.errors import UserError
from rsq_backbone.images import read_image

__all__ = ['Classification', 'Prediction', 'classify']


@dataclass(frozen=True)
class Prediction:
    class_index: int
    class_name: str
    probability: float  # softmax over all classes


@dataclass(frozen=True)
class Classification:
    """One picture's most probable classes, the best first."""

    path: Optional[str]  # None for a picture that did not come from a file
    width: int
    height: int
    predictions: Tuple[Prediction, ...]


@torch.inference_mode()
def classify(
        images: Sequence[Union[str, Path, Image.Image]], model: nn.Module, topk: int = 5, batch_size: int = 16,
) -> List[Classification]:
    """Classify pictures of any and of different sizes with the preprocessing that the model's configuration names.

    Args:
        images: Files or RGB pictures.
        model: A timm classifier; its mode (train or eval) is left as it is.
        topk: Predictions per picture, 1 .. number of classes.
        batch_size: Pictures per forward pass.

    Raises:
        ImageError: for a file that is not a usable picture.
        UserError: if `topk` is out of range or the model is no classifier.
    """
    num_classes = getattr(model, 'num_classes', 0)
    if num_classes < 1:
        raise UserError('this model has no classes; create it with num_classes > 0.')
    if not 1 <= topk <= num_classes:
        raise UserError(f'topk should be 1 .. {num_classes} (the number of classes), got {topk}.')
    transform = create_transform(**resolve_data_config(model=model))
    names = _class_names(model, num_classes)
    device = next(model.parameters()).device

    results: List[Classification] = []
    for start in range(0, len(images), batch_size):
        chunk = images[start:start + batch_size]
        pictures = [image if isinstance(image, Image.Image) else read_image(Path(image)) for image in chunk]
        batch = torch.stack([transform(picture) for picture in pictures]).to(device)
        probabilities = model(batch).float().softmax(1).topk(topk)
        for source, picture, values, indices in zip(
                chunk, pictures, probabilities.values.tolist(), probabilities.indices.tolist(), strict=True):
            results.append(Classification(
                path=None if isinstance(source, Image.Image) else str(source),
                width=picture.width,
                height=picture.height,
                predictions=tuple(Prediction(i, names[i], v) for i, v in zip(indices, values, strict=True)),
            ))
    return results


def _class_names(model: nn.Module, num_classes: int) -> List[str]:
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    labels = cfg.get('label_names')
    if labels is not None and len(labels) == num_classes:
        descriptions = cfg.get('label_descriptions') or {}
        return [str(descriptions.get(label, label)) for label in labels]
    subset = infer_imagenet_subset(model)
    if subset is not None:
        info = ImageNetInfo(subset)
        return [info.index_to_description(i) for i in range(num_classes)]
    return [f'class {i}' for i in range(num_classes)]

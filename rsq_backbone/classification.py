"""What a classifier sees in photographs."""
from pathlib import Path
from typing import Iterator, List, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from PIL import Image
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config

from rsq_backbone.errors import UserError
from rsq_backbone.evaluation_mode import in_evaluation_mode
from rsq_backbone.images import read_image
from rsq_backbone.model_loading import as_model
from rsq_backbone.predictions import Classification, Prediction
from rsq_backbone.progress import Progress, silent

__all__ = ['class_names', 'class_probabilities', 'classify']

Source = Union[str, Path, Image.Image]


def classify(
        images: Union[Source, Sequence[Source]], model: Union[str, nn.Module] = 'res_squeezenet', topk: int = 5,
        batch_size: int = 16,
) -> List[Classification]:
    """Classify images of any and of different sizes with the preprocessing that the model's configuration names.

        rsq_backbone.classify('photo.jpg')[0].predictions[0]

    Args:
        images: One or several files or RGB images.
        model: A timm classifier, or the name of one with pretrained weights. It is run in evaluation mode and left as
            it was.
        topk: Predictions per image, 1 .. number of classes.
        batch_size: Images per forward pass.

    Returns:
        One classification per image, in their order.

    Raises:
        ImageError: for a file that is not a usable image.
        UserError: if timm does not know the name, `topk` is out of range, or the model is no classifier or takes
            something other than RGB or grayscale.
    """
    images = [images] if isinstance(images, (str, Path, Image.Image)) else images
    model = as_model(model, pretrained=True)
    num_classes = getattr(model, 'num_classes', 0)
    if num_classes < 1:
        raise UserError('this model has no classes; create it with num_classes > 0.')
    if not 1 <= topk <= num_classes:
        raise UserError(f'topk should be 1 .. {num_classes} (the number of classes), got {topk}.')
    names = class_names(model)
    results: List[Classification] = []
    for chunk, pictures, values in _probabilities(images, model, batch_size):
        best = values.topk(topk)
        for source, picture, probabilities, indices in zip(
                chunk, pictures, best.values.tolist(), best.indices.tolist(), strict=True):
            results.append(Classification(
                path=None if isinstance(source, Image.Image) else str(source),
                width=picture.width,
                height=picture.height,
                predictions=tuple(Prediction(i, names[i], p) for i, p in zip(indices, probabilities, strict=True)),
            ))
    return results


def class_probabilities(
        images: Sequence[Source], model: nn.Module, batch_size: int = 16, progress: Progress = silent) -> np.ndarray:
    """Softmax over all classes, (N, classes) float32, with the preprocessing that the model's configuration names.

    The model is run in evaluation mode and left as it was.

    Raises:
        ImageError: for a file that is not a usable picture.
    """
    rows: List[np.ndarray] = []
    for _, pictures, values in _probabilities(images, model, batch_size):
        rows.append(values.cpu().numpy())
        progress('classifying pictures', (len(rows) - 1) * batch_size + len(pictures), len(images))
    return np.concatenate(rows)


def _probabilities(
        images: Sequence[Source], model: nn.Module, batch_size: int,
) -> Iterator[Tuple[Sequence[Source], List[Image.Image], torch.Tensor]]:
    config = resolve_data_config(model=model)
    transform = create_transform(**config)
    mode = {1: 'L', 3: 'RGB'}.get(config['input_size'][0])  # as timm's data sets read pictures
    if mode is None:
        raise UserError(f'this model takes {config["input_size"][0]} channels, and pictures have 3, or 1 if grey.')
    device = next(model.parameters()).device
    for start in range(0, len(images), batch_size):
        chunk = images[start:start + batch_size]
        pictures = [image if isinstance(image, Image.Image) else read_image(Path(image)) for image in chunk]
        batch = torch.stack([transform(picture.convert(mode)) for picture in pictures]).to(device)
        with in_evaluation_mode(model), torch.inference_mode():
            probabilities = model(batch).float().softmax(1)
        yield chunk, pictures, probabilities


def class_names(model: nn.Module) -> Tuple[str, ...]:
    """Names that the model's configuration carries, else ImageNet's if they fit, else numbers."""
    num_classes = getattr(model, 'num_classes', 0)
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    labels = cfg.get('label_names')
    if labels is not None and len(labels) == num_classes:
        descriptions = cfg.get('label_descriptions') or {}
        return tuple(str(descriptions.get(label, label)) for label in labels)
    subset = infer_imagenet_subset(model)
    if subset is not None:
        info = ImageNetInfo(subset)
        return tuple(info.index_to_description(i) for i in range(num_classes))
    return tuple(f'class {i}' for i in range(num_classes))

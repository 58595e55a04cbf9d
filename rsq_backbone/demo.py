"""The backbone's main job on photographs that scikit-image ships: classes, feature pyramid, segmentation models."""
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from rsq_backbone.classification import classify
from rsq_backbone.errors import UserError
from rsq_backbone.model_loading import load_model
from rsq_backbone.predictions import Classification

__all__ = ['PHOTOGRAPHS', 'DemoResult', 'demonstrate', 'draw_pyramid']

# Functions of skimage.data; all three are photographs and CC0.
PHOTOGRAPHS = ('coffee', 'cat', 'astronaut')
_LONGEST_SIDE = 512
_SEGMENTATION_CLASSES = 9


@dataclass(frozen=True)
class DemoResult:
    photograph: Path
    classification: Classification
    pyramid: Path  # picture of the photograph beside one map per level
    segmentation_input: Tuple[int, ...]  # N, C, H, W
    segmentation_outputs: Dict[str, Tuple[int, ...]]  # N, classes, H, W by architecture


@torch.inference_mode()
def demonstrate(folder: Path) -> Iterator[DemoResult]:
    """Work through the photographs one by one, writing pictures to `folder`.

    Raises:
        UserError: if scikit-image or matplotlib is not installed, or the folder cannot be written.
    """
    try:
        import skimage.data
    except ImportError:
        raise UserError('the demo needs scikit-image and matplotlib: pip install "rsq-backbone[demo]"') from None
    import segmentation_models_pytorch as smp

    classifier = load_model('res_squeezenet', pretrained=True)
    encoder = load_model('res_squeezenet', pretrained=True, features_only=True)
    segmenters = {
        name: architecture('tu-res_squeezenet', encoder_weights=True, classes=_SEGMENTATION_CLASSES).eval()
        for name, architecture in (('U-Net', smp.Unet), ('DeepLabV3+', smp.DeepLabV3Plus))
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in PHOTOGRAPHS:
            photograph = Image.fromarray(getattr(skimage.data, name)())
            path = folder / f'{name}.png'
            photograph.save(path)
            scaled = _scale(photograph)
            batch = _normalise(scaled)
            pyramid = folder / f'{name}-pyramid.png'
            draw_pyramid(scaled, encoder(batch), pyramid)
            yield DemoResult(
                photograph=path,
                classification=classify([path], classifier)[0],
                pyramid=pyramid,
                segmentation_input=tuple(batch.shape),
                segmentation_outputs={name: tuple(model(batch).shape) for name, model in segmenters.items()},
            )
    except OSError as e:
        raise UserError(f'{folder} cannot be written ({e}); choose another folder with --output.') from e


def _scale(photograph: Image.Image) -> Image.Image:
    """To multiples of 32 on both sides, the longer one being 512, so that every level fits exactly."""
    scale = _LONGEST_SIDE / max(photograph.size)
    width, height = (max(32, round(side * scale / 32) * 32) for side in photograph.size)
    return photograph.resize((width, height), Image.Resampling.BICUBIC)


def _normalise(photograph: Image.Image) -> torch.Tensor:
    pixels = np.asarray(photograph, dtype=np.float32) / 255
    mean, std = (np.array(values, dtype=np.float32) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None].contiguous()


def draw_pyramid(image: Image.Image, features: List[torch.Tensor], path: Path) -> None:
    """Write a picture of an image beside one map per level.

    A map shows the three directions in which a level's feature vectors differ most (principal components) as red, green
    and blue: places of similar colour have similar features.

    Args:
        image: The input.
        features: Levels of the pyramid, (1, C, H, W) each.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    width, height = image.size
    panel = 3.1  # inches wide; a title takes 0.45
    figure = Figure(figsize=(3 * panel, 2 * (panel * height / width + 0.45)), layout='constrained', dpi=110)
    axes = figure.subplots(2, 3).flat
    axes[0].imshow(image)
    axes[0].set_title(f'input\n3 x {height} x {width}', fontsize=10)
    for axis, feature in zip(axes[1:], features, strict=True):
        axis.imshow(_principal_colours(feature[0]), extent=(0, width, height, 0), interpolation='nearest')
        channels, rows, columns = feature.shape[1:]
        axis.set_title(f'1/{round(width / columns)} of the input\n{channels} x {rows} x {columns}', fontsize=10)
    for axis in figure.axes:
        axis.set_axis_off()
    figure.savefig(path)


def _principal_colours(feature: torch.Tensor) -> np.ndarray:
    """Map (C, H, W) to RGB (H, W, 3) in 0 .. 1 by principal components, each stretched over its middle 96 %."""
    channels, rows, columns = feature.shape
    vectors = feature.reshape(channels, -1).T
    vectors = vectors - vectors.mean(0)
    _, directions = torch.linalg.eigh(vectors.T @ vectors)
    components = vectors @ directions[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary; this one makes the same picture on every machine.
    components = components * torch.where(components.abs().max(0).values == components.max(0).values, 1.0, -1.0)
    low, high = torch.quantile(components, torch.tensor([0.02, 0.98]), dim=0)
    colours = ((components - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return colours.reshape(rows, columns, 3).numpy()

"""Pictures of any size through a segmentation network: as a whole where they are small, else in overlapping tiles.

Tiles lie on a grid of the encoder's stride, so that each network position sees the same pixels as it would in the whole
picture. Only a strip of tiles is held at a time, so that memory grows with the picture's width and not with its area.
"""
from typing import Any, Callable, Dict, List

import numpy as np
import torch
import torch.nn.functional as F

from rsq_backbone.progress import Progress, silent
from rsq_backbone.training.pictures import to_input

__all__ = ['segment']


@torch.inference_mode()
def segment(
        model: Callable[[torch.Tensor], torch.Tensor], picture: np.ndarray, config: Dict[str, Any],
        tile: int = 1024, overlap: int = 256, stride: int = 32, progress: Progress = silent,
) -> np.ndarray:
    """The class of each pixel.

    Args:
        model: Pictures (N, 3, H, W) -> logits (N, classes, H, W), in evaluation mode.
        picture: RGB, (H, W, 3) uint8, of any size.
        config: `mean` and `std` of the input, three shares of white each.
        tile: Side of the tiles in pixels; what fits into one is not cut.
        overlap: Pixels that neighbouring tiles share. In the outer quarter of it a tile does not count, because the
            network sees no surroundings there; across the middle one tile fades into the other.
        stride: Of the encoder, 32 unless it dilates.
        progress: Told after each tile.

    Returns:
        (H, W) uint8, indices of classes.

    Raises:
        ValueError: if tile and overlap are no multiples of the stride, or the overlap is not less than half a tile.
    """
    if tile % stride or overlap % stride or not 0 < 2 * overlap < tile:
        raise ValueError(
            f'tile and overlap should be multiples of {stride}, and the overlap less than half a tile; got {tile} and '
            f'{overlap}.')
    height, width = picture.shape[:2]
    rows, columns = _starts(height, tile, overlap, stride), _starts(width, tile, overlap, stride)
    tall, wide = min(tile, _up(height, stride)), min(tile, _up(width, stride))
    across, down = _fades(columns, wide, overlap), _fades(rows, tall, overlap)
    mask = np.empty((height, width), np.uint8)
    strip = torch.zeros(0)  # weighted sums of logits of the rows from `top` on, (classes, tall, width)
    weights = torch.zeros(tall, columns[-1] + wide)
    done = 0
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            logits = model(_input(picture, top, left, tall, wide, config))[0].float()
            if not strip.numel():
                strip = torch.zeros(len(logits), *weights.shape)
            weight = down[i][:, None] * across[j]
            strip[:, :, left:left + wide] += logits * weight
            weights[:, left:left + wide] += weight
            done += 1
            progress('segmenting, tiles', done, len(rows) * len(columns))
        # The next strip adds nothing to the rows above it.
        final = (rows[i + 1] if i + 1 < len(rows) else top + tall) - top
        classes = (strip[:, :final] / weights[:final]).argmax(0).to(torch.uint8).numpy()
        bottom = min(top + final, height)
        mask[top:bottom] = classes[:bottom - top, :width]
        for kept in (strip, weights):
            kept[..., :tall - final, :] = kept[..., final:, :].clone()
            kept[..., tall - final:, :] = 0
    return mask


def _up(size: int, stride: int) -> int:
    return -(-size // stride) * stride


def _starts(size: int, tile: int, overlap: int, stride: int) -> List[int]:
    """Where the tiles begin along one side; the last ends with the padded picture."""
    last = _up(size, stride) - tile
    if last <= 0:
        return [0]
    return [*range(0, last, tile - overlap), last]


def _fades(starts: List[int], length: int, overlap: int) -> List[torch.Tensor]:
    """How much each place of each tile along one side counts: less towards a neighbour, all of it at the border."""
    middle = torch.arange(overlap) + 0.5 - overlap / 4
    rise = (middle / (overlap / 2)).clamp(0, 1)
    fades = []
    for i in range(len(starts)):
        fade = torch.ones(length)
        if i > 0:
            fade[:overlap] = rise
        if i < len(starts) - 1:
            fade[length - overlap:] = rise.flip(0)
        fades.append(fade)
    return fades


def _input(picture: np.ndarray, top: int, left: int, tall: int, wide: int, config: Dict[str, Any]) -> torch.Tensor:
    """One tile, normalised; beyond the picture's border its edge is repeated."""
    x = to_input(torch.from_numpy(picture[top:top + tall, left:left + wide].copy())[None], config)
    return F.pad(x, (0, wide - x.shape[3], 0, tall - x.shape[2]), mode='replicate')

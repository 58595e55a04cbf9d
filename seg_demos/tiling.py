"""Pictures of any size through a segmentation network: as a whole where they are small, else in overlapping tiles.

Tiles lie on a grid of the encoder's stride, so that each network position sees the same pixels as it would in the whole
picture. What a tile shares with its neighbours is kept until they come, so that memory grows with the picture's width
and not with its area.
"""
from itertools import pairwise
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from rsq_backbone.errors import UserError
from rsq_backbone.progress import Progress, silent
from rsq_backbone.training.pictures import to_input

__all__ = ['check_tiles', 'extend_to_stride', 'segment']


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
        tile: Side of the tiles in pixels, at most; what fits into one is not cut.
        overlap: Pixels that neighbouring tiles share. In the outer quarter of it a tile does not count, because the
            network sees no surroundings there; across the middle one tile fades into the other.
        stride: Of the encoder, 32 unless it dilates.
        progress: Told after each tile.

    Returns:
        (H, W) uint8, indices of classes.

    Raises:
        UserError: if tile and overlap are no multiples of the stride, or the overlap is not less than half a tile.
    """
    check_tiles(tile, overlap, stride)
    height, width = picture.shape[:2]
    (rows, tall), (columns, wide) = (_grid(size, tile, overlap, stride) for size in (height, width))
    down, across = _fades(rows, tall, overlap), _fades(columns, wide, overlap)
    # How many rows and columns of each tile the one below and the one to the right cover too.
    shared_rows, shared_columns = _shared(rows, tall), _shared(columns, wide)
    mask = np.empty((height, width), np.uint8)
    carried = torch.zeros(0)  # logits, weighted, of the rows that the next strip shares: (classes, rows, width)
    above = done = 0
    for i, top in enumerate(rows):
        below = shared_rows[i]
        beside = torch.zeros(0)  # the same of the columns that the next tile shares: (classes, tall, columns)
        for j, left in enumerate(columns):
            logits = model(_input(picture, top, left, tall, wide, config))[0].float()
            # Of such sums the largest is the mean's largest, so nothing need be divided by the weights.
            sums = logits * (down[i][:, None] * across[j])
            if j > 0:
                sums[..., :beside.shape[2]] += beside
            right = wide - shared_columns[j]
            beside = sums[..., right:].clone()
            sums = sums[..., :right]
            if not carried.numel():
                carried = torch.zeros(len(sums), max(shared_rows), columns[-1] + wide)
            sums[:, :above] += carried[:, :above, left:left + right]
            carried[:, :below, left:left + right] = sums[:, tall - below:]
            part = mask[top:top + tall - below, left:left + right]
            part[...] = sums[:, :part.shape[0], :part.shape[1]].argmax(0).numpy()
            done += 1
            progress('segmenting, tiles', done, len(rows) * len(columns))
        above = below
    return mask


def check_tiles(tile: int, overlap: int, stride: int = 32) -> None:
    """Raise the UserError that `segment` would."""
    if tile % stride or overlap % stride or not 0 < 2 * overlap < tile:
        raise UserError(
            f'tile and overlap should be multiples of {stride}, and the overlap less than half a tile; got {tile} and '
            f'{overlap}.')


def _up(size: int, stride: int) -> int:
    return -(-size // stride) * stride


def _grid(size: int, tile: int, overlap: int, stride: int) -> Tuple[List[int], int]:
    """Where the tiles begin along one side, and how long they are; the last ends with the padded picture.

    They are shorter than `tile` where as many shorter ones do: a little more than a tile is not twice the work.
    """
    padded = _up(size, stride)
    if padded <= tile:
        return [0], padded
    count = -(-(padded - overlap) // (tile - overlap))
    shortest = -(-(padded + (count - 1) * overlap) // count)
    length = max(_up(shortest, stride), 2 * overlap)
    return [*range(0, padded - length, length - overlap), padded - length], length


def _shared(starts: List[int], length: int) -> List[int]:
    """How much of each tile the next one covers too."""
    return [start + length - following for start, following in pairwise(starts)] + [0]


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
    """One tile, normalised."""
    part = torch.from_numpy(picture[top:top + tall, left:left + wide].copy())
    return _extend(to_input(part[None], config), tall, wide)


def extend_to_stride(x: torch.Tensor, stride: int = 32) -> torch.Tensor:
    """Pictures (N, C, H, W) made as large as an encoder of this stride needs them: their edges are repeated."""
    return _extend(x, _up(x.shape[2], stride), _up(x.shape[3], stride))


def _extend(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]), mode='replicate')

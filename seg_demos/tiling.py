"""Pictures of any size through a segmentation network in PyTorch."""
from typing import Any, Callable, Dict

import numpy as np
import torch
import torch.nn.functional as F

from rsq_backbone.deploy.loader import segment_in_tiles
from rsq_backbone.errors import UserError
from rsq_backbone.progress import Progress, silent

__all__ = ['check_tiles', 'extend_to_stride', 'segment']


@torch.inference_mode()
def segment(
        model: Callable[[torch.Tensor], torch.Tensor], picture: np.ndarray, config: Dict[str, Any],
        tile: int = 1024, overlap: int = 256, stride: int = 32, progress: Progress = silent,
) -> np.ndarray:
    """The class of each pixel, as `rsq_backbone.deploy.loader.segment_in_tiles` finds it.

    Args:
        model: Pictures (N, 3, H, W) -> logits (N, classes, H, W), in evaluation mode.
        picture: RGB, (H, W, 3) uint8, of any size.
        config: `mean` and `std` of the input, three shares of white each.
        tile: Side of the tiles in pixels, at most; what fits into one is not cut.
        overlap: Pixels that neighbouring tiles share.
        stride: Of the encoder, 32 unless it dilates.
        progress: Told after each tile.

    Returns:
        (H, W) uint8, indices of classes.

    Raises:
        UserError: if tile and overlap are no multiples of the stride, or the overlap is not less than half a tile.
    """
    check_tiles(tile, overlap, stride)
    mean, std = (np.array(config[key], np.float32) for key in ('mean', 'std'))

    def run(x: np.ndarray) -> np.ndarray:
        return np.asarray(model(torch.from_numpy(x)).float().numpy())

    return segment_in_tiles(
        run, picture, mean, std, tile, overlap, stride,
        lambda done, total: progress('segmenting, tiles', done, total))


def check_tiles(tile: int, overlap: int, stride: int = 32) -> None:
    """Raise the UserError that `segment` would."""
    if tile % stride or overlap % stride or not 0 < 2 * overlap < tile:
        raise UserError(
            f'tile and overlap should be multiples of {stride}, and the overlap less than half a tile; got {tile} and '
            f'{overlap}.')


def extend_to_stride(x: torch.Tensor, stride: int = 32) -> torch.Tensor:
    """Pictures (N, C, H, W) made as large as an encoder of this stride needs them: their edges are repeated."""
    return F.pad(x, (0, -x.shape[3] % stride, 0, -x.shape[2] % stride), mode='replicate')

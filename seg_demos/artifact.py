"""A segmentation network that `rsq deploy` made smaller and faster, in the place of a run's."""
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn

from rsq_backbone.deploy.artifact import open_artifact
from rsq_backbone.deploy.loader import Artifact, ArtifactError
from rsq_backbone.errors import UserError
from seg_demos.trained import Trained

__all__ = ['load']


def load(folder: Path, allow_code: bool) -> Trained:
    """The network of an artifact.

    Args:
        folder: Of `rsq deploy`.
        allow_code: See `rsq_backbone.deploy.loader.load`.

    Raises:
        UserError: where `open_artifact` does.
    """
    artifact = open_artifact(folder, 'segmentation', allow_code)
    preprocessing, stride = artifact.config['preprocessing'], artifact.config['size_multiple']
    config = {key: tuple(preprocessing[key]) for key in ('mean', 'std')}
    return Trained(_Network(artifact), artifact.classes, config, stride)


class _Network(nn.Module):
    """(N, 3, H, W) -> (N, classes, H, W), run by the artifact's runtime."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self._artifact = artifact

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            return torch.from_numpy(self._artifact.run(np.ascontiguousarray(x.numpy())))
        except ArtifactError as e:
            raise UserError(str(e)) from e

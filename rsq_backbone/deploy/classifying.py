"""Pictures through the artifact of a classifier, with results as PyTorch's classifiers give them."""
from pathlib import Path
from typing import FrozenSet, List, Sequence

import numpy as np

from rsq_backbone.deploy.loader import Artifact
from rsq_backbone.images import read_image
from rsq_backbone.predictions import Classification, Prediction
from rsq_backbone.progress import Progress, silent

__all__ = ['artifact_probabilities', 'classify_by', 'trained_on']


def trained_on(artifact: Artifact) -> FrozenSet[str]:
    """SHA-256 of the pictures that the network learned from, as far as the artifact tells."""
    found = artifact.config.get('trained_on')
    return frozenset(one for one in found if isinstance(one, str)) if isinstance(found, list) else frozenset()


def classify_by(artifact: Artifact, photo: Path, topk: int) -> Classification:
    """One picture's most probable classes, the best first.

    Raises:
        ImageError: for a file that is not a usable picture.
    """
    picture = read_image(photo)
    probabilities = artifact.classify(np.asarray(picture))
    best = np.argsort(-probabilities, kind='stable')[:topk].tolist()
    return Classification(
        str(photo), picture.width, picture.height,
        tuple(Prediction(i, artifact.classes[i], float(probabilities[i])) for i in best))


def artifact_probabilities(artifact: Artifact, photos: Sequence[Path], progress: Progress = silent) -> np.ndarray:
    """(N, classes) float32.

    Raises:
        ImageError: for a file that is not a usable picture.
    """
    rows: List[np.ndarray] = []
    for done, photo in enumerate(photos):
        progress('classifying pictures', done, len(photos))
        rows.append(artifact.classify(np.asarray(read_image(photo))))
    progress('classifying pictures', len(photos), len(photos))
    return np.stack(rows)

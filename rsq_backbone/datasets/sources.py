"""The pictures that a user names by one word or a path."""
from pathlib import Path

from rsq_backbone.datasets.labelled_images import Collection
from rsq_backbone.progress import Progress, silent

__all__ = ['load_source']


def load_source(source: str, progress: Progress = silent) -> Collection:
    """`food` (the paper's, downloaded), `synthetic` (drawn), or the path of a folder or CSV file of the user's own.

    A folder that is itself called food or synthetic is reached as ./food.
    """
    if source == 'food':
        from rsq_backbone.datasets.food import load_food

        return load_food(progress)
    if source == 'synthetic':
        from rsq_backbone.datasets.synthetic import load_synthetic

        return load_synthetic(progress=progress)
    from rsq_backbone.datasets.folders import load_collection

    return load_collection(Path(source))

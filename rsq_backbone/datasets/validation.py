"""Pictures with classes that a trained classifier may be judged by."""
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Tuple

from rsq_backbone.datasets.checks import check
from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.sources import load_source
from rsq_backbone.errors import UserError
from rsq_backbone.progress import Progress, silent

__all__ = ['ValidationSet', 'load_validation_set']


@dataclass(frozen=True)
class ValidationSet:
    images: LabelledImages
    left_out: Tuple[str, ...]  # one line a picture that cannot be used, and why
    notes: Tuple[str, ...]


def load_validation_set(
        source: str, names: Tuple[str, ...], learned: FrozenSet[str], model: str, progress: Progress = silent,
) -> ValidationSet:
    """The pictures of a source that a model may be judged by.

    Args:
        source: 'food', 'synthetic', or the path of a folder or CSV file; of a source with a split, its validation part.
        names: The model's classes, in the order of its outputs.
        learned: SHA-256 of the pictures that it learned from.
        model: What errors call it.
        progress: Told how far the work is.

    Raises:
        UserError: if there are none, or classes that the model does not know.
    """
    checked = check(load_source(source, progress), progress)
    collection = checked.collection
    images = _in_order_of(names, collection.train if collection.val is None else collection.val)
    notes: List[str] = [*collection.notes, *checked.notes]
    kept = [i for i, path in enumerate(images.paths) if checked.content[path] not in learned]
    if len(kept) < len(images):
        notes.append(f'{len(images) - len(kept)} of {len(images)} pictures were trained on and are left out.')
    if not kept:
        raise UserError(f'{model} was trained on every picture of {source}; name others.')
    return ValidationSet(images.subset(kept), checked.left_out, tuple(notes))


def _in_order_of(names: Tuple[str, ...], images: LabelledImages) -> LabelledImages:
    """The same pictures, their labels counted as the model counts its classes."""
    place: Dict[str, int] = {name: i for i, name in enumerate(names)}
    unknown = [name for name in images.classes if name not in place]
    if unknown:
        raise UserError(
            f'the model knows no class {", ".join(unknown[:5])}; its classes are {", ".join(names[:10])}'
            f'{" ..." if len(names) > 10 else ""}. Rename or remove those folders.')
    return LabelledImages(images.paths, tuple(place[images.classes[label]] for label in images.labels), names)

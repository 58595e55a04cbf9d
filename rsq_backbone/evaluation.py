"""How good a classifier is on pictures whose classes are known."""
import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, List, Sequence, Tuple, Union

import numpy as np

from rsq_backbone.classification import class_names, class_probabilities
from rsq_backbone.datasets.checks import check
from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.sources import load_source
from rsq_backbone.errors import UserError
from rsq_backbone.files import write_text
from rsq_backbone.metrics import ClassificationMetrics, classification_metrics, confusion_matrix
from rsq_backbone.model_loading import load_model
from rsq_backbone.progress import Progress, silent
from rsq_backbone.results import PicturePrediction
from rsq_backbone.training.run_folder import RunFolder

__all__ = ['Evaluation', 'ValidationSet', 'evaluate', 'judge', 'load_validation_set', 'mistakes', 'save_evaluation']


@dataclass(frozen=True)
class Evaluation:
    metrics: ClassificationMetrics
    predictions: Tuple[PicturePrediction, ...]  # in the order of the source
    left_out: Tuple[str, ...]  # one line a picture that could not be used, and why
    notes: Tuple[str, ...]
    seconds: float  # of reading and classifying the pictures


@dataclass(frozen=True)
class ValidationSet:
    images: LabelledImages
    left_out: Tuple[str, ...]  # one line a picture that cannot be used, and why
    notes: Tuple[str, ...]


def judge(
        probabilities: np.ndarray, images: LabelledImages,
) -> Tuple[ClassificationMetrics, Tuple[PicturePrediction, ...]]:
    """Compare class probabilities (N, classes) with the classes of N pictures."""
    predicted = probabilities.argmax(1)
    metrics = classification_metrics(confusion_matrix(images.labels, predicted, len(images.classes)), images.classes)
    return metrics, tuple(
        PicturePrediction(
            path=str(path),
            true_class=images.classes[label],
            predicted_class=images.classes[guess],
            probability=float(row[guess]),
            true_probability=float(row[label]))
        for path, label, guess, row in zip(images.paths, images.labels, predicted.tolist(), probabilities, strict=True))


def evaluate(
        run: Union[str, Path], source: str, *, include_training: bool = False, progress: Progress = silent,
) -> Evaluation:
    """Evaluate a run folder's model on pictures with classes.

    Pictures that the model learned from are recognised by their content and left out, since they would flatter it.

    Args:
        run: Run folder.
        source: 'food', 'synthetic', or the path of a folder or CSV file; of a source with a split, its validation part.
        include_training: Keep the pictures that the model learned from.
        progress: Told how far the work is.

    Raises:
        UserError: if the run or the source cannot be used, or their classes do not fit.
    """
    folder = RunFolder(Path(run))
    model = load_model(folder.timm_name(), pretrained=True)
    learned = frozenset() if include_training else folder.training_content()
    validation = load_validation_set(source, class_names(model), learned, str(run), progress)
    start = time.perf_counter()
    probabilities = class_probabilities(validation.images.paths, model, progress=progress)
    seconds = time.perf_counter() - start
    metrics, predictions = judge(probabilities, validation.images)
    return Evaluation(metrics, predictions, validation.left_out, validation.notes, seconds)


def load_validation_set(
        source: str, names: Tuple[str, ...], learned: FrozenSet[str], model: str, progress: Progress = silent,
) -> ValidationSet:
    """The pictures of a source that a model may be judged by.

    Args:
        source: As `evaluate` takes it.
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


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write evaluation.json, confusion.png and mistakes.png.

    Raises:
        UserError: if the folder cannot be written.
    """
    from rsq_backbone.reports.plots import draw_confusion, draw_mistakes

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / 'evaluation.json', json.dumps(dataclasses.asdict(evaluation), indent=2) + '\n')
        draw_confusion(evaluation.metrics, folder / 'confusion.png')
        draw_mistakes(mistakes(evaluation.predictions), folder / 'mistakes.png')
    except OSError as e:
        raise UserError(f'{folder} cannot be written ({e.strerror}); choose another --output.') from e


def mistakes(predictions: Sequence[PicturePrediction]) -> List[PicturePrediction]:
    """The wrong ones."""
    return [p for p in predictions if p.predicted_class != p.true_class]


def _in_order_of(names: Tuple[str, ...], images: LabelledImages) -> LabelledImages:
    """The same pictures, their labels counted as the model counts its classes."""
    place: Dict[str, int] = {name: i for i, name in enumerate(names)}
    unknown = [name for name in images.classes if name not in place]
    if unknown:
        raise UserError(
            f'the model knows no class {", ".join(unknown[:5])}; its classes are {", ".join(names[:10])}'
            f'{" ..." if len(names) > 10 else ""}. Rename or remove those folders.')
    return LabelledImages(images.paths, tuple(place[images.classes[label]] for label in images.labels), names)

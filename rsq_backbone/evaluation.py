"""How good a classifier is on pictures whose classes are known."""
import dataclasses
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, List, Sequence, Tuple, Union

import numpy as np

from rsq_backbone.classification import class_names, class_probabilities
from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.validation import load_validation_set
from rsq_backbone.deploy.artifact import is_artifact, open_artifact
from rsq_backbone.deploy.classifying import artifact_probabilities, trained_on
from rsq_backbone.errors import UserError
from rsq_backbone.files import write_text
from rsq_backbone.metrics import ClassificationMetrics, classification_metrics, confusion_matrix
from rsq_backbone.model_loading import load_model
from rsq_backbone.progress import Progress, silent
from rsq_backbone.results import PicturePrediction
from rsq_backbone.training.run_folder import RunFolder

__all__ = ['Evaluation', 'evaluate', 'judge', 'mistakes', 'save_evaluation']


@dataclass(frozen=True)
class Evaluation:
    metrics: ClassificationMetrics
    predictions: Tuple[PicturePrediction, ...]  # in the order of the source
    left_out: Tuple[str, ...]  # one line a picture that could not be used, and why
    notes: Tuple[str, ...]
    seconds: float  # of reading and classifying the pictures


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
        run: Union[str, Path], source: str, *, include_training: bool = False, allow_code: bool = False,
        progress: Progress = silent,
) -> Evaluation:
    """Evaluate a run's or an artifact's classifier on pictures with classes.

    Pictures that the model learned from are recognised by their content and left out, since they would flatter it.

    Args:
        run: Folder of the run or of the artifact.
        source: 'food', 'synthetic', or the path of a folder or CSV file; of a source with a split, its validation part.
        include_training: Keep the pictures that the model learned from.
        allow_code: Also open an artifact of the target torch-export, whose file can run any code of its maker.
        progress: Told how far the work is.

    Raises:
        UserError: if the folder or the source cannot be used, or their classes do not fit.
    """
    probabilities_of: Callable[[Sequence[Path]], np.ndarray]
    if is_artifact(Path(run)):
        artifact = open_artifact(Path(run), 'classification', allow_code)
        names, learned = artifact.classes, trained_on(artifact)
        probabilities_of = partial(artifact_probabilities, artifact, progress=progress)
    else:
        folder = RunFolder(Path(run))
        model = load_model(folder.timm_name(), pretrained=True)
        names, learned = class_names(model), folder.training_content()
        probabilities_of = partial(class_probabilities, model=model, progress=progress)
    validation = load_validation_set(source, names, frozenset() if include_training else learned, str(run), progress)
    start = time.perf_counter()
    probabilities = probabilities_of(validation.images.paths)
    seconds = time.perf_counter() - start
    metrics, predictions = judge(probabilities, validation.images)
    return Evaluation(metrics, predictions, validation.left_out, validation.notes, seconds)


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

"""Pictures one by one, so that a bad one does not stop the others."""
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Sequence, Tuple

from rsq_backbone.cli._output import print_classification, print_json
from rsq_backbone.cli._progress import progress
from rsq_backbone.errors import UserError

if TYPE_CHECKING:
    from rsq_backbone.predictions import Classification


def classify_each(
        photos: Sequence[Path], classify: Callable[[Path], 'Classification'],
) -> Tuple[List['Classification'], List[UserError]]:
    """What could be classified, and what is wrong with the others."""
    results: List[Classification] = []
    bad: List[UserError] = []
    for photo in progress(photos, 'classifying', total=len(photos)):
        try:
            results.append(classify(photo))
        except UserError as e:
            bad.append(e)
    return results, bad


def print_classifications(results: List['Classification'], json: bool) -> None:
    if json:
        print_json(results)
    else:
        for result in results:
            print_classification(result)

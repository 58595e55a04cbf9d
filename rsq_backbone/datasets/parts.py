"""Names by which the parts of a split go."""
import re
from typing import Iterable, List, Sequence

__all__ = ['TRAINING', 'VALIDATION', 'names_of_part']

TRAINING = ('train', 'training')
VALIDATION = ('val', 'valid', 'validation', 'dev', 'test', 'testing')  # the first that is there


def names_of_part(names: Iterable[str], words: Sequence[str]) -> List[str]:
    """Those names that hold one of the words, such as `training_set` or `seg-train`, in the order of the words.

    A name that is the word itself comes before others that hold it.
    """
    ranked = []
    for name in names:
        held = re.split('[^a-z]+', name.lower())
        ranked += [(rank, len(held), name) for rank, word in enumerate(words) if word in held][:1]
    return [name for *_, name in sorted(ranked)]

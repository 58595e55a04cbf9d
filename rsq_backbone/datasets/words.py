"""Sources that are named by a word and not by a path."""
import os

__all__ = ['WORDS', 'located', 'same_source']

# What rsq finetune and the segmentation demos know by name. A folder called like that is reached as ./food.
WORDS = ('food', 'synthetic', 'synthetic-food', 'oxford-pet')


def located(source: str) -> str:
    """The source as it can be found from any working directory: a word as it is, a path made absolute."""
    return source if source in WORDS else os.path.abspath(source)


def same_source(one: str, other: str) -> bool:
    """Whether both lead to the same place, however it is spelled."""
    if one in WORDS or other in WORDS:
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)

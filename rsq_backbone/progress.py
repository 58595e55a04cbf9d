"""How long work tells how far it is, without knowing who shows it."""
from typing import Callable, Optional

__all__ = ['Progress', 'silent']

# What is being done (a few words, the unit included), how much of it is done, and how much there is if that is known.
# Called with done == total at the end of each piece of work.
Progress = Callable[[str, int, Optional[int]], None]


def silent(what: str, done: int, total: Optional[int]) -> None:
    pass

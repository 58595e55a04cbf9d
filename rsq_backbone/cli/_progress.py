"""How the commands show that they are at work: bars in a terminal, a line a step in a log."""
import sys
import threading
import time
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Iterator, Optional, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from rsq_backbone.printable import printable
from rsq_backbone.progress import Progress

__all__ = ['loading', 'progress', 'progress_bars']

T = TypeVar('T')

_SHORT = 2.0  # seconds that nobody minds waiting without a word
_PAUSE = 15.0  # seconds between two lines about the same step

_stderr = Console(stderr=True)


def loading(what: str) -> AbstractContextManager[Any]:
    """For work of unknown length such as importing torch: a spinner with the time elapsed, or a line in a log."""
    if not _stderr.is_terminal:
        return _log_line(what)
    columns = SpinnerColumn(), TextColumn('{task.description}', markup=False), TimeElapsedColumn()
    bar = Bars(*columns, console=_stderr, transient=True)
    bar.add_task(what, total=None)
    return bar


@contextmanager
def _log_line(what: str) -> Iterator[None]:
    with _log_lines() as progress:
        progress(what, 0, None)
        yield


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, with a bar or lines for those that are done."""
    with progress_bars(transient=True) as update:
        for done, item in enumerate(items):
            if total > 1:
                update(what, done, total)
            yield item


@contextmanager
def progress_bars(transient: bool = False) -> Iterator[Progress]:
    """A bar with the time remaining for each piece of work as it comes; lines where standard error is no terminal."""
    if not _stderr.is_terminal:
        with _log_lines() as log:
            yield log
        return
    columns = TextColumn('{task.description}', markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bars(*columns, console=_stderr, transient=transient) as bars:
        tasks: Dict[str, TaskID] = {}
        reached: Dict[str, int] = {}

        def progress(what: str, done: int, total: Optional[int]) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            elif done < reached[what]:  # the same again, such as the tiles of the next image
                bars.reset(tasks[what], total=total)
            reached[what] = done
            bars.update(tasks[what], completed=done, total=total)

        yield progress


@dataclass
class _Step:
    what: str
    done: int
    total: Optional[int]
    began: float = field(default_factory=time.monotonic)
    told: Optional[float] = None  # when its last line was printed

    def line(self) -> str:
        seconds = time.monotonic() - self.began
        if not self.total:
            return f'{self.what} ... {_clock(seconds)}'
        line = f'{self.what} {self.done}/{self.total}, {_clock(seconds)}'
        if 0 < self.done < self.total:
            line += f', about {_clock(seconds * (self.total - self.done) / self.done)} left'
        return line


def _clock(seconds: float) -> str:
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'


@contextmanager
def _log_lines() -> Iterator[Progress]:
    """A line for each step that takes more than `_SHORT` seconds, one now and then while it goes on, one at its end.

    A thread prints them, so that a step that never reports still shows that something is going on.
    """
    lock, ended = threading.Lock(), threading.Event()
    step: Optional[_Step] = None

    def tell(current: _Step) -> None:
        current.told = time.monotonic()
        with suppress(OSError):  # nobody reads them any more
            print(printable(current.line()), file=sys.stderr, flush=True)

    def update(what: str, done: int, total: Optional[int]) -> None:
        nonlocal step
        with lock:
            if step is None or step.what != what or done < step.done:
                step = _Step(what, done, total)
            step.done, step.total = done, total
            if done == total:
                if step.told is not None or time.monotonic() - step.began > _SHORT:
                    tell(step)
                step = None

    def watch() -> None:
        while not ended.wait(0.25):
            with lock:
                if step is not None:
                    last, pause = (step.began, _SHORT) if step.told is None else (step.told, _PAUSE)
                    if time.monotonic() - last > pause:
                        tell(step)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield update
    finally:
        ended.set()
        watcher.join()

"""The benchmarks' command lines: markdown tables to standard output, progress to standard error, files to folders that
exist."""
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


def markdown_table(rows: List[List[str]]) -> str:
    """The first row is the head; columns are padded so that the source reads as a table too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['| ' + ' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + ' |' for row in rows]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    return '\n'.join(lines)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str, int], None]]:
    """Drawn between two measurements only, not by a thread of its own that would run during them."""
    columns = TextColumn('{task.description}'), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task('start', total=total)

        def advance(what: str, steps: int) -> None:
            progress.update(task, advance=steps, description=what)
            progress.refresh()

        yield advance


def in_existing_folder(file: Optional[Path]) -> Optional[Path]:
    """Refuse a result file that could not be written once everything has been measured."""
    if file is not None and not file.absolute().parent.is_dir():
        raise typer.BadParameter(f'{file}: its folder does not exist.')
    return file


def run(main: Callable[..., Any]) -> None:
    """`main` as a command line of its own."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(main)
    app()

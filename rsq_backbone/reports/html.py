"""A run on one page, for people."""
import base64
import shlex
from pathlib import Path
from typing import Any, Optional, Sequence

from rsq_backbone.files import write_text
from rsq_backbone.results import TrainingResult, compared_with_linear, nothing_learned

__all__ = ['data_uri', 'render', 'write_page', 'write_report']

PICTURES = ('augmentations', 'confusion', 'curves', 'mistakes')


def write_report(result: TrainingResult, folder: Path) -> None:
    """Write folder/report.html, which needs no other file and no network.

    It shows those of augmentations.png, confusion.png, curves.png and mistakes.png that lie in the folder.
    """
    write_page(
        folder, Path(__file__).with_name('report.html.jinja'), PICTURES, result,
        verdict=nothing_learned(result) or compared_with_linear(result),
        # The drawn intervals' scale begins at a whole tenth.
        scale_start=min(m.accuracy_interval.low for m in (result.metrics, result.linear)) // 0.1 / 10,
        python_name=repr(f'local-dir:{folder.resolve()}'),
    )


def write_page(folder: Path, template: Path, pictures: Sequence[str], result: Any, **values: Any) -> None:
    """Write folder/report.html.

    Args:
        folder: Of the run, with its pictures.
        template: Jinja file; it may extend page.html.jinja and import from macros.html.jinja.
        pictures: Names of PNG files without suffix; those that are missing come as None.
        result: With a `command`; the template sees it as `result`.
        values: What else the template asks for.
    """
    page = render(
        template, result, pictures={name: data_uri(folder / f'{name}.png') for name in pictures},
        shell_name=shlex.quote(str(folder.resolve())), **values)
    write_text(folder / 'report.html', page)


def render(template: Path, result: Any, **values: Any) -> str:
    """A page as text that can be written as UTF-8.

    Args:
        template: Jinja file; it may extend page.html.jinja and import from macros.html.jinja.
        result: With a `command`; the template sees it as `result`.
        values: What else the template asks for.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, share=_share, plain=_plain, thousands='{:,}'.format)
    page = environment.get_template(template.name).render(result=result, command=shlex.join(result.command), **values)
    return page.encode('utf-8', 'backslashreplace').decode('utf-8')  # file names need not be valid text


def data_uri(path: Path) -> Optional[str]:
    """A PNG file as an address; None where there is none."""
    if not path.is_file():
        return None
    return 'data:image/png;base64,' + base64.b64encode(path.read_bytes()).decode('ascii')


def _percent(value: Optional[float]) -> str:
    return 'undefined' if value is None else f'{100 * value:.1f} %'


def _share(value: Optional[float]) -> str:
    return 'undefined' if value is None else f'{value:.3f}'


def _plain(value: Any) -> str:
    """A setting, as one would write it down."""
    if value is None or isinstance(value, bool):
        return {None: '-', True: 'yes', False: 'no'}[value]
    if isinstance(value, (list, tuple)):
        return ', '.join(map(_plain, value)) or 'none'
    return f'{value:g}' if isinstance(value, float) else str(value)

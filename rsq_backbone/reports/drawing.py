"""What every drawn PNG file has in common: its style, its colours, and how names and numbers stand on it."""
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Literal, Optional, Tuple

from rsq_backbone.files import whole_file
from rsq_backbone.metrics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    'BLACK', 'BLUE', 'DARK', 'GREEN', 'GREY', 'LIGHT', 'ORANGE', 'PURPLE', 'Theme', 'compact', 'draw_message',
    'drawing', 'percent', 'percent_within', 'short',
]

# After Okabe and Ito, whose colours stay apart for the colour-blind; accuracy is blue and loss orange as in MATLAB.
BLUE, ORANGE, GREEN, PURPLE = '#0072b2', '#d55e00', '#00795a', '#aa4a8a'
BLACK, GREY = '#222222', '#707070'

DOTS_PER_INCH = 120


@dataclass(frozen=True)
class Theme:
    """Colours of a page that a figure stands on."""

    page: str
    text: str
    quiet: str
    line: str  # of grids
    colours: Tuple[str, ...]  # of what is shown, to be told apart


LIGHT = Theme(
    'white', 'black', GREY, '#dddddd',
    (BLUE, ORANGE, GREEN, PURPLE, '#9a6a00', '#4b5563', '#b3122d', '#5b4fc4'))
DARK = Theme(
    '#16181c', '#e6e8eb', '#a0a7b2', '#383d45',
    ('#56b4e9', '#ff9a5c', '#35c79b', '#e38fc6', '#f0c65a', '#9aa5b1', '#ff7b86', '#a99cff'))

# matplotlib's own font has no Chinese, Japanese, Korean or Indian letters; these do, on the systems that have them.
FALLBACK_FONTS = (
    'Noto Sans CJK SC', 'Noto Sans CJK JP', 'Noto Sans SC', 'Microsoft YaHei', 'Malgun Gothic', 'Yu Gothic',
    'PingFang SC', 'Hiragino Sans', 'Apple SD Gothic Neo', 'WenQuanYi Micro Hei', 'Nirmala UI', 'Noto Sans Devanagari')


@contextmanager
def drawing(
        path: Path, width: float, height: float, layout: Optional[Literal['constrained']] = 'constrained',
        theme: Theme = LIGHT, dots_per_inch: int = DOTS_PER_INCH,
) -> Iterator['Figure']:
    """A figure of that many inches, written to `path` at the end of the block.

    Args:
        path: PNG file to write.
        width: In inches.
        height: In inches.
        layout: matplotlib's; None where the block itself says where everything stands.
        theme: Of the page that it stands on.
        dots_per_inch: More than the default for screens of phones, which show a narrow figure sharply.
    """
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    installed = set(font_manager.get_font_names())
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a style that the user has set was not made for these
        matplotlib.rcParams.update({
            'font.family': ['DejaVu Sans', *(font for font in FALLBACK_FONTS if font in installed)],
            'text.parse_math': False,  # names may hold dollar signs
            'axes.spines.top': False,
            'axes.spines.right': False,
            **dict.fromkeys(
                ('figure.facecolor', 'axes.facecolor', 'savefig.facecolor', 'legend.facecolor'), theme.page),
            **dict.fromkeys(
                ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color'), theme.text),
        })
        warnings.filterwarnings('ignore', message='Glyph .* missing')  # drawn as boxes
        figure = Figure(figsize=(width, height), dpi=dots_per_inch, layout=layout)
        yield figure
        with whole_file(path) as temporary:
            figure.savefig(temporary)


def draw_message(message: str, reason: str, path: Path) -> None:
    """Instead of a picture for which there is nothing to draw."""
    with drawing(path, 7, 2) as figure:
        figure.text(0.5, 0.55, message, ha='center', fontsize=18, color=GREEN)
        figure.text(0.5, 0.3, reason, ha='center', fontsize=11)


def short(name: str, limit: int) -> str:
    """On one line, without control characters, and with the middle left out where it is long."""
    name = ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in name)
    if len(name) <= limit:
        return name
    return f'{name[:(limit - 1) // 2]}…{name[len(name) - limit // 2:]}'


def percent(share: Optional[float]) -> str:
    return '-' if share is None else f'{100 * share:.1f} %'


def percent_within(share: float, interval: Interval) -> str:
    return f'{percent(share)} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]'


def compact(count: int) -> str:
    """Large counts with a letter: 1.2 M are 1.2 million, 3.4 G a thousand times as many."""
    if count < 100_000:
        return str(count)
    for letter, unit in (('G', 1e9), ('M', 1e6)):
        if count >= unit:
            return f'{count / unit:.1f} {letter}'
    return f'{count / 1e3:.0f} k'

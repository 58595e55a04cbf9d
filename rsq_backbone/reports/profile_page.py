"""A profile on one page, for people."""
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from rsq_backbone.errors import UserError
from rsq_backbone.files import write_text
from rsq_backbone.profiler.profile import Profile
from rsq_backbone.profiler.summary import (
    assumptions,
    case_label,
    common_settings,
    disturbances,
    failures,
    figure,
    first_works,
    machine_line,
    megabytes,
    remarks,
    size,
    varying,
    verdicts,
)
from rsq_backbone.profiler.tables import (
    calls_table,
    cases_table,
    checks_table,
    cold_table,
    cuda_table,
    estimates_table,
    growth_table,
    layers_table,
    load_table,
    machine_table,
    memory_table,
    ratios_table,
    stages_table,
    work_table,
)
from rsq_backbone.reports.drawing import DARK, LIGHT, Theme
from rsq_backbone.reports.html import data_uri, render
from rsq_backbone.reports.profile_plots import (
    draw_accuracy,
    draw_cold,
    draw_growth,
    draw_latency,
    draw_memory,
    draw_roofline,
    draw_stages,
)

__all__ = ['write_profile_page']


def write_profile_page(profile: Profile, path: Path, accuracies: Optional[Mapping[str, float]] = None) -> None:
    """Write an HTML file which needs no other file and no network.

    Args:
        profile: What was measured and estimated.
        path: HTML file to write.
        accuracies: Of models by name, as shares (0 .. 1); they are drawn over the models' latencies.

    Raises:
        UserError: if an accuracy is no share or its model is not in the profile.
    """
    accuracies = accuracies or {}
    models = list(dict.fromkeys(result.case.model for result in profile.cases))
    for model, accuracy in accuracies.items():
        if model not in models:
            raise UserError(f'there is an accuracy for {model!r}, which was not profiled; name one of {models}.')
        if not 0 <= accuracy <= 1:
            raise UserError(f'the accuracy of {model!r} should be a share from 0 to 1, got {accuracy}.')
    parts = varying(result.case for result in profile.cases)
    page = render(
        Path(__file__).with_name('profile.html.jinja'), profile,
        heading=', '.join(models[:3]) + (f' and {len(models) - 3} more' if len(models) > 3 else ''),
        machine=machine_line(profile),
        shared=common_settings(result.case for result in profile.cases),
        verdicts=verdicts(profile), failures=failures(profile), disturbances=disturbances(profile),
        watched=any(result.load is not None for result in profile.cases),
        remarks=remarks(profile),
        pictures=_pictures(profile, accuracies),
        cases=cases_table(profile), ratios=ratios_table(profile), checks=checks_table(profile),
        calls=calls_table(profile), memory=memory_table(profile),
        load=load_table(profile), cold=cold_table(profile), growth=growth_table(profile), cuda=cuda_table(profile),
        work=work_table(profile), machine_use=machine_table(profile), estimates=estimates_table(profile),
        stages=[(f'{work.model}, {size(work.input_size)} px', stages_table(work), _picture(
            partial(draw_stages, work))) for work in first_works(profile)],
        layers=[(case_label(r.case, parts), layers_table(r)) for r in profile.cases if r.layers],
        assumptions=assumptions(profile), environment=_in_words(profile.environment),
    )
    write_text(path, page)


_SIZES = ('memory', 'memory_available', 'memory_limit', 'memory_used', 'size', 'swap')
_Picture = Optional[Tuple[str, str]]  # in the light and on dark ground


def _pictures(profile: Profile, accuracies: Mapping[str, float]) -> Dict[str, _Picture]:
    drawn: Dict[str, _Picture] = {
        name: _picture(partial(draw, profile)) for name, draw in (
            ('latency', draw_latency), ('memory', draw_memory), ('growth', draw_growth), ('roofline', draw_roofline),
            ('cold', draw_cold))}
    drawn['accuracy'] = _picture(partial(draw_accuracy, profile, accuracies))
    return drawn


def _picture(draw: Callable[[Path, Theme], None]) -> _Picture:
    with tempfile.TemporaryDirectory() as folder:
        light, dark = Path(folder, 'light.png'), Path(folder, 'dark.png')
        draw(light, LIGHT)
        draw(dark, DARK)
        addresses = data_uri(light), data_uri(dark)
    return None if addresses[0] is None or addresses[1] is None else (addresses[0], addresses[1])


def _in_words(settings: Mapping[str, Any], before: str = '') -> Dict[str, Any]:
    """A line each, of settings within settings too; sizes with their units."""
    lines: Dict[str, Any] = {}
    for key, value in settings.items():
        name = before + (key.replace('_', ' ') if key.islower() else key)  # variables of the system are not
        if isinstance(value, dict):
            lines.update(_in_words(value, f'{name}: '))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value, 1):
                lines.update(_in_words(item, f'{name} {number}: '))
        elif key in _SIZES and isinstance(value, int):
            lines[name] = f'{figure(value / 1e9)} GB' if value >= 1e9 else f'{megabytes(value)} MB'
        elif key.endswith('frequency') and value is not None:
            lines[name] = f'{value:.0f} MHz'
        else:
            lines[name] = value
    return lines

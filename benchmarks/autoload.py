"""What `rsq autoload on` adds to the start of every Python program of an environment."""
import json as json_format
import subprocess
import sys
import venv
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Dict, List, Optional

import typer
from measuring import environment, interleaved_rounds, warm_up
from printing import in_existing_folder, markdown_table, progress_bar, run

import rsq_backbone
from rsq_backbone.autoload import FILE_NAME, FILE_TEXT
from rsq_backbone.files import write_text
from rsq_backbone.profiler.load import LoadWatch, disturbances
from rsq_backbone.profiler.profile import Load
from rsq_backbone.profiler.statistics import median_interval

PROJECT = Path(rsq_backbone.__file__).parents[1]
OFF, ON = 'without the file', 'with it'


@dataclass
class Report:
    """Seconds of `python -c pass`, a value a round; values at the same place belong to the same round."""

    settings: Dict[str, Any]
    environment: Dict[str, Any]
    samples: Dict[str, List[float]]
    load: Load


def create_environment(folder: Path, autoload: bool) -> Path:
    """An environment that has rsq_backbone and nothing else; gives its interpreter."""
    venv.create(folder, symlinks=sys.platform != 'win32')
    python = folder / ('Scripts/python.exe' if sys.platform == 'win32' else 'bin/python')
    (site_packages,) = folder.rglob('site-packages')
    (site_packages / 'project.pth').write_text(f'{PROJECT}\n')
    if autoload:
        (site_packages / FILE_NAME).write_text(FILE_TEXT)
    code = f'import sys; print(any(getattr(one, "__module__", "") == {FILE_NAME[:-4]!r} for one in sys.meta_path))'
    done = subprocess.run([python, '-c', code], capture_output=True, text=True, check=True)
    if done.stdout.split() != [str(autoload)]:
        raise RuntimeError(f'{python} starts otherwise than it should: {done.stdout}')
    return python


def table(samples: Dict[str, List[float]]) -> str:
    in_ms = {name: [1e3 * seconds for seconds in values] for name, values in samples.items()}
    added = [on - off for on, off in zip(in_ms[ON], in_ms[OFF], strict=True)]
    rows = [['python -c pass', 'ms']]
    rows += [[name, str(median_interval(values))] for name, values in in_ms.items()]
    rows.append(['added, round by round', str(median_interval(added))])
    return markdown_table(rows)


def main(
        rounds: Annotated[int, typer.Option(min=6)] = 40,
        seed: Annotated[int, typer.Option(help='Of the order within a round.')] = 0,
        json: Annotated[Optional[Path], typer.Option(
            callback=in_existing_folder, help='Also write everything to this file.')] = None,
) -> None:
    """What `rsq autoload on` adds to the start of every Python program of an environment.

    Two environments are made that differ in its file alone. Their `python -c pass` take turns, five or more a turn;
    medians of all rounds, with 95 % intervals. Your own environment is left as it is.

    Example: python benchmarks/autoload.py --rounds 100 --json autoload.json
    """
    watch = LoadWatch()
    with TemporaryDirectory() as folder, progress_bar(4 * rounds) as advance:
        pythons = {name: create_environment(Path(folder) / str(on), on) for name, on in ((OFF, False), (ON, True))}
        # Isolated from the caller's variables, which may add other files to read.
        calls = {
            name: partial(subprocess.run, [python, '-I', '-c', 'pass'], check=True)
            for name, python in pythons.items()}
        seconds = {name: warm_up(call).seconds_per_call for name, call in calls.items()}
        samples = interleaved_rounds(calls, seconds, rounds, seed, partial(advance, 'starting Python', 1))
    report = Report({'rounds': rounds, 'seed': seed}, environment(), samples, watch.lap())
    print(table(samples))
    noticed = '; '.join(disturbances([report.load]))
    print(f'\n{rounds} rounds, Python {report.environment["python"]}, {report.environment["cpu"]}. {noticed}'.rstrip())
    if json is not None:
        write_text(json, json_format.dumps(asdict(report), indent=2) + '\n')


if __name__ == '__main__':
    run(main)

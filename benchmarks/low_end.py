"""Both networks of this package beside the paper's five others and five later small ones, as a weak CPU runs them.

    python benchmarks/low_end.py --output low-end/

The profiler's figures for twelve networks in four runtimes at one and two threads, batch 1, each at its own input
size, with random weights. Some twenty minutes on two cores. The folder gets profile.json (raw samples), table.md and
profile.html.
"""
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, List

import typer
from networks import CASES, subjects
from printing import markdown_table, progress_bar, run

from rsq_backbone.files import write_text
from rsq_backbone.profiler.files import write_profile
from rsq_backbone.profiler.measure import Plan, profile
from rsq_backbone.profiler.profile import CaseResult, Profile
from rsq_backbone.profiler.summary import (
    SCATTER_MARKS,
    disturbances,
    machine_line,
    megabytes,
    milliseconds,
    scatter_mark,
)
from rsq_backbone.reports.profile_page import write_profile_page

RUNTIMES = ('eager', 'compile', 'onnxruntime', 'openvino')
THREADS = (1, 2)
PLAN = Plan(seconds=3, samples=64, rounds=12, limit=20)


def table(found: Profile) -> str:
    """A row for each network: counts, then median latency and memory by runtime."""
    by_case = {(r.case.model, r.case.runtime, r.case.threads): r for r in found.cases}
    works = {work.model: work for work in found.works}
    rows: List[List[str]] = [[
        'network', 'parameters, M', 'MACs, G',
        *(f'{runtime}, {unit}' for runtime in RUNTIMES for unit in ('ms', 'MB'))]]
    for name in dict.fromkeys(result.case.model for result in found.cases):
        work = works.get(name)
        rows.append([
            name, f'{work.parameters / 1e6:.2f}' if work else '-', f'{work.macs / 1e9:.2f}' if work else '-',
            *(cell for runtime in RUNTIMES for cell in (
                ' / '.join(_latency(by_case[name, runtime, count]) for count in THREADS),
                _memory(by_case[name, runtime, THREADS[0]])))])
    return markdown_table(rows)


def _latency(result: CaseResult) -> str:
    if result.latency is None or result.latency.p50 is None:
        return result.status
    return f'{milliseconds(result.latency.p50.value)}{scatter_mark(result.latency.verdict)}'


def _memory(result: CaseResult) -> str:
    return '-' if result.memory is None else f'{megabytes(result.memory.own)} / {megabytes(result.memory.peak)}'


def main(output: Annotated[Path, typer.Option(help='Folder for the results.')]) -> None:
    """Profile small networks on this machine."""
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, progress_bar(1) as advance:
        found = profile(
            subjects(CASES, Path(folder)), runtimes=RUNTIMES, threads=THREADS, plan=PLAN,
            progress=lambda what, done, total: advance(f'{what} {done}/{total or "?"}', 0))
    write_profile(found, output / 'profile.json')
    write_profile_page(found, output / 'profile.html')
    samples = [len(result.latency.samples) for result in found.cases if result.latency]
    text = '\n\n'.join(filter(None, [
        f'{machine_line(found)}.', table(found),
        f'ms: medians of {min(samples)} to {max(samples)} calls, at {" / ".join(map(str, THREADS))} threads; '
        f'{SCATTER_MARKS}. MB: peak at one thread, beyond a process with the runtime only / of the whole process.',
        '; '.join(disturbances(found))]))
    write_text(output / 'table.md', text + '\n')
    print(text)


if __name__ == '__main__':
    run(main)

"""rsq profile"""
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Callable, Dict, List, Optional, TypeVar

import typer

from rsq_backbone.errors import UserError
from rsq_backbone.printable import printable

if TYPE_CHECKING:
    from rsq_backbone.profiler.profile import Profile

T = TypeVar('T')

_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}
BEYOND_BUDGET, NOISY = 3, 4


def profile(
        models: Annotated[Optional[List[str]], typer.Argument(
            metavar='[MODEL]...', help='timm names, smp:Architecture:encoder, run folders, ONNX files; or compare '
            'OLD.json NEW.json. res_squeezenet if not given.')] = None,
        runtime: Annotated[Optional[str], typer.Option(
            help='Of eager, eager-channels-last, compile, onnxruntime, openvino, openvino-bf16, openvino-fp16; with '
            'commas. All that are installed, without compile, openvino-bf16 and openvino-fp16, if not given.')] = None,
        threads: Annotated[str, typer.Option(
            help='Of one operation, with commas; as many as there are physical cores if not given.')] = '',
        batch: Annotated[str, typer.Option(help='Pictures a call, with commas.')] = '1',
        input_size: Annotated[str, typer.Option(
            help="Sides of the input in pixels, with commas; each model's own if not given.")] = '',
        device: Annotated[str, typer.Option(help='cpu or cuda.')] = 'cpu',
        cores: Annotated[str, typer.Option(help='Keep every process on these logical cores, with commas.')] = '',
        cpu_isa: Annotated[Optional[str], typer.Option(
            help='Use nothing newer than sse41, avx2 or avx512, as an older processor would.')] = None,
        memory_cap: Annotated[Optional[str], typer.Option(
            metavar='SIZE', help='Run each case under this limit, such as 512MB, and say whether it fits.')] = None,
        gpu_memory_cap: Annotated[Optional[str], typer.Option(
            metavar='SIZE', help="The same for PyTorch's memory on the GPU.")] = None,
        end_to_end: Annotated[bool, typer.Option(
            '--end-to-end', help='Time the whole path: decode, resize, normalise, infer, argmax.')] = False,
        layers: Annotated[bool, typer.Option('--layers', help='Time each layer too (eager).')] = False,
        cold: Annotated[bool, typer.Option('--cold', help='Print what comes before the first result too.')] = False,
        work: Annotated[bool, typer.Option('--work', help='Print operations and stages too.')] = False,
        estimate: Annotated[str, typer.Option(
            metavar='DEVICES', help='Estimate machines that are not here: "GeForce MX130,Raspberry Pi 4".')] = '',
        budget_ms: Annotated[Optional[float], typer.Option(
            min=0, help=f'Exit with {BEYOND_BUDGET} if the 90th percentile of any case is above, with {NOISY} '
            'if there are too few calls to tell.')] = None,
        budget_mb: Annotated[Optional[float], typer.Option(
            min=0, help=f'Exit with {BEYOND_BUDGET} if any process needs more, its libraries included.')] = None,
        quick: Annotated[bool, typer.Option('--quick', help='A rough look: a second a case.')] = False,
        strict: Annotated[bool, typer.Option('--strict', help=f'Exit with {NOISY} if any case was noisy.')] = False,
        accuracy: Annotated[str, typer.Option(
            metavar='MODEL=VALUE,...', help='Accuracies in per cent, for the bubbles of --html.')] = '',
        json: Annotated[Optional[Path], typer.Option(
            '--json', metavar='FILE', help='Write everything, raw samples included; - prints it.')] = None,
        csv: Annotated[Optional[Path], typer.Option('--csv', metavar='FILE', help='Write a row a case.')] = None,
        markdown: Annotated[Optional[Path], typer.Option(
            '--markdown', metavar='FILE', help='Write the table as it is pasted into an issue.')] = None,
        html: Annotated[Optional[Path], typer.Option('--html', metavar='FILE', help='Write a page with plots.')] = None,
        seed: Annotated[int, typer.Option(min=0, help='Of inputs, weights and order.')] = 0,
) -> None:
    """Measure latency, memory and work of networks on this machine, each case in processes of its own.

    Examples:

        rsq profile

        rsq profile res_squeezenet resnet18 --threads 1,2 --html p.html

        rsq profile smp:Unet:res_squeezenet --input-size 256,512 --batch 1,4

        rsq profile runs/food-laptop --budget-ms 30 --budget-mb 500

        rsq profile --runtime openvino --cpu-isa avx2 --memory-cap 512MB

        rsq profile --estimate "GeForce MX130,Raspberry Pi 4"

        rsq profile compare old.json new.json
    """
    if models and models[0] == 'compare':
        _compare(models[1:], json)
        return
    counts, batches, sides, pinned = (
        _list(option, text, int) for option, text in (
            ('--threads', threads), ('--batch', batch), ('--input-size', input_size), ('--cores', cores)))
    accuracies = _accuracies(accuracy)
    _check_files(json, csv, markdown, html)

    from rsq_backbone.cli._output import require
    from rsq_backbone.cli._progress import progress_bars
    from rsq_backbone.profiler.budget import over_budget, undecided, untrusted
    from rsq_backbone.profiler.measure import QUICK, STANDARD
    from rsq_backbone.profiler.measure import profile as measure
    from rsq_backbone.runtimes import RUNTIMES

    if html is not None:
        require('report')
    names = models or ['res_squeezenet']
    if any(name.startswith('smp:') or Path(name).is_dir() for name in names):
        import seg_demos.segnet_model  # noqa: F401  tells smp of SegNet
    runtimes = _list('--runtime', runtime, str) if runtime else [
        name for name, entry in RUNTIMES.items() if entry.by_default and device in entry.devices
        and entry.missing() is None]
    with progress_bars() as progress:
        result = measure(
            names, runtimes=runtimes, threads=counts, batches=batches, input_sizes=sides,
            device=device, cores=pinned, cpu_isa=cpu_isa, memory_cap=_bytes('--memory-cap', memory_cap),
            gpu_memory_cap=_bytes('--gpu-memory-cap', gpu_memory_cap), end_to_end=end_to_end, layers=layers,
            plan=QUICK if quick else STANDARD, devices=_list('--estimate', estimate, str), seed=seed,
            progress=progress)
    _write(result, json, csv, markdown, html, accuracies, cold, work)
    budget = (
        None if budget_ms is None else budget_ms / 1e3,
        None if budget_mb is None or budget_mb == math.inf else round(budget_mb * 1e6))
    problems = over_budget(result, *budget)
    doubts = [f'cannot tell whether it is within the budget: {line}' for line in undecided(result, *budget)]
    doubts += untrusted(result) if strict else []
    for line in [f'beyond the budget: {problem}' for problem in problems] + doubts:
        print(printable(f'rsq: {line}'), file=sys.stderr)
    statuses = {one.status for one in result.cases}
    if 'interrupted' in statuses:
        raise typer.Exit(130)
    if problems:
        raise typer.Exit(BEYOND_BUDGET)
    if 'crashed' in statuses:
        raise typer.Exit(1)
    if 'does not fit' in statuses:
        raise typer.Exit(BEYOND_BUDGET)
    if statuses & {'refused', 'not installed'}:
        raise typer.Exit(2)
    if doubts:
        raise typer.Exit(NOISY)


def _write(
        result: 'Profile', json: Optional[Path], csv: Optional[Path], markdown: Optional[Path], html: Optional[Path],
        accuracies: Dict[str, float], cold: bool, work: bool,
) -> None:
    from rsq_backbone.cli._output import print_json
    from rsq_backbone.cli._profile_output import print_profile
    from rsq_backbone.profiler.files import write_csv, write_markdown, write_profile

    if json is not None and str(json) == '-':
        print_json(result)
    else:
        print_profile(result, cold=cold, work=work)
        if json is not None:
            write_profile(result, json)
    if csv is not None:
        write_csv(result, csv)
    if markdown is not None:
        write_markdown(result, markdown)
    if html is not None:
        from rsq_backbone.reports.profile_page import write_profile_page

        write_profile_page(result, html, accuracies)


def _compare(paths: List[str], json: Optional[Path]) -> None:
    from rsq_backbone.cli._output import print_json, write_json
    from rsq_backbone.cli._profile_output import print_comparison
    from rsq_backbone.profiler.compare import compare
    from rsq_backbone.profiler.files import read_profile

    if len(paths) != 2:
        raise UserError('compare takes two files: rsq profile compare OLD.json NEW.json.')
    _check_files(json)
    old, new = (read_profile(Path(path)) for path in paths)
    comparison = compare(old, new)
    if json is not None and str(json) == '-':
        print_json(comparison)
        return
    print_comparison(comparison)
    if json is not None:
        write_json(comparison, json)


def _list(option: str, text: str, kind: Callable[[str], T]) -> List[T]:
    try:
        return [kind(part.strip()) for part in text.split(',') if part.strip()]
    except ValueError:
        raise UserError(f'{option} takes whole numbers with commas between them, got {text!r}.') from None


def _bytes(option: str, text: Optional[str]) -> Optional[int]:
    if text is None:
        return None
    found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMG]?I?B?)', text.strip().upper())
    unit = found.group(2) + ('B' if found.group(2)[-1:] in 'KMGI' else '') if found else None
    if found is None or unit not in _UNITS or not float(found.group(1)):
        raise UserError(f'{option} takes a size such as 512MB or 2GiB, got {text!r}.')
    return round(float(found.group(1)) * _UNITS[unit])


def _accuracies(text: str) -> Dict[str, float]:
    try:
        pairs = (part.rsplit('=', 1) for part in text.split(',') if part)
        return {name.strip(): float(value) / 100 for name, value in pairs}
    except ValueError:
        raise UserError(f'--accuracy takes MODEL=VALUE with commas between them, got {text!r}.') from None


def _check_files(*files: Optional[Path]) -> None:
    """Before minutes of measuring, whose result could not be written."""
    for file in files:
        if file is not None and str(file) != '-' and not file.parent.is_dir():
            raise UserError(f'{file.parent}: no such folder; make it, or write elsewhere.')

"""Size, operations, memory and speed of Res-SqueezeNet beside the paper's five baselines and today's small networks."""
import json
import statistics
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Callable, Dict, List, Mapping, Optional

import safetensors.torch
import torch
import torch.nn as nn
import typer
from measuring import NO_PEAK_MEMORY, environment, interleaved_rounds, peak_memory, set_threads, warm_up
from networks import CASES, OURS, REFERENCE, bare_sequential
from printing import in_existing_folder, markdown_table, progress_bar, run

from rsq_backbone.operations import OperationCounter, countable
from rsq_backbone.profiler.load import LoadWatch, disturbances
from rsq_backbone.profiler.profile import Load
from rsq_backbone.profiler.statistics import NOISY, REJECTED, Interval, median_interval, spread

BARE = 'bare nn.Sequential'
GOALS = {BARE: 1.03, REFERENCE: 0.85}  # time of res_squeezenet over theirs, at most
MEMORY_STEPS = 40  # a process that imports torch takes about as long as this many visits of a round


@dataclass(frozen=True)
class Settings:
    models: List[str]
    rounds: int
    memory_repeats: int
    batch: int
    channels_last: bool
    input_size: Optional[int]
    seed: int
    threads: List[int]


@dataclass
class Latency:
    """Time of one batch. The ratio's pairs are the two networks' times in the same round."""

    median_ms: float
    spread: float
    ratio_to_reference: Interval
    warm_up_calls: int
    warm_up_steady: bool
    samples_ms: List[float]


@dataclass
class Result:
    """One network: a row of the table. Latency by thread count; memory above that of a process with imports only."""

    model: str
    source: str
    input_size: int
    params: int
    macs: int
    file_bytes: int
    memory_bytes: Optional[float] = None
    memory_samples: List[int] = field(default_factory=list)
    latency: Dict[int, Latency] = field(default_factory=dict)


@dataclass
class Goal:
    """Time of res_squeezenet over another network's, in the same rounds."""

    against: str
    threads: int
    ratio: Interval
    at_most: float
    verdict: str
    samples_ms: Dict[str, List[float]]


@dataclass
class Report:
    settings: Settings
    environment: Dict[str, Any]
    results: List[Result]
    goals: List[Goal]
    bare_max_difference: Optional[float]
    memory_baseline_samples: List[int]
    loads: Dict[str, Load]


def build(name: str, settings: Settings) -> nn.Module:
    torch.manual_seed(settings.seed)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    return CASES[name].build().eval().to(memory_format=layout)


def make_input(name: str, settings: Settings) -> torch.Tensor:
    size = settings.input_size or CASES[name].input_size
    x = torch.randn(settings.batch, 3, size, size, generator=torch.Generator().manual_seed(settings.seed))
    return x.contiguous(memory_format=torch.channels_last if settings.channels_last else torch.contiguous_format)


def count_macs(model: nn.Module, x: torch.Tensor) -> int:
    """Multiply-accumulates (one multiplication with its addition) of convolutions and matrix products, per picture."""
    with torch.no_grad(), countable(), OperationCounter() as counter:
        model(x[:1])
    return counter.total.macs


def check_counting() -> None:
    """3 x 3 positions of a 3x3 convolution from 2 to 5 channels are 9 * 9 * 2 * 5 multiply-accumulates."""
    counted = count_macs(nn.Conv2d(2, 5, 3), torch.ones(1, 2, 5, 5))
    if counted != 810:
        raise RuntimeError(f'this PyTorch counts {counted} instead of 810 multiply-accumulates')


def file_bytes(model: nn.Module) -> int:
    return len(safetensors.torch.save({key: value.contiguous() for key, value in model.state_dict().items()}))


def describe(name: str, model: nn.Module, x: torch.Tensor) -> Result:
    params = sum(parameter.numel() for parameter in model.parameters())
    return Result(name, CASES[name].source, x.shape[-1], params, count_macs(model, x), file_bytes(model))


def infer_in_fresh_process(name: Optional[str], settings: Settings) -> None:
    """What a memory worker does, after its imports; nothing for the baseline."""
    if name is not None:
        set_threads(settings.threads[-1])
        model, x = build(name, settings), make_input(name, settings)
        with torch.inference_mode():
            for _ in range(5):
                model(x)


def measure_memory(results: List[Result], settings: Settings, advance: Callable[[], None]) -> List[int]:
    """Fill in the results' memory; returns the baseline's samples."""
    def sample(name: Optional[str]) -> int:
        peak = peak_memory(infer_in_fresh_process, name, settings)
        advance()
        return peak

    baseline = []
    for _ in range(settings.memory_repeats):
        baseline.append(sample(None))
        for result in results:
            result.memory_samples.append(sample(result.model))
    for result in results:
        result.memory_bytes = statistics.median(result.memory_samples) - statistics.median(baseline)
    return baseline


Calls = Dict[str, Callable[[], Any]]


def measure_latency(
        results: List[Result], calls: Calls, settings: Settings, threads: int, advance: Callable[[], None],
) -> List[Goal]:
    """Fill in the results' latency at one thread count; returns how res_squeezenet stands to its goals."""
    set_threads(threads)
    warm = {name: warm_up(call) for name, call in calls.items()}
    pace = {name: value.seconds_per_call for name, value in warm.items()}
    networks = {result.model: calls[result.model] for result in results}
    times = _in_ms(interleaved_rounds(networks, pace, settings.rounds, settings.seed, advance))
    for result in results:
        own = times[result.model]
        result.latency[threads] = Latency(
            statistics.median(own), spread(own), paired_ratio(own, times[REFERENCE]),
            warm[result.model].calls, warm[result.model].steady, own)
    if OURS not in networks:
        return []
    pair = {name: calls[name] for name in (OURS, BARE)}
    duel = _in_ms(interleaved_rounds(pair, pace, duel_rounds(settings), settings.seed, advance))
    return [judge(BARE, threads, duel), judge(REFERENCE, threads, {name: times[name] for name in (OURS, REFERENCE)})]


def duel_rounds(settings: Settings) -> int:
    return 2 * settings.rounds  # a goal of 3 % wants a narrower interval than the table


def paired_ratio(own: List[float], others: List[float]) -> Interval:
    return median_interval([a / b for a, b in zip(own, others, strict=True)])


def judge(against: str, threads: int, times: Dict[str, List[float]]) -> Goal:
    ratio, at_most = paired_ratio(times[OURS], times[against]), GOALS[against]
    if ratio.low is None or ratio.high is None:
        verdict = 'undecided (too few rounds)'
    elif ratio.low > at_most:
        verdict = 'missed'
    else:
        verdict = 'met' if ratio.high <= at_most else 'undecided (interval holds the goal)'
    return Goal(against, threads, ratio, at_most, verdict, times)


def _in_ms(seconds: Mapping[str, List[float]]) -> Dict[str, List[float]]:
    return {name: [1000 * value for value in values] for name, values in seconds.items()}


def measure(settings: Settings) -> Report:
    check_counting()
    watch = LoadWatch()
    models = {name: build(name, settings) for name in settings.models}
    inputs = {name: make_input(name, settings) for name in settings.models}
    results = [describe(name, model, inputs[name]) for name, model in models.items()]
    baseline: List[int] = []
    goals: List[Goal] = []
    loads: Dict[str, Load] = {}
    difference = None
    with torch.inference_mode(), progress_bar(total_steps(settings)) as advance:
        if settings.memory_repeats and not NO_PEAK_MEMORY:
            baseline = measure_memory(results, settings, partial(advance, 'memory', MEMORY_STEPS))
            loads['memory'] = watch.lap()
        calls: Calls = {name: _call(model, inputs[name]) for name, model in models.items()}
        if OURS in models:
            bare = bare_sequential(models[OURS])
            difference = check_equal(models[OURS], bare, inputs[OURS])
            calls[BARE] = _call(bare, inputs[OURS])
        for threads in settings.threads:
            what = threads_text(threads)
            goals += measure_latency(results, calls, settings, threads, partial(advance, what, 1))
            loads[what] = watch.lap()
    return Report(settings, environment(), results, goals, difference, baseline, loads)


def _call(model: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: model(x)


def check_equal(model: nn.Module, bare: nn.Module, x: torch.Tensor) -> float:
    """Largest difference of the two outputs; raises unless they are the same network."""
    expected, actual = model(x), bare(x)
    torch.testing.assert_close(actual, expected)
    return float((actual - expected).abs().max())


def total_steps(settings: Settings) -> int:
    visits = 2 * settings.rounds * len(settings.models) + 4 * duel_rounds(settings) * (OURS in settings.models)
    processes = 0 if NO_PEAK_MEMORY else settings.memory_repeats * (1 + len(settings.models))
    return visits * len(settings.threads) + processes * MEMORY_STEPS


def threads_text(count: int) -> str:
    return '1 thread' if count == 1 else f'{count} threads'


def markdown(report: Report) -> str:
    parts = [markdown_table(_result_rows(report)), *_notes(report)]
    if report.goals:
        parts += [markdown_table(_goal_rows(report)), _bare_note(report)]
    return '\n\n'.join(parts) + '\n'


def _result_rows(report: Report) -> List[List[str]]:
    threads = report.settings.threads
    head = ['network', 'input', 'parameters', 'MACs', 'file', *(
        f'time / {REFERENCE}, {threads_text(n)}' for n in threads), 'peak memory', *(
            f'latency, {threads_text(n)}' for n in threads)]
    rows = [head]
    for result in report.results:
        memory = 'n/a' if result.memory_bytes is None else f'{result.memory_bytes / 1e6:.0f} MB'
        rows.append([
            result.model, str(result.input_size), f'{result.params / 1e6:.2f} M', f'{result.macs / 1e6:.0f} M',
            f'{result.file_bytes / 1e6:.2f} MB',
            *('1' if result.model == REFERENCE else str(result.latency[n].ratio_to_reference) for n in threads),
            memory, *(_absolute(result.latency[n]) for n in threads),
        ])
    return rows


def _absolute(latency: Latency) -> str:
    verdict = ', rejected' if latency.spread > REJECTED else ', noisy' if latency.spread > NOISY else ''
    return f'{latency.median_ms:.2f} ms ({latency.spread:.0%}{verdict})'


def _goal_rows(report: Report) -> List[List[str]]:
    return [[f'time of {OURS} over that of', 'threads', 'ratio', 'goal', 'verdict']] + [
        [goal.against, str(goal.threads), str(goal.ratio), f'<= {goal.at_most}', goal.verdict] for goal in report.goals]


def _notes(report: Report) -> List[str]:
    settings, machine = report.settings, report.environment
    layout = 'channels last' if settings.channels_last else 'contiguous'
    notes = [
        f'{machine["cpu"]} ({machine["cores"]} cores, {machine["cpu_capability"]}), torch {machine["torch"]}, '
        f'torchvision {machine["torchvision"]}, timm {machine["timm"]}; eager, float32, inference mode, '
        f'batch {settings.batch}, {layout}, random weights, seed {settings.seed}.',
        f'The ratios are the result: median over {settings.rounds} rounds of the time divided by that of {REFERENCE} '
        'in the same round, with its 95 % interval. Milliseconds are context: median over the rounds (interquartile '
        'range / median). MACs: multiply-accumulates of convolutions and matrix products per picture. File: all '
        'tensors as float32 safetensors. MB = 10^6 bytes.',
    ]
    if NO_PEAK_MEMORY:
        notes.append(f'Peak memory: n/a ({NO_PEAK_MEMORY}).')
    elif settings.memory_repeats:
        base = statistics.median(report.memory_baseline_samples) / 1e6
        notes.append(
            f'Peak memory: building and inference at {threads_text(settings.threads[-1])} in a fresh process (VmHWM, '
            f'median of {settings.memory_repeats}), less the {base:.0f} MB of one that only imported the libraries; '
            "PyTorch's kernels, which it loads on first use, are in it.")
    else:
        notes.append('Peak memory: not measured.')
    if 'repvit_m0_9' in settings.models:
        notes.append('repvit_m0_9 is reparameterised for inference (timm.utils.reparameterize_model), counts included.')
    unsteady = [f'{result.model} at {threads_text(n)}' for result in report.results
                for n, latency in result.latency.items() if not latency.warm_up_steady]
    if unsteady:
        notes.append(f'Not steady after the warm-up: {", ".join(unsteady)}.')
    said = {what: ' and '.join(disturbances([load])) for what, load in report.loads.items()}
    busy = [f'{what}: {lines}' for what, lines in said.items() if lines]
    if busy:
        notes.append(f'**The machine was disturbed**, measure again on an idle one ({"; ".join(busy)}).')
    return notes


def _bare_note(report: Report) -> str:
    return (
        f"{BARE}: the same operations on the same weights without the network's class, {duel_rounds(report.settings)} "
        f'rounds of the two alone; outputs checked equal (largest difference {report.bare_max_difference:.1g}).')


def _selected(models: str) -> List[str]:
    names = [name.strip() for name in models.split(',') if name.strip()] or list(CASES)
    for name in names:
        if name not in CASES:
            raise typer.BadParameter(f'{name!r} is none of {", ".join(CASES)}', param_hint='--models')
    return [name for name in CASES if name in names or name == REFERENCE]


def _thread_counts() -> List[int]:
    return sorted({1, torch.get_num_threads()})


def main(
        rounds: Annotated[int, typer.Option(min=2, help='Rounds a thread count; an interval needs 6.')] = 20,
        models: Annotated[str, typer.Option(
            help=f'Networks, separated by commas (default: all; {REFERENCE} always runs): {", ".join(CASES)}.')] = '',
        batch: Annotated[int, typer.Option(min=1, help='Pictures a call.')] = 1,
        input_size: Annotated[Optional[int], typer.Option(
            min=32, help="Input side for all networks (default: each one's own, 227 or 224).")] = None,
        channels_last: Annotated[bool, typer.Option(
            '--channels-last', help='Lay weights and inputs out as NHWC instead of NCHW.')] = False,
        memory_repeats: Annotated[int, typer.Option(
            min=0, help='Fresh processes a network for the peak memory; 0 leaves it out.')] = 2,
        seed: Annotated[int, typer.Option(help='Of weights, inputs and the order within rounds.')] = 0,
        json_file: Annotated[Optional[Path], typer.Option(
            '--json', metavar='FILE', callback=in_existing_folder,
            help='Write everything here, with raw samples and environment.')] = None,
        markdown_file: Annotated[Optional[Path], typer.Option(
            '--markdown', metavar='FILE', callback=in_existing_folder, help='Write the tables here too.')] = None,
) -> None:
    """Res-SqueezeNet beside the paper's five baselines and today's small networks of timm.

    Prints parameters, multiply-accumulates, file size, peak memory and latency at one thread and at all of PyTorch's
    (set OMP_NUM_THREADS for another count) as markdown tables. The full run takes about five minutes on two cores;
    nothing else should run meanwhile.

    \b
    Examples:
      python benchmarks/backbone.py --json backbone.json --markdown backbone.md
      python benchmarks/backbone.py --models res_squeezenet,mobilenet_v2 --rounds 10 --memory-repeats 0
    """
    report = measure(Settings(
        _selected(models), rounds, memory_repeats, batch, channels_last, input_size, seed, _thread_counts()))
    text = markdown(report)
    sys.stdout.write(text)
    if markdown_file is not None:
        markdown_file.write_text(text, encoding='utf-8')
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(report), indent=2), encoding='utf-8')


if __name__ == '__main__':
    run(main)

"""Whether the profiler's figures are right: beside other tools, and on things whose cost is known.

    python benchmarks/profiler.py --json profiler.json

Latency: res_squeezenet in eager beside torch.utils.benchmark, in OpenVINO beside its benchmark_app, in ONNX Runtime
beside the durations that it writes down itself. The profiler and the other tool take turns, three times each, every
one in fresh processes with the same number of threads. Counts: multiply-accumulates beside fvcore's. Memory: a module
that holds 256 MB. Comparing: ten pairs of profiles of the same module, and ten of one that does a fifth more. Load: a
profile beside a process that does nothing but count. Some ten minutes; the machine should be idle.
"""
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Callable, Dict, List, Optional

import numpy as np
import torch
import typer
from known_costs import Holds, Multiplies
from measuring import environment
from printing import in_existing_folder, markdown_table, progress_bar, run

from rsq_backbone.model_loading import load_model
from rsq_backbone.profiler.compare import compare
from rsq_backbone.profiler.cores import usable_cores
from rsq_backbone.profiler.load import disturbances
from rsq_backbone.profiler.measure import Plan, profile
from rsq_backbone.profiler.profile import Profile
from rsq_backbone.profiler.subjects import module_subject
from rsq_backbone.profiler.work import work
from rsq_backbone.runtimes.export import export

MODEL, SIZE = 'res_squeezenet', (3, 227, 227)
PLAN = Plan(seconds=4, samples=64, rounds=8, limit=20)
SHORT = Plan(seconds=1.5, samples=30, rounds=12, limit=6)
TURNS, PAIRS = 3, 10

_TORCH = '''
import sys, torch
from torch.utils.benchmark import Timer
from rsq_backbone.model_loading import load_model
model, x = load_model('res_squeezenet'), torch.randn(1, 3, 227, 227)
torch.set_flush_denormal(True)
with torch.inference_mode():
    timer = Timer('model(x)', globals={'model': model, 'x': x}, num_threads=int(sys.argv[1]))
    timer.timeit(20)
    print(timer.blocked_autorange(min_run_time=4).median)
'''
_ONNX_RUNTIME = '''
import json, os, statistics, sys, time
os.environ['ORT_DISABLE_TELEMETRY'] = '1'
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = int(sys.argv[1]), 1
options.enable_profiling, options.profile_file_prefix = True, sys.argv[3]
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=['CPUExecutionProvider'])
name = session.get_inputs()[0].name
x = np.random.default_rng(0).standard_normal((1, 3, 227, 227), np.float32)
end = time.perf_counter() + 5
while time.perf_counter() < end:
    session.run(None, {name: x})
events = json.load(open(session.end_profiling()))
runs = [event['dur'] for event in events if event['name'] == 'model_run']
print(statistics.median(runs[20:]) / 1e6)
'''


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Medians of calls, in seconds, in turns."""

    runtime: str
    tool: str
    ours: List[float]
    others: List[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.others)


def by_torch(threads: int, file: Path) -> float:
    return float(_python(_TORCH, str(threads)))


def by_benchmark_app(threads: int, file: Path) -> float:
    done = subprocess.run(
        [str(Path(sys.executable).with_name('benchmark_app')), '-m', str(file), '-d', 'CPU', '-api', 'sync', '-t', '5',
         '-nthreads', str(threads), '-nstreams', '1', '-hint', 'none', '-infer_precision', 'f32'],
        capture_output=True, text=True, check=True)
    return float(re.findall(r'Median:\s+([\d.]+) ms', done.stdout)[0]) / 1e3


def by_onnx_runtime(threads: int, file: Path) -> float:
    return float(_python(_ONNX_RUNTIME, str(threads), str(file), str(file.with_suffix(''))))


def _python(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


TOOLS: Dict[str, Any] = {
    'eager': ('torch.utils.benchmark', by_torch),
    'openvino': ('benchmark_app', by_benchmark_app),
    'onnxruntime': ("ONNX Runtime's profile", by_onnx_runtime),
}


def agreements(threads: int, advance: Callable[[str, int], None]) -> List[Agreement]:
    found = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / 'model.onnx'
        export(load_model(MODEL), [np.zeros((1, *SIZE), np.float32)], file)
        for runtime, (tool, measure) in TOOLS.items():
            ours, others = [], []
            for _ in range(TURNS):
                advance(f'{runtime}: profiler', 0)
                ours.append(p50(profile(MODEL, runtimes=[runtime], threads=[threads], plan=PLAN)))
                advance(f'{runtime}: {tool}', 0)
                others.append(measure(threads, file))
                advance(f'{runtime}: {tool}', 1)
            found.append(Agreement(runtime, tool, ours, others))
    return found


def p50(found: Profile) -> float:
    [result] = found.cases
    if result.latency is None or result.latency.p50 is None:
        raise RuntimeError(f'{result.status}: {result.message}')
    return result.latency.p50.value


def counts() -> Dict[str, List[int]]:
    """Multiply-accumulates by the profiler and by fvcore, of convolutions and matrix products."""
    from fvcore.nn import FlopCountAnalysis

    found = {}
    for name, size in ((MODEL, SIZE), ('resnet18', (3, 224, 224)), ('mobilenetv2_100', (3, 224, 224))):
        model = load_model(name)
        analysis = FlopCountAnalysis(model, torch.zeros(1, *size)).unsupported_ops_warnings(False)
        by_operator = analysis.uncalled_modules_warnings(False).by_operator()
        found[name] = [work(model, size, name).macs, int(by_operator['conv'] + by_operator['linear'])]
    return found


def short_profile(multiplications: int) -> Profile:
    with TemporaryDirectory() as folder:
        subject = module_subject(Multiplies(multiplications), [torch.zeros(1, 3, 8, 8)], Path(folder), 'multiplies')
        return profile([subject], threads=[1], plan=SHORT)


def verdicts(slower: bool, advance: Callable[[str, int], None]) -> List[str]:
    """Of `compare`, for pairs of profiles."""
    found = []
    for number in range(PAIRS):
        advance(f'{"a fifth more" if slower else "the same"}, pair {number + 1}', 0)
        old, new = short_profile(20), short_profile(24 if slower else 20)
        found.append(next(change.verdict for change in compare(old, new).changes if change.figure == 'latency'))
        advance('pairs', 1)
    return found


def held_memory() -> float:
    """MB (2^20) that a module of 256 is said to add to the runtime."""
    [result] = profile(Holds(256), [torch.zeros(1, 3, 8, 8)], threads=[1], plan=SHORT).cases
    assert result.memory is not None
    assert result.memory.own is not None
    return result.memory.own / 2**20


def noticed_load() -> List[str]:
    """What a profile says of the machine while another process counts."""
    # By a shell that ends at once: what this process has started itself would not be foreign.
    counting = subprocess.run(
        ['sh', '-c', '"$0" -c "while True: pass" > /dev/null 2>&1 & echo $!', sys.executable],
        capture_output=True, text=True, check=True)
    try:
        found = profile('test_resnet', threads=[1], input_sizes=[64], plan=SHORT)
    finally:
        os.kill(int(counting.stdout), signal.SIGKILL)
    return disturbances([result.load for result in found.cases if result.load])


def main(
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all figures here.', callback=in_existing_folder)] = None,
) -> None:
    """Compare the profiler's figures with those of other tools and with what is known."""
    threads = usable_cores()
    with progress_bar(len(TOOLS) * TURNS + 2 * PAIRS + 2) as advance:
        agreed = agreements(threads, advance)
        advance('memory', 0)
        held = held_memory()
        advance('memory', 1)
        load = noticed_load()
        advance('load', 1)
        same, slower = (verdicts(which, advance) for which in (False, True))
    macs = counts()
    print(f'{MODEL}, one picture of {SIZE[1]} x {SIZE[2]}, {threads} threads; medians of calls, {TURNS} turns each\n')
    print(markdown_table([
        ['runtime', 'other tool', 'profiler, ms', 'other tool, ms', 'ratio of the medians'],
        *([a.runtime, a.tool, *(' '.join(f'{1e3 * value:.2f}' for value in values) for values in (a.ours, a.others)),
           f'{a.ratio:.3f}'] for a in agreed)]))
    print('\n' + markdown_table([
        ['network', 'MACs', "fvcore's"], *([name, *(f'{count:,}' for count in both)] for name, both in macs.items())]))
    print(f'\nA module that holds 256 MB: {held:.1f} MB found ({100 * (held / 256 - 1):+.1f} %).')
    print(f'Two profiles of the same: no difference in {same.count("no difference")} of {PAIRS} pairs. '
          f'A fifth more to do: slower in {slower.count("slower")} of {PAIRS}.')
    print(f'Beside a process that counts: {"; ".join(load) or "nothing was noticed"}.')
    if json_file is not None:
        json_file.write_text(json.dumps({
            'environment': environment(), 'threads': threads, 'agreement': [dataclasses.asdict(a) for a in agreed],
            'macs': macs, 'held_memory': held, 'same': same, 'slower': slower, 'load': load}, indent=2) + '\n')


if __name__ == '__main__':
    run(main)

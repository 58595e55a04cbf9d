"""Made-up but plausible profiles."""
import dataclasses
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from rsq_backbone.profiler.profile import (
    FORMAT,
    Agreement,
    Case,
    CaseResult,
    Cold,
    CudaMemory,
    Environment,
    Estimate,
    Latency,
    LayerTime,
    Load,
    Memory,
    Peaks,
    Percentile,
    Profile,
    StageWork,
    Transfers,
    Work,
)

MB = 1_000_000


def make_case(model: str = 'res_squeezenet', **fields: Any) -> Case:
    return Case(**{**dict(
        model=model, runtime='eager', device='cpu', threads=1, batch=1, input_size=(3, 224, 224)), **fields})


def make_latency(samples: Sequence[float], **fields: Any) -> Latency:
    """Of calls that took these seconds, in five rounds; percentiles only where there are samples enough.

    The intervals are plain shares of the value, not those that statistics would give.
    """
    n = len(samples)

    def percentile(share: float, least: int) -> Optional[Percentile]:
        value = float(np.percentile(samples, share))
        return Percentile(value, 0.98 * value, 1.03 * value) if n >= least else None

    low, middle, high = np.percentile(samples, [25, 50, 75])
    spread = float((high - low) / middle)
    return Latency(**{**dict(
        samples=tuple(map(float, samples)),
        rounds=tuple(float(np.median(part)) for part in np.array_split(samples, min(5, n))),
        group=0, warm_up_calls=8, steady=True, minimum=float(min(samples)),
        p50=percentile(50, 11), p90=percentile(90, 64), p99=percentile(99, 662), mean=float(np.mean(samples)),
        standard_deviation=float(np.std(samples)), spread=spread,
        verdict='rejected' if spread > 0.25 else 'noisy' if spread > 0.1 else 'ok'), **fields})


def calls(median: float, n: int = 200, noise: float = 0.02, seed: int = 0) -> Tuple[float, ...]:
    """Seconds of calls with a long tail, of exactly this median."""
    random = np.random.default_rng(seed)
    samples = median * np.exp(np.abs(random.normal(0, noise, n)) * random.choice([-0.5, 1, 1.5], n))
    return tuple(map(float, samples * median / np.median(samples)))


def make_result(case: Optional[Case] = None, median: float = 0.02, **fields: Any) -> CaseResult:
    """Of a case that went well, in calls of this median."""
    case = case or make_case()
    eager = case.runtime.startswith('eager')
    return CaseResult(**{**dict(
        case=case, status='measured', threads=case.threads,
        cold=Cold(imports=1.8, build=0.25, prepare=None if eager else 2.5, load=None if eager else 0.12,
                  first_call=3 * median),
        latency=make_latency(calls(median)),
        memory=Memory(weights_on_disk=44 * MB, weights_in_memory=44 * MB, baseline=210 * MB, peak=294 * MB),
        agreement=None if eager else Agreement(2e-5, 10.0, 1.0),
        load=Load(foreign_cores=0.02, steal=0.0, pressure=0.01, frequency_before=2600.0, frequency_after=2590.0,
                  temperature_before=None, temperature_after=None)), **fields})


def make_work(
        model: str = 'res_squeezenet', side: int = 224, scale: float = 1.0, weights: Optional[float] = None,
        **fields: Any,
) -> Work:
    """Of two stages at 224: 100 and 300 M MACs, 2 and 6 M parameters, 20 and 60 MB moved (8 and 24 of them weights).

    All times `scale`; what belongs to the weights times `weights` instead, where that is given.
    """
    grown = scale * (side / 224) ** 2
    weights = scale if weights is None else weights

    def stage(name: str, share: int) -> StageWork:
        return StageWork(
            name, round(share * weights * 2e6), round(share * grown * 100e6), round(share * grown * 1e6),
            round(share * (weights * 8e6 + grown * 12e6)))

    stages = (stage('features', 1), stage('classifier', 3))
    return Work(**{**dict(
        model=model, input_size=(3, side, side), peak_activations=round(8e6 * grown), stages=stages, not_counted=(),
        **{name: sum(getattr(s, name) for s in stages)
           for name in ('parameters', 'macs', 'activations', 'bytes_moved')}), **fields})


def make_environment(**fields: Any) -> Environment:
    return Environment(**{**dict(
        cpu='Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz', architecture='x86_64', instruction_sets=['sse4_2', 'avx2'],
        physical_cores=4, logical_cores=8, affinity=list(range(8)), cpu_quota=None, usable_cores=4,
        core_groups=[{'cores': list(range(8)), 'min_frequency': 400.0, 'max_frequency': 3400.0,
                      'governor': 'powersave', 'driver': 'intel_pstate'}],
        caches=[{'level': 1, 'type': 'data', 'size': 32768, 'count': 4},
                {'level': 3, 'type': 'unified', 'size': 6291456, 'count': 1}],
        hypervisor='none', memory=8_200_000_000, memory_available=5_100_000_000, memory_limit=None, swap=0,
        power='mains', system='Linux-6.1-x86_64', python='3.11.7', gpus=[], cuda=None,
        variables={'OMP_NUM_THREADS': '2'}), **fields})  # type: ignore[typeddict-item]


def make_profile(cases: Sequence[CaseResult], **fields: Any) -> Profile:
    return Profile(**{**dict(
        format=FORMAT, cases=tuple(cases), works=(), peaks=(), estimates=(), estimate_checks=(),
        environment=make_environment(),
        seed=0, seconds=84.2, command=('rsq', 'profile', 'res_squeezenet', '--json', 'my profile.json'),
        versions={'python': '3.11.7', 'rsq-backbone': '0.2.0', 'torch': '2.14.1'}), **fields})


def comparison() -> Profile:
    """Three models on three runtimes with one and two threads: noisy, rejected and failed cases among them."""
    results = []
    medians = {'res_squeezenet': 0.0192, 'resnet18': 0.0304, 'mobilenetv2_100': 0.0137}
    factors = {'eager': 1.0, 'onnxruntime': 0.7, 'openvino': 0.52}
    for i, (model, median) in enumerate(medians.items()):
        for j, (runtime, factor) in enumerate(factors.items()):
            for threads in (1, 2):
                seconds = median * factor / threads ** 0.8
                noise = 0.17 if (i, j, threads) == (0, 1, 2) else 0.6 if (i, j, threads) == (2, 0, 2) else 0.02
                case = make_case(model, runtime=runtime, threads=threads)
                n = 800 if seconds < 0.006 else 200
                results.append(make_result(
                    case, seconds, latency=make_latency(calls(seconds, n, noise, seed=10 * i + j)),
                    memory=Memory(
                        weights_on_disk=44 * MB, weights_in_memory=44 * MB, baseline=(210 - 60 * j) * MB,
                        peak=(210 - 60 * j + 84 - 9 * i + 3 * j) * MB)))
    failed = [
        CaseResult(make_case(runtime='compile', threads=1), 'crashed', 'no C++ compiler was found; install g++'),
        CaseResult(make_case('resnet18', runtime='compile', threads=2), 'interrupted', 'by Ctrl-C')]
    disturbed = dataclasses.replace(
        results[3], notes=('the first round was slower than the others',),
        load=Load(0.7, 0.03, 0.2, 3400.0, 2720.0, 61.0, 84.0, throttled=3))
    results[3] = disturbed
    return make_profile(
        [*results, *failed],
        works=tuple(
            make_work(model, scale=scale, weights=weights)
            for model, scale, weights in zip(medians, (2.0, 4.5, 0.8), (1.4, 1.5, 0.5), strict=True)),
        peaks=tuple(Peaks(t, 'cpu', t * 110e9, t * 16e9) for t in (1, 2)),
        estimates=tuple(Estimate(
            'res_squeezenet', (3, 224, 224), 1, device, seconds, 'memory', 150 * MB, fits,
            ('half of the peak is reached', f'{device} as its maker describes it')) for device, seconds, fits in (
                ('Raspberry Pi 4', 0.31, True), ('Jetson Nano', 0.055, False))),
        command=('rsq', 'profile', *medians, '--threads', '1,2', '--runtime', 'eager,compile,onnxruntime,openvino'))


def growth() -> Profile:
    """A U-Net on squares of 256, 512 and 1024 with batches of one and four; the largest does not fit."""
    results, works = [], []
    model = 'smp:Unet:res_squeezenet'
    for side in (256, 512, 1024):
        works.append(make_work(model, side, scale=8.0))
        for batch in (1, 4):
            case = make_case(model, threads=2, batch=batch, input_size=(3, side, side), memory_cap=1500 * MB)
            pixels = batch * (side / 256) ** 2
            if pixels > 16:
                results.append(CaseResult(
                    case, 'does not fit', 'killed at 1500 MB; use a smaller batch',
                    memory=Memory(49 * MB, 49 * MB, 210 * MB, 1500 * MB)))
            else:
                results.append(make_result(
                    case, 0.05 * pixels,
                    memory=Memory(49 * MB, 49 * MB, 210 * MB, round((210 + 60 + 45 * pixels) * MB))))
    return make_profile(
        results, works=tuple(works), peaks=(Peaks(2, 'cpu', 120e9, 16e9),),
        command=('rsq', 'profile', model, '--input-size', '256,512,1024', '--batch', '1,4'))


def on_cuda() -> Profile:
    """One model on a GPU, with the time of its layers."""
    return make_profile(
        [make_result(
            make_case(device='cuda', batch=batch), 0.002 * (1 + batch / 8),
            latency=make_latency(calls(0.002 * (1 + batch / 8), 700)),
            device_latency=make_latency(calls(0.0015 * (1 + batch / 8), 700)),
            memory=Memory(44 * MB, 44 * MB, 900 * MB, 1200 * MB, CudaMemory(
                (60 + 9 * batch) * MB, (80 + 10 * batch) * MB, (380 + 10 * batch) * MB, 300 * MB,
                (500 + 10 * batch) * MB)),
            transfers=Transfers(0.0004, 0.00008),
            layers=(LayerTime('conv1', 'Conv2d', 0.0004), LayerTime('fire2.squeeze', 'Conv2d', 0.0012)))
         for batch in (1, 8)],
        works=(make_work(),), peaks=(Peaks(1, 'cuda', 4e12, 300e9),),
        environment=make_environment(
            cuda='12.6', gpus=[{'name': 'NVIDIA GeForce GTX 1050', 'driver': '560.35', 'memory': 2_100_000_000,
                                'memory_used': 300_000_000}]))

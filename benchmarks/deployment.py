"""Trained networks as rsq deploy leaves them, side by side: accuracy, latency, memory and size of file.

    pip install elpv-dataset
    RSQ_DATA=... python benchmarks/deployment.py --output deployment/ --json deployment.json --chart deployment.png

The first table: res_squeezenet, res_squeezenet_lite and the paper's five other networks, fine-tuned under the default
recipe on the solar cells of solar_cells.py (seed 0) and deployed for one thread. Networks whose ImageNet weights are
out of reach are trained from random ones and marked so. All are judged by the run's validation pictures and as many
more that no run saw (978).

The second table: U-Net and DeepLabV3+ of the demos on both encoders, trained on the nuclei in RSQ_DATA (see
segmentation.py) and deployed in the same way.

Latencies of a table come from one run of the profiler for each number of threads, in which the deployed networks and
one in eager PyTorch take turns. An hour on two cores, most of it training; a benchmark that was stopped goes on where
it was when the same command is given again.
"""
import dataclasses
import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Callable, Dict, List, Optional, Sequence, Tuple

import torchvision_models  # noqa: F401  registers
import typer
from measuring import environment
from printing import in_existing_folder, markdown_table, progress_bar, run
from segmentation import nuclei
from solar_cells import PAPER_PICTURES, load_cells, write_samples

from rsq_backbone.deploy.artifact import is_artifact
from rsq_backbone.deploy.deployment import deploy
from rsq_backbone.deploy.measuring import Speed, measure_cases, measured_case
from rsq_backbone.errors import UserError
from rsq_backbone.files import write_text
from rsq_backbone.machine import machine
from rsq_backbone.metrics import wilson_interval
from rsq_backbone.model_loading import load_model
from rsq_backbone.profiler.profile import Case
from rsq_backbone.profiler.session import Plan
from rsq_backbone.profiler.subjects import Subject
from rsq_backbone.profiler.summary import SCATTER_MARKS, scatter_mark
from rsq_backbone.training.finetuning import finetune
from rsq_backbone.training.recipes import RECIPES
from rsq_backbone.training.run_folder import RunFolder
from seg_demos.recipe import SegmentationRecipe
from seg_demos.training import train

CLASSIFIERS = {
    'Res-SqueezeNet': 'res_squeezenet', 'Res-SqueezeNet lite': 'res_squeezenet_lite',
    'SqueezeNet 1.1': 'tv_squeezenet1_1', 'ShuffleNetV2': 'tv_shufflenet_v2_x1_0', 'GoogLeNet': 'tv_googlenet',
    'ResNet-18': 'tv_resnet18', 'MobileNetV2': 'tv_mobilenet_v2'}
ENCODERS = ('res_squeezenet', 'res_squeezenet_lite')
DECODERS = {'U-Net': 'unet', 'DeepLabV3+': 'deeplab'}
THREADS = (1, 2)
PLAN = Plan(seconds=3, samples=64, rounds=12, limit=20)
RANDOM = ' (random start)'


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    run: str  # folder
    artifact: str  # folder
    score: float  # accuracy or mean IoU of the artifact
    score_of_pytorch: float
    pictures: int  # that both are judged by
    runtime: str
    precision: str
    file_bytes: int  # of the network's files
    ratio: Optional[float]  # of eager PyTorch's time to its, at one thread, found when it was deployed
    speeds: Dict[int, Speed]  # by threads


def classifiers(output: Path, advance: Callable[[str, int], None]) -> List[Tuple[str, Path]]:
    """Train and deploy what is not there yet; names and run folders."""
    sample, others, judged = (output / f'{name}.csv' for name in ('cells', 'other-cells', 'judged-cells'))
    if not judged.exists():
        write_samples(load_cells(), 'defect', PAPER_PICTURES, 0, sample, others)
        write_text(judged, sample.read_text() + ''.join(others.read_text().splitlines(keepends=True)[1:]))
    found: List[Tuple[str, Path]] = []
    for name, model in CLASSIFIERS.items():
        try:
            load_model(model, pretrained=True)
            pretrained = True
        except UserError:
            pretrained = False
        if not RunFolder(output / model).metrics.exists():
            advance(f'training {name}', 0)
            finetune(
                str(sample), RECIPES['laptop'], model, pretrained=pretrained, seed=0, output=output, name=model,
                overwrite=True)
        found.append((name if pretrained else name + RANDOM, output / model))
        make_artifact(output / model, str(judged), advance)
        advance(name, 1)
    return found


def segmenters(output: Path, advance: Callable[[str, int], None]) -> List[Tuple[str, Path]]:
    """The same of segmentation networks."""
    found: List[Tuple[str, Path]] = []
    for name, architecture in DECODERS.items():
        for encoder in ENCODERS:
            folder = output / f'{architecture}-{encoder}'
            if not RunFolder(folder).metrics.exists():
                advance(f'training {name}, {encoder}', 0)
                train(
                    architecture, import_module(f'seg_demos.{architecture}').build, str(nuclei()),
                    SegmentationRecipe(), encoder, seed=0, output=output, name=folder.name, overwrite=True)
            found.append((f'{name}, {encoder}', folder))
            make_artifact(folder, None, advance)
            advance(folder.name, 1)
    return found


def artifact_of(folder: Path) -> Path:
    return folder.with_name(f'{folder.name}-artifact')


def make_artifact(folder: Path, data: Optional[str], advance: Callable[[str, int], None]) -> None:
    if is_artifact(artifact_of(folder)):
        return
    result = deploy(
        folder, data, threads=1, output=artifact_of(folder),
        progress=lambda what, done, total: advance(f'{folder.name}: {what} {done}/{total or "?"}', 0))
    write_text(folder.with_name(f'{folder.name}-candidates.json'), json.dumps(dataclasses.asdict(result), indent=2))


def config_of(run: Path) -> Dict[str, Any]:
    config: Dict[str, Any] = json.loads((artifact_of(run) / 'config.json').read_text(encoding='utf-8'))
    return config


def network_files(run: Path) -> List[Path]:
    return [
        file for file in sorted(artifact_of(run).iterdir())
        if file.name not in ('config.json', 'artifact.py', 'checksums.sha256')]


def measure(
        runs: Sequence[Tuple[str, Path]], threads: int, work: Path, advance: Callable[[str, int], None],
) -> Tuple[Dict[str, Speed], Speed]:
    """All artifacts and the first run in eager PyTorch in turns: their figures by name, and its own."""
    cases: List[Tuple[Subject, Case]] = []
    for name, run_folder in runs:
        config = config_of(run_folder)
        height, width = config['measured']['input_size']
        case = measured_case(
            name, config['target'], config['precision'], network_files(run_folder), config['task'], (height, width),
            threads, work / f'{threads}-{len(cases)}')
        assert case is not None
        cases.append(case)
    height, width = config_of(runs[0][1])['measured']['input_size']
    eager, speeds = measure_cases(
        runs[0][1], (height, width), threads, cases, work / f'threads-{threads}', PLAN,
        lambda what, done, total: advance(f'{threads} threads: {what} {done}/{total or "?"}', 0))
    return speeds, eager


def rows_of(runs: Sequence[Tuple[str, Path]], speeds: Dict[int, Dict[str, Speed]]) -> List[Row]:
    rows: List[Row] = []
    for name, folder in runs:
        config = config_of(folder)
        found, ratio = config['verification'], config['measured']['ratio']
        rows.append(Row(
            name, str(folder), str(artifact_of(folder)), found['score'], found['score_of_pytorch'],
            found['pictures'], config['runtime'], config['precision'],
            sum(file.stat().st_size for file in network_files(folder)),
            None if ratio is None else 1 / ratio['median'], {count: of[name] for count, of in speeds.items()}))
    return rows


def table(rows: Sequence[Row], metric: str, eager: Dict[int, Speed], eager_name: str) -> str:
    head = [
        'network', f'{metric} of PyTorch, deployed, %', 'deployed as', 'file, MB',
        *(f'p50, ms, {count} thread{"s" if count > 1 else ""}' for count in THREADS), 'process, MB',
        'its own eager time / its time', f'its time / eager {eager_name}']
    lines = [[
        row.name, f'{100 * row.score_of_pytorch:.1f}, {100 * row.score:.1f}', f'{row.runtime} {row.precision}',
        f'{row.file_bytes / 1e6:.2f}', *(milliseconds(row.speeds[count]) for count in THREADS),
        megabytes(row.speeds[1]), '-' if row.ratio is None else f'{row.ratio:.1f}', str(row.speeds[1].ratio or '-')]
        for row in rows]
    lines.append([
        f'{eager_name}, eager PyTorch', '', 'PyTorch fp32', '', *(milliseconds(eager[count]) for count in THREADS),
        megabytes(eager[1]), '1.0', '1'])
    return markdown_table([head, *lines])


def milliseconds(found: Speed) -> str:
    return '-' if found.p50 is None else f'{1e3 * found.p50:.2f}{scatter_mark(found.verdict)}'


def megabytes(found: Speed) -> str:
    return '-' if found.memory is None else f'{found.memory / 1e6:.0f}'


def pareto(rows: Sequence[Row]) -> List[Row]:
    """What nothing else is as fast and as accurate as, the fastest first; without what began at random."""
    timed = [
        (row.speeds[1].p50, -row.score, row) for row in rows
        if row.speeds[1].p50 is not None and not row.name.endswith(RANDOM)]
    front: List[Row] = []
    for *_, row in sorted(timed, key=lambda one: one[:2]):
        if not front or row.score > front[-1].score:
            front.append(row)
    return front


def draw(rows: Sequence[Row], file: Path) -> None:
    """Accuracy over latency, with the Pareto front."""
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5.5), layout='constrained')
    places = {row.name: (1e3 * (row.speeds[1].p50 or float('nan')), 100 * row.score) for row in rows}
    front = pareto(rows)
    axes.plot(
        *zip(*(places[row.name] for row in front), strict=True), 'o-', color='tab:green', markersize=18, zorder=1,
        markerfacecolor='none', label='Pareto front (of what starts from ImageNet)')
    for row in rows:
        x, y = places[row.name]
        interval = wilson_interval(round(row.score * row.pictures), row.pictures)
        axes.errorbar(x, y, [[y - 100 * interval.low], [100 * interval.high - y]], color='lightgrey', zorder=0)
        axes.scatter(
            x, y, 25 * row.file_bytes / 1e6, zorder=2, edgecolors='black',
            facecolors='none' if row.name.endswith(RANDOM) else 'tab:blue', alpha=0.8)
    slowest = max((x for x, _ in places.values() if x == x), default=1)
    axes.set_xlim(0, 1.5 * slowest)
    figure.draw_without_rendering()  # settles where the axes and their limits are
    taken: List[Tuple[float, float]] = []
    for row in sorted(rows, key=lambda one: places[one.name]):
        x, y = places[row.name]
        across, up = axes.transData.transform((x, y)).tolist()
        while any(abs(across - x2) < 125 and abs(up - y2) < 26 for x2, y2 in taken):  # points of the screen
            up -= 13
        taken.append((across, up))
        axes.annotate(
            f'{row.name}\n{row.precision}, {row.file_bytes / 1e6:.1f} MB', (x, y),
            (12, (up - axes.transData.transform((x, y))[1]) * 72 / figure.dpi - 6), fontsize=8,
            textcoords='offset points')
    axes.set_xlabel('median latency of one picture at one thread, ms')
    axes.set_ylabel(f'accuracy on {rows[0].pictures} pictures of solar cells, %')
    axes.set_title('Deployed networks; area: size of file; hollow: from random weights; bars: 95 %', fontsize=10)
    axes.legend(loc='lower left')
    figure.savefig(file, dpi=130)
    plt.close(figure)


def main(
        output: Annotated[Path, typer.Option(help='Folder of runs and artifacts; kept, so that a run can go on.')],
        json_file: Annotated[
            Optional[Path], typer.Option('--json', help='Write all figures here.', callback=in_existing_folder)] = None,
        chart: Annotated[
            Optional[Path], typer.Option(help='Draw accuracy over latency here.', callback=in_existing_folder)] = None,
) -> None:
    """Train, deploy and measure."""
    output.mkdir(parents=True, exist_ok=True)
    everything: Dict[str, Any] = {'environment': environment(), 'machine': machine(), 'threads': THREADS}
    steps = len(CLASSIFIERS) + len(DECODERS) * len(ENCODERS) + 2 * len(THREADS)
    with TemporaryDirectory() as temporary, progress_bar(steps) as advance:
        for title, make, metric, eager_name in (
                ('Solar cells', classifiers, 'accuracy', 'Res-SqueezeNet'),
                ('Nuclei, 256 x 256 pixels', segmenters, 'mean IoU', 'U-Net, res_squeezenet')):
            runs = make(output, advance)
            work = Path(temporary) / metric
            work.mkdir()
            speeds: Dict[int, Dict[str, Speed]] = {}
            eager: Dict[int, Speed] = {}
            for count in THREADS:
                speeds[count], eager[count] = measure(runs, count, work, advance)
                advance(f'{count} threads', 1)
            rows = rows_of(runs, speeds)
            print(f'\n**{title}**; {rows[0].pictures} pictures\n\n{table(rows, metric, eager, eager_name)}')
            print('\n'.join(
                f'{row.name}, {count} threads: could not be measured.' for row in rows for count in THREADS
                if row.speeds[count].p50 is None))
            everything[title] = {
                'rows': [dataclasses.asdict(row) for row in rows],
                'eager': {count: dataclasses.asdict(found) for count, found in eager.items()}}
            if json_file is not None:
                write_text(json_file, json.dumps(everything, indent=2) + '\n')
            if metric == 'accuracy' and chart is not None:
                draw(rows, chart)
    print(f'p50: median of one picture; {SCATTER_MARKS}. process: peak of the whole process at one thread. The last '
          'column: median ratio with its 95 % interval.')


if __name__ == '__main__':
    run(main)

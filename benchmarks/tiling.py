"""Memory that segmenting a picture takes, in tiles and as a whole, by the picture's size."""
import json as json_format
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Dict, List, Optional, Tuple

import numpy as np
import torch
import typer
from measuring import NO_PEAK_MEMORY, environment, result_and_peak_memory, set_threads
from printing import in_existing_folder, markdown_table, progress_bar, run

import rsq_backbone  # noqa: F401  registers
from rsq_backbone.files import write_text
from rsq_backbone.profiler.load import LoadWatch, disturbances
from rsq_backbone.profiler.process_memory import resident
from rsq_backbone.profiler.profile import Load
from seg_demos import unet
from seg_demos.tiling import segment

TILE, OVERLAP = 1024, 256
CONFIG = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Result:
    """One picture, in a process of its own. Memory is what segmenting adds, the mask included."""

    side: int
    tiles: int  # 1 where the whole picture goes through the network at once
    memory_bytes: int
    picture_bytes: int
    mask_bytes: int
    seconds: float


@dataclass
class Report:
    settings: Dict[str, Any]
    environment: Dict[str, Any]
    results: List[Result]
    load: Load


def segment_in_fresh_process(side: int, tile: int, classes: int, threads: int) -> Tuple[int, int, int, float]:
    """Resident bytes before segmenting, bytes of the mask, tiles and seconds."""
    set_threads(threads)
    torch.manual_seed(0)
    model = unet.build('res_squeezenet', None, classes)
    model.eval().to(memory_format=torch.channels_last)
    # Repeated, so that making the picture takes no more memory than the picture.
    patch = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    picture = np.tile(patch, (-(-side // 256), -(-side // 256), 1))[:side, :side]
    tiles = 0

    def count(what: str, done: int, total: Optional[int]) -> None:
        nonlocal tiles
        tiles = done

    before = resident()
    start = time.perf_counter()
    mask = segment(model, picture, CONFIG, tile, OVERLAP, progress=count)
    return before, mask.nbytes, tiles, time.perf_counter() - start


def measure(side: int, tile: int, classes: int, threads: int) -> Result:
    (before, mask_bytes, tiles, seconds), peak = result_and_peak_memory(
        segment_in_fresh_process, side, tile, classes, threads)
    return Result(side, tiles, peak - before, 3 * side ** 2, mask_bytes, seconds)


def table(results: List[Result]) -> str:
    rows = [['picture', 'tiles', 'memory', 'picture itself', 'mask itself', 'seconds']]
    for r in results:
        rows.append([
            f'{r.side} x {r.side}', 'whole' if r.tiles == 1 else str(r.tiles), f'{r.memory_bytes / 1e6:.0f} MB',
            f'{r.picture_bytes / 1e6:.1f} MB', f'{r.mask_bytes / 1e6:.1f} MB', f'{r.seconds:.1f}'])
    return markdown_table(rows)


def main(
        side: Annotated[Optional[List[int]], typer.Option(
            help='Of a square picture; may be given several times.')] = None,
        whole: Annotated[int, typer.Option(help='Up to this side also as a whole, which 2048 needs 2 GB for.')] = 2048,
        classes: Annotated[int, typer.Option(min=2, max=255)] = 2,
        threads: Annotated[int, typer.Option(min=1)] = 2,
        json: Annotated[Optional[Path], typer.Option(
            callback=in_existing_folder, help='Also write everything to this file.')] = None,
) -> None:
    """Memory that segmenting a picture takes, in tiles of 1024 pixels and as a whole.

    The network is a U-Net on res_squeezenet. Each picture is segmented in a fresh process, and its memory is the
    peak less what the process held before, which is network and picture; the mask counts. Times are of one call each.

    Example: OMP_NUM_THREADS=2 python benchmarks/tiling.py --json tiling.json
    """
    if NO_PEAK_MEMORY:
        sys.exit(f'This needs the peak memory of a process: {NO_PEAK_MEMORY}.')
    sides = side or [512, 1024, 2048, 4096, 8192]
    # What fits into a tile is not cut, so it is a whole already.
    cases = [(s, TILE) for s in sides] + [(s, -(-s // 32) * 32) for s in sides if TILE < s <= whole]
    watch = LoadWatch()
    results = []
    with progress_bar(sum(s ** 2 for s, _ in cases)) as advance:
        for s, tile in cases:
            advance(f'{s} x {s}', 0)
            results.append(measure(s, tile, classes, threads))
            advance(f'{s} x {s}', s ** 2)
    report = Report({'tile': TILE, 'overlap': OVERLAP, 'classes': classes, 'threads': threads}, environment(), results,
                    watch.lap())
    print(table(results))
    noticed = '; '.join(disturbances([report.load]))
    print(f'\n{classes} classes, {threads} threads, {report.environment["cpu"]}. {noticed}'.rstrip())
    if json is not None:
        write_text(json, json_format.dumps(asdict(report), indent=2) + '\n')


if __name__ == '__main__':
    run(main)

"""Pictures and videos one by one through a trained segmentation network."""
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image

from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import whole_file
from rsq_backbone.images import ImageError, list_images, read_image
from rsq_backbone.progress import Progress, silent
from seg_demos.overlays import overlay, palette
from seg_demos.tiling import check_tiles, segment
from seg_demos.trained import Trained
from seg_demos.video import VIDEO_SUFFIXES, opened_video, video_writer

__all__ = ['Segmented', 'find_files', 'segment_files']

_JPEG_SIDE = 65_500  # pixels, at most


@dataclass(frozen=True)
class Segmented:
    """One picture or video."""

    path: str
    width: int
    height: int
    frames: int  # 1 of a picture
    mask: Optional[str]  # file; None of a video
    overlay: str  # file
    seconds: float  # from reading to written files
    shares: Dict[str, float]  # of all pixels, by class


def find_files(sources: Sequence[Path]) -> List[Path]:
    """Each file once, and the pictures that lie directly in folders.

    Raises:
        UserError: if a folder cannot be read, or there is no picture at all.
    """
    try:
        found = [file for source in sources for file in (list_images(source) if source.is_dir() else [source])]
    except OSError as e:
        raise UserError(f'{e.filename} cannot be read ({e.strerror}); check its permissions.') from e
    if not found:
        raise UserError(
            f'{", ".join(map(str, sources))}: no pictures directly in there; name pictures or folders that hold some.')
    unique: Dict[Path, Path] = {}
    for file in found:
        unique.setdefault(file.resolve(), file)
    return list(unique.values())


def segment_files(
        trained: Trained, files: Sequence[Path], output: Path, tile: int = 1024,
        overlap: Optional[int] = None, progress: Progress = silent,
) -> Tuple[List[Segmented], List[UserError]]:
    """Segment pictures and videos of any size.

    A picture NAME gives NAME-mask.png, whose pixel values are class numbers with a palette, and NAME-overlay.jpg; a
    video gives NAME-overlay.mp4 without sound. Of files of one name, the second's are called NAME-2, and so on. Files
    that are there already are replaced, but never one of `files`.

    Args:
        trained: Of `seg_demos.trained.load`.
        files: Pictures and videos, told apart by their suffixes.
        output: Folder of the results, which is made.
        tile: Side of the tiles that larger pictures are cut into, in pixels; a multiple of the network's stride.
        overlap: Pixels that neighbouring tiles share; a multiple of it, and less than half a tile. By default a
            quarter.

    Returns:
        What was segmented, in the order of `files`, and what is wrong with the others.

    Raises:
        UserError: if tile and overlap do not fit, or the results cannot be written.
    """
    if overlap is None:
        overlap = -(-tile // (4 * trained.stride)) * trained.stride
    check_tiles(tile, overlap, trained.stride)
    results: List[Segmented] = []
    bad: List[UserError] = []
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
        targets = _targets(files, output)
        for done, (file, (mask_file, overlay_file)) in enumerate(zip(files, targets, strict=True)):
            if len(files) > 1:
                progress('segmenting, files', done, len(files))
            start = time.perf_counter()
            mask = _Masks(trained, tile, overlap, progress)
            try:
                if _is_video(file):
                    _video(file, mask, overlay_file)
                else:
                    _picture(file, mask, mask_file, overlay_file)
            except UserError as e:
                bad.append(e)
                continue
            results.append(Segmented(
                str(file), *mask.size, mask.count, None if _is_video(file) else str(mask_file), str(overlay_file),
                time.perf_counter() - start, mask.shares()))
    if len(files) > 1:
        progress('segmenting, files', len(files), len(files))
    return results, bad


class _Masks:
    """Makes masks of pictures or frames and counts their pixels."""

    def __init__(self, trained: Trained, tile: int, overlap: int, progress: Progress) -> None:
        self.trained = trained
        self.progress = progress
        self.size = 0, 0  # width and height of the last
        self.count = 0
        self._tile = tile
        self._overlap = overlap
        self._pixels = np.zeros(256, np.int64)  # by class

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        trained = self.trained
        mask = segment(
            trained.network, picture, trained.config, self._tile, self._overlap, trained.stride, self.progress)
        self.size = picture.shape[1], picture.shape[0]
        self.count += 1
        self._pixels += Image.fromarray(mask).histogram()
        return mask

    def shares(self) -> Dict[str, float]:
        counts = self._pixels.tolist()
        return {name: count / sum(counts) for name, count in zip(self.trained.classes, counts, strict=False)}


def _picture(file: Path, to_mask: _Masks, mask_file: Path, overlay_file: Path) -> None:
    picture = np.asarray(read_image(file))
    mask = to_mask(picture)
    indices = Image.fromarray(mask)
    indices.putpalette([value for colour in palette(len(to_mask.trained.classes)) for value in colour])
    tinted = Image.fromarray(overlay(picture, mask))
    tinted.thumbnail((_JPEG_SIDE, _JPEG_SIDE))
    with whole_file(mask_file) as mask_part, whole_file(overlay_file) as overlay_part:
        indices.save(mask_part)
        tinted.save(overlay_part, quality=90)


def _video(file: Path, to_mask: _Masks, overlay_file: Path) -> None:
    what = f'{file.name}, frames'
    with opened_video(file) as video:
        with whole_file(overlay_file) as part, video_writer(part, video.fps, file) as write:
            for frame in video.frames:
                write(overlay(frame, to_mask(frame)))
                to_mask.progress(what, to_mask.count, video.count)
            if not to_mask.count:
                raise ImageError(f'{file}: no frame of this video can be decoded; copy or download it again.')
        to_mask.progress(what, to_mask.count, to_mask.count)
        if video.count is not None and to_mask.count < 0.9 * video.count:
            raise ImageError(
                f'{file}: damaged after {to_mask.count} of {video.count} frames; {overlay_file} ends there.')


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def _targets(files: Sequence[Path], output: Path) -> List[Tuple[Path, Path]]:
    """Mask and overlay of each file."""
    inputs = {(stat.st_dev, stat.st_ino) for stat in (file.stat() for file in files if file.exists())}
    taken: Set[str] = set()
    targets = []
    for file in files:
        names = chain([file.stem], (f'{file.stem}-{number}' for number in count(2)))
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        target = output / f'{name}-mask.png', output / f'{name}-overlay{".mp4" if _is_video(file) else ".jpg"}'
        for path in target:
            if path.exists() and (path.stat().st_dev, path.stat().st_ino) in inputs:
                raise UserError(f'{path} is one of the pictures and would be overwritten; choose another --out.')
        targets.append(target)
    return targets


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UserError(
            f'{e.filename or output} cannot be written ({e.strerror or one_line(e)}); make room, or choose another '
            '--out.') from e

"""Videos as pictures one after another, read and written by OpenCV."""
import math
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Tuple

import numpy as np

from rsq_backbone.errors import UserError
from rsq_backbone.images import ImageError

__all__ = ['VIDEO_SUFFIXES', 'Video', 'opened_video', 'video_writer']

VIDEO_SUFFIXES = frozenset({
    '.3gp', '.avi', '.flv', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv', '.ts', '.webm', '.wmv'})
_USUAL_FPS = 25.0
_FASTEST_FPS = 1000.0
_MPEG4_TICKS = 65535  # what the format has for a second, times the digits that a rate needs


@dataclass(frozen=True)
class Video:
    frames: Iterator[np.ndarray]  # RGB, (H, W, 3) uint8 each, upright
    fps: float  # the average where it varies
    count: Optional[int]  # of frames, as the file says, which may be off by a few; None where it does not say


@contextmanager
def opened_video(path: Path) -> Iterator[Video]:
    """A video to go through once.

    Raises:
        ImageError: if the file is missing or cannot be decoded.
    """
    if not path.is_file():
        raise ImageError(f'{path}: no such file; check the path.')
    cv2 = _quiet_cv2()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise ImageError(f'{path}: not a video, damaged, or of a kind not known here; convert it to MP4.')
        fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        yield Video(
            _frames(cv2, capture), fps if 0 < fps <= _FASTEST_FPS else _USUAL_FPS, int(count) if count > 0 else None)
    finally:
        capture.release()


def _frames(cv2: Any, capture: Any) -> Iterator[np.ndarray]:
    while True:
        found, frame = capture.read()
        if not found:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


@contextmanager
def video_writer(path: Path, fps: float, source: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes RGB frames (H, W, 3) uint8, all of one size, to an MPEG-4 video without sound.

    The format has even sides only: of odd ones the last row or column is left out.

    Args:
        path: Of the video.
        fps: Frames a second.
        source: What the frames come from, for errors.

    Raises:
        UserError: if frames are of several sizes, or the video cannot be written.
    """
    cv2 = _quiet_cv2()
    rate = round(fps, int(math.log10(_MPEG4_TICKS / fps)))
    writer: Any = None
    size: Tuple[int, int] = (0, 0)
    written = 0

    def write(frame: np.ndarray) -> None:
        nonlocal writer, size, written
        height, width = frame.shape[:2]
        if writer is None:
            size = width, height
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*'mp4v'), rate, size)
            if not writer.isOpened():
                raise UserError(f'{source}: no video of {width} x {height} pixels can be written; scale it to 4096.')
        if (width, height) != size:  # OpenCV would pass over it without a word
            raise UserError(f'{source}: frame {written + 1} is of another size than the first; convert it to one size.')
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        written += 1

    try:
        yield write
    finally:
        if writer is not None:
            writer.release()
    if writer is not None:
        with opened_video(path) as video:  # OpenCV is silent about a full disk, too
            if video.count != written:
                raise UserError(f'{source}: its overlay was not written whole; make room on the disk.')


def _quiet_cv2() -> Any:
    """OpenCV, which else writes to standard error what is told here as an exception."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2

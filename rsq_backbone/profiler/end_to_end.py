"""The whole path that a picture takes on a small machine, from the bytes of its file to the classes."""
from typing import Any, Callable, Sequence

import cv2
import numpy as np

__all__ = ['end_to_end', 'jpeg']

WIDTH, HEIGHT = 640, 480  # of the file, as a plain camera makes it
_MEAN, _STD = (np.array(v, np.float32) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def jpeg(seed: int) -> bytes:
    """A file as a photograph's: large shapes, some grain, 640 x 480, quality 90."""
    random = np.random.default_rng(seed)
    shapes = cv2.resize(random.uniform(0, 255, (6, 8, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    picture = (shapes + random.normal(0, 6, shapes.shape)).clip(0, 255).astype(np.uint8)
    return cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def end_to_end(runtime: Any, shape: Sequence[int], seed: int) -> Callable[[], None]:
    """A call that decodes, resizes, normalises, infers and takes the largest class, of (N, 3, H, W) pictures.

    The file is in memory; what a disk takes is another question.
    """
    batch, _, height, width = shape
    data = np.frombuffer(jpeg(seed), np.uint8)

    def call() -> None:
        pictures = np.empty((batch, height, width, 3), np.float32)
        for picture in pictures:
            decoded = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
            assert decoded is not None
            picture[...] = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_AREA)
        pictures -= _MEAN
        pictures /= _STD
        runtime.bind([np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))])
        runtime.run()
        for output in runtime.outputs():
            output.argmax(1)

    return call

"""Runs an artifact of `rsq deploy` by numpy, OpenCV and the artifact's own runtime, without PyTorch.

It imports nothing of rsq_backbone: each artifact holds a copy of this file, by which the folder runs wherever it is
copied to.

    python artifact/artifact.py photo.jpg   (--help tells where masks go)

    from artifact import load, read_picture
    load('artifact').classify(read_picture('photo.jpg'))
"""
import argparse
import functools
import hashlib
import importlib
import io
import json
import os
import re
import struct
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple, Union

import cv2
import numpy as np

__all__ = ['Artifact', 'ArtifactError', 'load', 'read_picture', 'segment_in_tiles']

FORMAT = 1
CONFIG, CHECKSUMS = 'config.json', 'checksums.sha256'
_MAX_TEXT = 16 << 20  # bytes of either of the two
_MAX_FILE = 200 << 20  # bytes of a picture's file
_MAX_PIXELS = 100_000_000  # a small file may be a picture of many gigabytes
_MAX_ASPECT = 50  # the shorter side is scaled to the network's input, and the longer grows with it
_OF_NETWORKS = ('.bin', '.data', '.onnx', '.param', '.pt2', '.xml')
_KEYS: Dict[str, Any] = {
    'task': str, 'model': str, 'classes': list, 'preprocessing': dict, 'size_multiple': int, 'target': str,
    'runtime': str, 'runtime_version': str, 'precision': str}


class ArtifactError(ValueError):
    """Says in one line what is wrong with an artifact or a picture, and how to mend it."""


class Artifact:
    """A classifier or a segmentation network, ready to run.

    `classes` are in the order of the network's outputs, `config` is what config.json says.
    """

    def __init__(self, folder: Path, config: Dict[str, Any], run: Callable[[np.ndarray], np.ndarray]) -> None:
        self.folder = folder
        self.config = config
        self.task: str = config['task']
        self.classes: Tuple[str, ...] = tuple(config['classes'])
        self._run = run
        preprocessing = config['preprocessing']
        self._mean, self._std = (np.array(preprocessing[key], np.float32) for key in ('mean', 'std'))

    def preprocess(self, picture: np.ndarray) -> np.ndarray:
        """What the network takes of a picture: (H, W, 3) uint8 RGB -> (1, 3, h, w) float32.

        For a classifier resized and cropped as for its training, for a segmentation network extended at the right and
        the lower edge to sides that it can take.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ArtifactError(f'a picture is (H, W, 3) uint8 RGB, not {picture.shape} {picture.dtype}.')
        if self.task == 'classification':
            sides = picture.shape[:2]
            if max(sides) > _MAX_ASPECT * min(sides):
                raise ArtifactError(
                    f'too narrow ({sides[1]} x {sides[0]} pixels); crop the picture to at most {_MAX_ASPECT} : 1.')
            picture = _resize_and_crop(picture, self.config['preprocessing'])
        else:
            height, width = (_up(size, self.config['size_multiple']) for size in picture.shape[:2])
            picture = _extend(picture, height, width)
        return np.ascontiguousarray(_normalised(picture, self._mean, self._std))

    def run(self, batch: np.ndarray) -> np.ndarray:
        """(N, 3, h, w) float32 -> logits (N, classes) or (N, classes, h, w).

        Raises:
            ArtifactError: if the network is not for pictures of this size, the runtime fails on them, or they give no
                logits.
        """
        size = tuple(self.config['preprocessing']['input_size'])
        segments = self.task == 'segmentation'
        if segments and not self.config.get('dynamic_size', True) and batch.shape[2:] != size:
            raise ArtifactError(f'{self.folder} is for pictures of {size[1]} x {size[0]} pixels only; resize them.')
        try:
            logits = np.concatenate([self._run(batch[i:i + 1]) for i in range(len(batch))])
        except ArtifactError:
            raise
        except Exception as e:  # each runtime raises what it likes
            raise ArtifactError(
                f'{self.config["runtime"]} cannot run {self.folder} on a picture of {batch.shape[3]} x '
                f'{batch.shape[2]} ({_one_line(e)}); try another size.') from e
        expected = (len(batch), len(self.classes), *(batch.shape[2:] if segments else ()))
        if logits.shape != expected or not np.isfinite(logits).all():
            raise ArtifactError(
                f'{self.folder}: the network gives no logits of {len(self.classes)} classes; deploy again.')
        return logits

    def classify(self, picture: np.ndarray) -> np.ndarray:
        """Probability of each class, (classes,) float32, of a picture (H, W, 3) uint8 RGB."""
        logits = self.run(self.preprocess(picture))[0]
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()

    def segment(self, picture: np.ndarray) -> np.ndarray:
        """The class of each pixel, (H, W) uint8, of a picture (H, W, 3) uint8 RGB; larger ones are cut into tiles."""
        multiple = self.config['size_multiple']
        tile, overlap = (_up(side, multiple) for side in (1024, 256))
        return segment_in_tiles(
            lambda x: self.run(np.ascontiguousarray(x)), picture, self._mean, self._std, tile, overlap, multiple)


def load(folder: Union[str, Path], threads: Optional[int] = None, *, allow_code: bool = False) -> Artifact:
    """Check an artifact and make it ready.

    Args:
        folder: Of `rsq deploy`.
        threads: For the work inside one operation; by default as many as the process may use cores.
        allow_code: Also open an artifact of the target torch-export, whose .pt2 file can run any code of its maker.

    Raises:
        ArtifactError: if the folder is no artifact, damaged or changed, its runtime is missing or too old, or it could
            run code and that is not allowed.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if config['runtime'] in _EXECUTING and not allow_code:
        raise ArtifactError(
            f'{folder} is a PyTorch program, which can run any code of its maker; if you trust it, allow that with '
            'allow_code=True (--allow-code).')
    files = _check_files(folder)
    _check_runtime(config['runtime'], config['runtime_version'])
    try:
        run = _RUNTIMES[config['runtime']][1](folder, config, files, threads or _usable_cores())
    except ArtifactError:
        raise
    except Exception as e:  # each runtime raises what it likes
        raise ArtifactError(f'{config["runtime"]} cannot load {folder} ({_one_line(e)}); deploy again.') from e
    return Artifact(folder, config, run)


def read_picture(file: Union[str, Path]) -> np.ndarray:
    """A JPEG, PNG, WebP or BMP as (H, W, 3) uint8 RGB, upright; transparency is laid on white, 16 bits scaled to 8.

    Raises:
        ArtifactError: if there is no such picture, or it is too large.
    """
    file = Path(file)
    try:
        if file.exists() and not file.is_file():  # a pipe would keep its reader waiting
            raise ArtifactError(f'{file}: not a file; name pictures.')
        if file.stat().st_size > _MAX_FILE:
            raise ArtifactError(f'{file}: more than {_MAX_FILE >> 20} MB; scale it down first.')
        data = file.read_bytes()
    except OSError as e:
        raise ArtifactError(f'{file}: cannot be read ({e.strerror}); check the path.') from None
    try:
        width, height = _size_in_header(data)
        if width * height > _MAX_PIXELS:
            raise ArtifactError(f'{file}: more than {_MAX_PIXELS // 1_000_000} million pixels; scale it down first.')
        picture = _decode(np.frombuffer(data, np.uint8))
    except (ValueError, IndexError, struct.error, cv2.error) as e:
        if isinstance(e, ArtifactError):
            raise
        raise ArtifactError(f'{file}: not a JPEG, PNG, WebP or BMP, or damaged; save it as JPEG or PNG.') from None
    return _to_rgb(picture)


def _size_in_header(data: bytes) -> Tuple[int, int]:
    """Width and height, before anything is decoded.

    Raises:
        ValueError, IndexError or struct.error: if there are none.
    """
    if data[:8] == b'\x89PNG\r\n\x1a\n' and data[12:16] == b'IHDR':
        return struct.unpack('>II', data[16:24])
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        if data[12:16] == b'VP8X':
            return 1 + int.from_bytes(data[24:27], 'little'), 1 + int.from_bytes(data[27:30], 'little')
        if data[12:16] == b'VP8L':
            bits, = struct.unpack('<I', data[21:25])
            return 1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff)
        width, height = struct.unpack('<HH', data[26:30])
        return width & 0x3fff, height & 0x3fff
    if data[:2] == b'BM':
        old = data[14:18] == b'\x0c\0\0\0'
        width, height = struct.unpack('<HH' if old else '<ii', data[18:22 if old else 26])
        return abs(width), abs(height)  # a negative height: the rows begin at the top
    if data[:2] != b'\xff\xd8':
        raise ValueError('no JPEG')
    place = 2
    while True:
        if data[place] != 0xff:
            raise ValueError('no marker of JPEG')
        marker = data[place + 1]
        if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):  # start of a frame
            height, width = struct.unpack('>HH', data[place + 5:place + 9])
            return width, height
        if marker == 0xff:  # filling
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2:place + 4], 'big')


def _decode(data: np.ndarray) -> np.ndarray:
    """Raises a ValueError or cv2.error if that cannot be done."""
    is_jpeg = data[:2].tobytes() == b'\xff\xd8'
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR if is_jpeg else cv2.IMREAD_UNCHANGED)
    if picture is not None and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3:
        # OpenCV turns pictures as their EXIF tag says only where it makes them 8-bit BGR.
        picture = picture if is_jpeg else cv2.imdecode(data, cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError('cannot be decoded')
    return picture


def _to_rgb(picture: np.ndarray) -> np.ndarray:
    """What OpenCV decoded: grey, BGR or BGRA, of 8 or 16 bits."""
    if picture.dtype == np.uint16:
        picture = (picture.astype(np.float32) * (255 / 65535) + 0.5).astype(np.uint8)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[2] in (2, 4):
        share = picture[..., -1:].astype(np.float32) / 255
        picture = (picture[..., :-1] * share + 255 * (1 - share) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(picture[..., ::-1] if picture.shape[2] == 3 else picture.repeat(3, 2))


# ---- preprocessing, as timm's and Pillow's to a grey level ----

def _normalised(picture: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32, stored as the picture was."""
    return ((picture.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]


def _resize_and_crop(picture: np.ndarray, preprocessing: Dict[str, Any]) -> np.ndarray:
    height, width = preprocessing['input_size']
    tall, wide = (int(side / preprocessing['crop_pct']) for side in (height, width))
    if preprocessing['crop_mode'] != 'squash':  # scales the shorter side, and cuts from the longer
        rows, columns = picture.shape[:2]
        shorter = tall
        tall, wide = (
            (shorter, int(shorter * columns / rows)) if rows <= columns else (int(shorter * rows / columns), shorter))
    kernel, support = _KERNELS[preprocessing['interpolation']]
    picture = _resample(picture, wide, kernel, support)
    picture = _resample(picture.swapaxes(0, 1), tall, kernel, support).swapaxes(0, 1)
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    return picture[top:top + height, left:left + width]


def _resample(
        picture: np.ndarray, length: int, kernel: Callable[[np.ndarray], np.ndarray], support: float) -> np.ndarray:
    """(H, W, C) -> (H, length, C) as Pillow does it: a kernel as wide as a new pixel, in its fixed-point numbers.

    Whole pictures come out as Pillow's to a grey level: it may begin with the columns and not with the rows.
    """
    width = picture.shape[1]
    if width == length:
        return picture
    scale = width / length
    stretch = max(scale, 1.0)
    centres = (np.arange(length) + 0.5) * scale
    first = np.maximum(centres - support * stretch + 0.5, 0).astype(int)
    last = np.minimum(centres + support * stretch + 0.5, width).astype(int)
    out = np.empty((picture.shape[0], length, picture.shape[2]), np.uint8)
    for start in range(0, length, 16):
        some = slice(start, start + 16)
        places = np.arange(first[some][0], last[some][-1])[:, None]
        weights = kernel((places - centres[some] + 0.5) / stretch)
        weights[(places < first[some]) | (places >= last[some])] = 0
        # Whole numbers, of which float64 adds up all exactly; away from zero where they are halves, as C casts.
        weights = weights / weights.sum(0) * (1 << 22)
        weights = np.trunc(weights + np.copysign(0.5, weights))
        part = picture[:, places[0, 0]:places[-1, 0] + 1].astype(np.float64)
        sums = np.floor((part.swapaxes(1, 2) @ weights + (1 << 21)) / (1 << 22))
        out[:, some] = sums.clip(0, 255).swapaxes(1, 2)
    return out


def _bicubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.5, np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


_KERNELS: Dict[str, Tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    'bicubic': (_bicubic, 2.0), 'bilinear': (_bilinear, 1.0)}


# ---- pictures of any size through a segmentation network ----

def segment_in_tiles(
        model: Callable[[np.ndarray], np.ndarray], picture: np.ndarray, mean: np.ndarray, std: np.ndarray, tile: int,
        overlap: int, stride: int, progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """The class of each pixel: of small pictures as a whole, else of overlapping tiles.

    Tiles lie on a grid of the network's stride, so that each of its positions sees the same pixels as it would in the
    whole picture. What a tile shares with its neighbours is kept until they come, so that memory grows with the
    picture's width and not with its area.

    Args:
        model: (1, 3, h, w) float32 -> logits (1, classes, h, w).
        picture: RGB, (H, W, 3) uint8, of any size.
        mean: Of the input, (3,) shares of white.
        std: The same.
        tile: Side of the tiles in pixels, at most, a multiple of the stride; what fits into one is not cut.
        overlap: Pixels that neighbouring tiles share, a multiple of the stride and less than half a tile. In the outer
            quarter of it a tile does not count, because the network sees no surroundings there; across the middle one
            tile fades into the other.
        stride: What the network's height and width have to be multiples of.
        progress: Told how many tiles of how many are done.

    Returns:
        (H, W) uint8, indices of classes.
    """
    height, width = picture.shape[:2]
    (rows, tall), (columns, wide) = (_grid(size, tile, overlap, stride) for size in (height, width))
    down, across = _fades(rows, tall, overlap), _fades(columns, wide, overlap)
    # How many rows and columns of each tile the one below and the one to the right cover too.
    shared_rows, shared_columns = _shared(rows, tall), _shared(columns, wide)
    mask = np.empty((height, width), np.uint8)
    # Logits, weighted, of the rows that the next strip shares: (classes, rows, width).
    carried = np.zeros((0, 0, 0), np.float32)
    above = done = 0
    for i, top in enumerate(rows):
        below = shared_rows[i]
        beside = np.zeros((0, 0, 0), np.float32)  # the same of the columns that the next tile shares
        for j, left in enumerate(columns):
            part = _extend(picture[top:top + tall, left:left + wide], tall, wide)
            # Of such sums the largest is the mean's largest, so nothing need be divided by the weights.
            sums = model(_normalised(part, mean, std))[0] * (down[i][:, None] * across[j])
            if j > 0:
                sums[..., :beside.shape[2]] += beside
            right = wide - shared_columns[j]
            beside = sums[..., right:].copy()
            sums = sums[..., :right]
            if not carried.size:
                carried = np.zeros((len(sums), max(shared_rows), columns[-1] + wide), np.float32)
            sums[:, :above] += carried[:, :above, left:left + right]
            carried[:, :below, left:left + right] = sums[:, tall - below:]
            place = mask[top:top + tall - below, left:left + right]
            place[...] = sums[:, :place.shape[0], :place.shape[1]].argmax(0)
            done += 1
            progress(done, len(rows) * len(columns))
        above = below
    return mask


def _up(size: int, stride: int) -> int:
    return -(-size // stride) * stride


def _extend(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """At the right and the lower edge, by its last pixels."""
    return np.pad(picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), mode='edge')


def _grid(size: int, tile: int, overlap: int, stride: int) -> Tuple[List[int], int]:
    """Where the tiles begin along one side, and how long they are; the last ends with the extended picture.

    They are shorter than `tile` where as many shorter ones do: a little more than a tile is not twice the work.
    """
    extended = _up(size, stride)
    if extended <= tile:
        return [0], extended
    count = -(-(extended - overlap) // (tile - overlap))
    shortest = -(-(extended + (count - 1) * overlap) // count)
    length = max(_up(shortest, stride), 2 * overlap)
    return [*range(0, extended - length, length - overlap), extended - length], length


def _shared(starts: List[int], length: int) -> List[int]:
    """How much of each tile the next one covers too."""
    return [start + length - following for start, following in pairwise(starts)] + [0]


def _fades(starts: List[int], length: int, overlap: int) -> List[np.ndarray]:
    """How much each place of each tile along one side counts: less towards a neighbour, all of it at the border."""
    middle = np.arange(overlap, dtype=np.float32) + 0.5 - overlap / 4
    rise = (middle / (overlap / 2)).clip(0, 1)
    fades = []
    for i in range(len(starts)):
        fade = np.ones(length, np.float32)
        if i > 0:
            fade[:overlap] = rise
        if i < len(starts) - 1:
            fade[length - overlap:] = rise[::-1]
        fades.append(fade)
    return fades


# ---- what is in the folder ----

def _read_config(folder: Path) -> Dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file() or not (folder / CHECKSUMS).is_file():
        raise ArtifactError(f'{folder} is no artifact ({CONFIG} or {CHECKSUMS} is missing); rsq deploy makes one.')
    try:
        config = json.loads(_read_text(file))
        if config.get('format') != FORMAT:
            raise ArtifactError(
                f'{folder} is of format {config.get("format")!r}, and this reads format {FORMAT}; deploy again, or '
                'update rsq-backbone.')
        wrong = [key for key, kind in _KEYS.items() if not isinstance(config.get(key), kind)]
        if wrong:
            raise ValueError(f'{wrong[0]} is missing or of the wrong kind')
        _check_values(config)
    except ArtifactError:
        raise
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as e:
        raise ArtifactError(f'{file} is damaged ({_one_line(e)}); copy the artifact again.') from e
    return dict(config)


def _check_values(config: Dict[str, Any]) -> None:
    """Raise a ValueError, TypeError or KeyError for what would go wrong later."""
    classes, preprocessing = config['classes'], config['preprocessing']
    if not 1 <= len(classes) <= 100_000 or not all(isinstance(name, str) for name in classes):
        raise ValueError('classes is no list of names')
    if config['task'] not in ('classification', 'segmentation'):
        raise ValueError(f'task is {config["task"]!r}')
    if config['runtime'] not in _RUNTIMES:
        raise ValueError(f'runtime is {config["runtime"]!r}, and may be {", ".join(_RUNTIMES)}')
    if not 1 <= config['size_multiple'] <= 256:
        raise ValueError('size_multiple is out of range')
    sides = preprocessing['input_size']
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= 8192 for side in sides):
        raise ValueError('input_size is no height and width')
    for key in ('mean', 'std'):
        values = preprocessing[key]
        if len(values) != 3 or not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values):
            raise ValueError(f'{key} is no list of three shares')
    if not all(preprocessing['std']):
        raise ValueError('std holds a zero')
    if config['task'] == 'classification':
        if preprocessing['interpolation'] not in _KERNELS or preprocessing['crop_mode'] not in ('center', 'squash'):
            raise ValueError('interpolation or crop_mode is not known')
        if not 0.1 <= preprocessing['crop_pct'] <= 1:
            raise ValueError('crop_pct is out of range')
        if preprocessing['crop_mode'] == 'center' and sides[0] != sides[1]:
            raise ValueError('input_size is not square, and crop_mode is center')
    elif len(classes) > 256:
        raise ValueError('masks are of 256 classes at most')


def _check_files(folder: Path) -> List[str]:
    """The files' names, once all of them have been seen to be what was deployed."""
    names: List[str] = []
    for line in _read_text(folder / CHECKSUMS).splitlines():
        found = re.fullmatch(r'([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_.-]*)', line)
        if found is None:
            raise ArtifactError(f'{folder / CHECKSUMS} is damaged; copy the artifact again.')
        name = found.group(2)
        try:
            if not (folder / name).is_file():  # a pipe would keep its reader waiting
                raise OSError('no file')
            same = _sha256(folder / name) == found.group(1)
        except OSError:
            raise ArtifactError(f'{folder / name} is missing or cannot be read; copy the artifact again.') from None
        if not same:
            raise ArtifactError(
                f'{folder / name} is damaged or was changed (its checksum differs); copy the artifact again.')
        names.append(name)
    if CONFIG not in names:
        raise ArtifactError(f'{folder / CHECKSUMS} does not list {CONFIG}; copy the artifact again.')
    # A runtime opens files by itself, such as the weights beside a network's description.
    others = [one.name for one in folder.iterdir() if one.suffix in _OF_NETWORKS and one.name not in names]
    if others:
        raise ArtifactError(f'{folder / others[0]} is not of this artifact (no checksum lists it); remove it.')
    return names


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_text(file: Path) -> str:
    try:
        with file.open('rb') as stream:
            data = stream.read(_MAX_TEXT + 1)
        if len(data) > _MAX_TEXT:
            raise ArtifactError(f'{file} is too large to be of an artifact; copy the artifact again.')
        return data.decode('utf-8')
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f'{file} cannot be read ({_one_line(e)}); copy the artifact again.') from e


# ---- runtimes ----

def _check_runtime(name: str, wanted: str) -> None:
    package = _RUNTIMES[name][0]
    mend = f'pip install "{package}>={wanted}"'
    try:
        found = version(package)
    except PackageNotFoundError:
        raise ArtifactError(f'this artifact needs {package}, which is not installed: {mend}') from None
    if _numbers(found) < _numbers(wanted):
        raise ArtifactError(f'this artifact was made with {package} {wanted}, and {found} is older: {mend}')


def _numbers(text: str) -> Tuple[int, ...]:
    """The first two numbers of a version; what follows mends faults and changes no file format."""
    return tuple(int(number) for number in re.findall(r'\d{1,9}', text)[:2])


def _only(files: Sequence[str], suffix: str) -> str:
    names = [name for name in files if name.endswith(suffix)]
    if len(names) != 1:
        raise ArtifactError(f'the artifact holds {len(names)} files that end in {suffix} instead of one; deploy again.')
    return names[0]


def _onnxruntime(
        folder: Path, config: Dict[str, Any], files: Sequence[str], threads: int) -> Callable[[np.ndarray], np.ndarray]:
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # read once, on import
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry('session.set_denormal_as_zero', '1')
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(
        str(folder / _only(files, '.onnx')), options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def _openvino(
        folder: Path, config: Dict[str, Any], files: Sequence[str], threads: int) -> Callable[[np.ndarray], np.ndarray]:
    core = _openvino_core()
    network = core.read_model(str(folder / _only(files, '.xml')))
    if config['task'] == 'classification':  # always of one size, for which it can be made faster
        network.reshape([1, 3, *config['preprocessing']['input_size']])
    compiled = core.compile_model(network, 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY',
        'NUM_STREAMS': 1,
        'INFERENCE_NUM_THREADS': threads,
        'INFERENCE_PRECISION_HINT': _precision_hint(core, config['precision']),
        'ENABLE_CPU_PINNING': False,
        'CPU_DENORMALS_OPTIMIZATION': True,
    })
    request = compiled.create_infer_request()
    return lambda batch: np.array(request.infer([batch])[compiled.output(0)])


def _precision_hint(core: Any, precision: str) -> str:
    """What to compute in: float32 where this processor has no instructions for the artifact's own precision.

    Left to itself OpenVINO may take bfloat16 for float16, which is less exact than what was deployed.
    """
    hint = {'fp16': 'f16', 'bf16': 'bf16'}.get(precision)
    here = hint is not None and precision.upper() in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    return hint if hint is not None and here else 'f32'


@functools.cache
def _openvino_core() -> Any:
    """One for all artifacts of the process.

    On processors with AMX, of two Cores that are dropped in the order in which they were made, the second leaves the
    thread a stack for signals that is no longer mapped, and the next signal (Ctrl-C) ends the process. Seen with
    OpenVINO 2026.4.
    """
    return _import_quietly('openvino', 'openvino_telemetry').Core()


def _ncnn(
        folder: Path, config: Dict[str, Any], files: Sequence[str], threads: int) -> Callable[[np.ndarray], np.ndarray]:
    ncnn = importlib.import_module('ncnn')
    network = ncnn.Net()
    network.opt.num_threads = threads
    network.opt.use_vulkan_compute = False
    # ncnn itself would compute in half precision where it can.
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    if network.load_param(str(folder / _only(files, '.param'))) or network.load_model(
            str(folder / _only(files, '.ncnn.bin'))):
        raise ArtifactError(f'ncnn cannot load {folder}; deploy again.')
    taken, given = network.input_names()[0], network.output_names()[0]

    def run(batch: np.ndarray) -> np.ndarray:
        extractor = network.create_extractor()
        extractor.input(taken, ncnn.Mat(np.ascontiguousarray(batch[0])))
        failed, output = extractor.extract(given)
        if failed:
            raise RuntimeError('no output')
        return np.array(output)[None]

    return run


def _torch(
        folder: Path, config: Dict[str, Any], files: Sequence[str], threads: int) -> Callable[[np.ndarray], np.ndarray]:
    torch = importlib.import_module('torch')
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as the others do: some processors compute them a hundred times more slowly
    network = torch.export.load(str(folder / _only(files, '.pt2'))).module()
    segments, least = config['task'] == 'segmentation', 2 * config['size_multiple']  # that the network is exported for

    def run(batch: np.ndarray) -> np.ndarray:
        height, width = batch.shape[2:]
        if segments and min(height, width) < least:
            edges = (0, 0), (0, 0), (0, max(0, least - height)), (0, max(0, least - width))
            batch = np.pad(batch, edges, mode='edge')
        with torch.inference_mode():
            logits = np.asarray(network(torch.from_numpy(batch)).numpy())
        return logits[..., :height, :width] if segments else logits

    return run


# The package that is installed, and what makes a network of it ready.
_RUNTIMES: Dict[str, Tuple[str, Callable[..., Callable[[np.ndarray], np.ndarray]]]] = {
    'onnxruntime': ('onnxruntime', _onnxruntime),
    'openvino': ('openvino', _openvino),
    'ncnn': ('ncnn', _ncnn),
    'torch': ('torch', _torch),
}


# Their files are unpickled.
_EXECUTING = ('torch',)


def _import_quietly(name: str, reporter: str) -> Any:
    """The module, without the one by which it would report its use to its makers."""
    before = sys.modules.get(reporter)
    sys.modules[reporter] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    finally:
        if before is None:
            del sys.modules[reporter]
        else:
            sys.modules[reporter] = before


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


# ---- by itself ----

def _main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description='Say what is in pictures, or segment them.')
    parser.add_argument('pictures', nargs='+', type=Path, metavar='PICTURE')
    parser.add_argument('--folder', type=Path, default=Path(__file__).parent, help='The artifact, if not this folder.')
    parser.add_argument('--threads', type=_positive, help='By default as many as there are cores.')
    parser.add_argument('--topk', type=_positive, default=1, help='Classes a picture, of a classifier.')
    parser.add_argument(
        '--out', type=Path, default=Path('overlays'),
        help='Folder for masks, NAME-mask.png, whose pixels are class numbers; of the same name they are replaced.')
    parser.add_argument(
        '--allow-code', action='store_true',
        help='Open a PyTorch program (target torch-export), which can run any code of its maker.')
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a pipe's encoding may lack what names are made of
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        return _run(options)
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        sys.stderr.write(f'artifact: what was found cannot be written ({e.strerror}); make room.\n')
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace) -> int:
    try:
        artifact = load(options.folder, options.threads, allow_code=options.allow_code)
    except ArtifactError as e:
        print(_printable(f'artifact: {e}'), file=sys.stderr)
        return 2
    status = 0
    written: Set[str] = set()
    for file in options.pictures:
        try:
            picture = read_picture(file)
            if artifact.task == 'classification':
                probabilities = artifact.classify(picture)
                best = np.argsort(-probabilities, kind='stable')[:options.topk]
                shares = [(artifact.classes[i], float(probabilities[i])) for i in best]
            else:
                mask = artifact.segment(picture)
                print(_printable(_write_mask(mask, options.out, file.stem, written)), end=' of ')
                counts = np.bincount(mask.ravel(), minlength=len(artifact.classes)) / mask.size
                shares = [(name, share) for name, share in zip(artifact.classes, counts.tolist(), strict=True) if share]
        except ArtifactError as e:
            print(_printable(f'artifact: {e}' if str(file) in str(e) else f'artifact: {file}: {e}'), file=sys.stderr)
            status = 2
            continue
        print(_printable(f'{file}: ' + ', '.join(f'{name} {100 * share:.1f} %' for name, share in shares)))
    sys.stdout.flush()
    return status


def _printable(text: object) -> str:
    """Control characters in names, which could rewrite what a terminal shows, as escapes."""
    return re.sub(
        '[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]', lambda found: ascii(found.group())[1:-1],
        str(text))


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is less than 1')
    return int(text)


def _write_mask(mask: np.ndarray, folder: Path, stem: str, written: Set[str]) -> Path:
    """NAME-mask.png into a folder, NAME-2-mask.png for a second picture of that name, and so on."""
    names = (f'{stem}{number}-mask.png' for number in ('', *(f'-{i}' for i in range(2, len(written) + 3))))
    name = next(name for name in names if name.casefold() not in written)
    written.add(name.casefold())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(cv2.imencode('.png', mask)[1].tobytes())
    except OSError as e:
        raise ArtifactError(f'{folder / name} cannot be written ({e.strerror}); choose another --out.') from e
    return folder / name


if __name__ == '__main__':
    sys.exit(_main())

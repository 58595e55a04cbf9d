"""From picture files to the batches that a network is trained on and judged by."""
import hashlib
import os
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import PIL
import torch
import torch.nn as nn
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset

from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.errors import UserError
from rsq_backbone.images import read_image
from rsq_backbone.progress import Progress, silent
from rsq_backbone.training.array_cache import NotKept, array_key, cached_array
from rsq_backbone.training.augmentation import Augmentation

__all__ = ['INFERENCE_BATCH', 'EpochBatches', 'Features', 'Inputs', 'Pictures', 'Samples', 'batches', 'to_input']

_READERS = 4  # threads; Pillow decodes without the interpreter lock
INFERENCE_BATCH = 16


class Inputs(ABC):
    """What a network or a part of it takes, kept once for all pictures of the same content.

    Args:
        key: A name for all that the values depend on.
        rows: Where each picture's value is kept.
        first: A picture for each of these places.
        config: timm's data configuration.
    """

    def __init__(self, key: str, rows: Sequence[int], first: Sequence[int], config: Dict[str, Any]) -> None:
        self.key = key
        self.rows = rows
        self.first = first
        self.config = config

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """A picture's value, stored channels last."""

    def input(self, indices: Sequence[int]) -> torch.Tensor:
        """These pictures' values as `to_input` makes them a batch."""
        return to_input(torch.from_numpy(np.stack([self[i] for i in indices])), self.config)


class Pictures(Inputs):
    """Pictures at the network's input size, (H, W, 3) uint8 each, as timm's evaluation transform cuts them out.

    They are kept on disk where they fit, so that each file is decoded once however many epochs and runs follow; else
    they are read again each time.

    Args:
        images: The pictures.
        content: SHA-256 of each file, by which the kept pictures are known.
        config: timm's data configuration (input_size, interpolation, crop_pct, crop_mode, mean, std).
    """

    def __init__(
            self, images: LabelledImages, content: Mapping[Path, str], config: Dict[str, Any],
            progress: Progress = silent,
    ) -> None:
        self.images = images
        # timm's own division of labour: the part before normalisation gives uint8.
        self._transform = create_transform(**config, use_prefetcher=True)
        hashes = [content[path] for path in images.paths]
        # Kept by content, so that neither the names nor the split matter.
        distinct = sorted(set(hashes))
        place = {digest: row for row, digest in enumerate(distinct)}
        first = {digest: index for index, digest in reversed(list(enumerate(hashes)))}
        super().__init__(
            key=array_key('pictures', distinct, str(self._transform), PIL.__version__),
            rows=[place[digest] for digest in hashes], first=[first[digest] for digest in distinct], config=config)
        _, height, width = config['input_size']
        shape = (len(distinct), height, width, 3)

        def fill(array: np.ndarray) -> None:
            with ThreadPoolExecutor(_READERS) as pool:
                for row, picture in enumerate(pool.map(self._read, self.first)):
                    array[row] = picture
                    progress('reading pictures', row + 1, len(distinct))

        self._array: Optional[np.ndarray]
        try:
            self._array = cached_array(self.key, shape, np.uint8, fill)
        except NotKept:
            self._array = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(index) if self._array is None else self._array[self.rows[index]]

    @property
    def kept(self) -> bool:
        return self._array is not None

    def _read(self, index: int) -> np.ndarray:
        return self._transform(read_image(self.images.paths[index])).permute(1, 2, 0).numpy()


class Features(Inputs):
    """What a fixed module makes of pictures or of features, (H, W, C) or (C,) float16 each, kept on disk.

    `small` ones are held in memory where there is no room on the disk.

    Raises:
        NotKept: if there is no room for them, or float16 cannot hold them.
    """

    def __init__(
            self, inputs: Inputs, module: nn.Module, what: str, progress: Progress = silent, small: bool = False,
    ) -> None:
        module.eval()
        first = self._compute(inputs, module, [0])

        def fill(array: np.ndarray) -> None:
            for start in range(0, len(array), INFERENCE_BATCH):
                part = inputs.first[start:start + INFERENCE_BATCH]
                values = self._compute(inputs, module, part)
                if not np.isfinite(values).all():
                    raise NotKept('the features exceed the range of float16')
                array[start:start + len(part)] = values
                progress(what, start + len(part), len(array))

        key = array_key(
            'features', inputs.key, inputs.config['mean'], inputs.config['std'], _fingerprint(module),
            torch.__version__)
        super().__init__(key, inputs.rows, inputs.first, inputs.config)
        shape = (len(inputs.first), *first.shape[1:])
        try:
            self._array = cached_array(key, shape, np.float16, fill)
        except NotKept:
            if not small:
                raise
            self._array = np.empty(shape, np.float16)
            fill(self._array)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._array[self.rows[index]]

    @staticmethod
    @torch.inference_mode()
    def _compute(inputs: Inputs, module: nn.Module, indices: Sequence[int]) -> np.ndarray:
        y = module(inputs.input(indices))
        if not isinstance(y, torch.Tensor):
            raise NotKept('the features are not a single tensor')
        return (y.permute(0, 2, 3, 1) if y.ndim == 4 else y).half().numpy()


def _fingerprint(module: nn.Module) -> str:
    """Of a module's structure and of its weights."""
    digest = hashlib.sha256((repr(module) + str(getattr(module, 'code', ''))).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def to_input(batch: torch.Tensor, config: Dict[str, Any]) -> torch.Tensor:
    """Kept pictures or features, stored channels last, as float32 (N, C, H, W) in channels_last memory.

    Pictures (uint8) are normalised by the configuration's mean and std.
    """
    x = batch.float()
    if batch.dtype == torch.uint8:
        mean, std = (torch.tensor(config[key], device=batch.device) * 255 for key in ('mean', 'std'))
        x = (x - mean) / std
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


class Samples(Dataset[Tuple[torch.Tensor, int]]):
    """Pictures or features with their classes, by (epoch, index)."""

    def __init__(
            self, inputs: Inputs, labels: Sequence[int], augmentation: Optional[Augmentation] = None, seed: int = 0,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, key: Tuple[int, int]) -> Tuple[torch.Tensor, int]:
        epoch, index = key
        x = np.array(self.inputs[index])
        if self.augmentation is not None:
            x = self.augmentation(x, self.seed, epoch, index)
        return torch.from_numpy(x), self.labels[index]


class EpochBatches:
    """Batches of (epoch, index) in a random order that depends on the seed and the epoch alone.

    As in MATLAB, pictures beyond the last whole batch wait for the next epoch's order. Of several processes, each takes
    its share of every batch, so that all of them together take the steps that one would.

    Raises:
        UserError: if a batch does not divide by the processes, or there are fewer pictures than processes.
    """

    def __init__(
            self, indices: Sequence[int], batch_size: int, seed: int, epoch: int, rank: int = 0, processes: int = 1,
    ) -> None:
        if batch_size % processes:
            raise UserError(f'a batch of {batch_size} does not divide by {processes} processes; change --batch-size.')
        if len(indices) < processes:
            raise UserError(f'{len(indices)} training pictures are too few for {processes} processes.')
        order = np.random.default_rng((seed, epoch)).permutation(np.asarray(indices))
        size = min(batch_size, len(order) // processes * processes)
        self._batches = [
            [(epoch, int(i)) for i in order[start + rank:start + size:processes]]
            for start in range(0, len(order) - size + 1, size)]

    def __iter__(self) -> Iterator[List[Tuple[int, int]]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def batches(samples: Dataset[Any], keys: Any) -> DataLoader[Any]:
    """`keys`: an EpochBatches or any list of lists of (epoch, index)."""
    in_files = isinstance(samples, Samples) and isinstance(samples.inputs, Pictures) and not samples.inputs.kept
    return DataLoader(samples, batch_sampler=keys, num_workers=min(4, os.cpu_count() or 1) if in_files else 0)

"""A segmentation demo's run as something to deploy."""
import json
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from rsq_backbone.deploy.calibration import read_calibration_set
from rsq_backbone.deploy.deployable import IGNORED, Deployable, Sample
from rsq_backbone.errors import UserError
from rsq_backbone.progress import Progress
from rsq_backbone.training.run_folder import RunFolder
from seg_demos import masks
from seg_demos.crops import read_pair
from seg_demos.mask_checks import CheckedMasks, check_masks
from seg_demos.mask_sources import load_masks
from seg_demos.onnx_export import exportable
from seg_demos.trained import load

__all__ = ['DeployableSegmentation']

_MOST_PICTURES = 200  # to judge by; all candidates see each of them
_LARGEST = 1024  # of a judged picture's side: PyTorch's and the candidates' activations are in memory at once
_CALIBRATION_PIXELS = 20_000_000  # of float32 in three channels: a quarter of a gigabyte
_CALIBRATION_SIDE = 512


class DeployableSegmentation(Deployable):
    """
    Args:
        folder: Of a demo.
        data: As the demos take it; None for the run's own validation pictures.
        progress: Told how far the work is.

    Raises:
        UserError: if the folder holds no finished run, or there is nothing to judge it by.
    """

    metric = 'mean_iou'

    def __init__(self, folder: RunFolder, data: Optional[str], progress: Progress) -> None:
        trained = load(folder.path)
        self._folder = folder
        self.network = trained.network
        self.convertible = exportable(trained.network)
        settings = folder.settings()
        if settings is None:
            raise UserError(
                f'{folder.path} came without its run (settings.json is missing or damaged), which says how to read '
                'masks; deploy the whole folder.')
        source = data or str(settings['source'])
        try:
            checked = _checked(source, settings, trained.classes, progress)
        except UserError as e:
            raise UserError(f'{e} Name other pictures with masks by --data.') from e
        self._coding = checked.coding
        learned = folder.training_content()
        judged_by = {row['sha256'] for row in folder.pictures('validation')}
        pairs = [
            pair for pair in (*checked.collection.train, *(checked.collection.val or ()))
            if checked.content[pair.picture] not in learned
            and (data is not None or checked.content[pair.picture] in judged_by)]
        if not pairs:
            what = 'that was not trained on' if data is not None else 'that the run was judged by'
            raise UserError(f'{source} holds no picture any more {what}; name others with --data.')
        step = -(-len(pairs) // _MOST_PICTURES)
        self._judged = pairs[::step]
        self.pictures = len(self._judged)
        self.data = data or 'the validation pictures of the run'
        self.notes = [*checked.left_out, *checked.collection.notes, *checked.notes]
        if step > 1:
            self.notes.append(f'Judged by {self.pictures} of {len(pairs)} pictures, one of each {step}.')
        sizes = [checked.sizes[pair.picture] for pair in self._judged]
        if any(side > _LARGEST for size in sizes for side in size):
            self.notes.append(f'Of pictures larger than {_LARGEST} x {_LARGEST} pixels their middle is judged.')
        self.size = _most_common_size(sizes, trained.stride)
        self.config = {
            'task': 'segmentation',
            'model': _model_name(folder.config),
            'classes': list(trained.classes),
            'preprocessing': {key: list(trained.config[key]) for key in ('mean', 'std')}
            | {'input_size': list(self.size)},
            'size_multiple': trained.stride,
        }

    def calibration_set(self, named: Optional[Path], progress: Progress) -> np.ndarray:
        multiple = self.config['size_multiple']
        height, width = (min(side, max(_CALIBRATION_SIDE // multiple, 1) * multiple) for side in self.size)

        def preprocess(picture: np.ndarray) -> np.ndarray:
            part = _middle(picture, height, width)
            rows, columns = height - part.shape[0], width - part.shape[1]
            return self.preprocess(np.pad(part, ((0, rows), (0, columns), (0, 0)), mode='edge'))

        trained_on = [Path(row['path']) for row in self._folder.find_pictures('train')]
        most = min(300, max(10, _CALIBRATION_PIXELS // (height * width)))
        return read_calibration_set(named, trained_on, self._folder.path, most, preprocess, progress)

    def samples(self) -> Iterator[Sample]:
        for pair in self._judged:
            picture, mask = (_middle(array, _LARGEST, _LARGEST) for array in read_pair(pair, self._coding))
            inputs = self.preprocess(picture)
            logits = self.torch_logits(inputs)
            height, width = mask.shape
            targets = np.where(mask == masks.IGNORED, IGNORED, mask.astype(np.int64))[None]
            yield Sample(inputs, logits, logits.argmax(1)[:, :height, :width], targets)


def _checked(source: str, settings: Dict[str, Any], names: Tuple[str, ...], progress: Progress) -> CheckedMasks:
    """The pictures and masks of a source, understood as those that the run was trained on.

    Raises:
        UserError: if they cannot be, or have other classes than the network.
    """
    collection = load_masks(source, progress)
    colours: Any = settings.get('colours')
    colours = colours and {(red, green, blue): index for red, green, blue, index in colours}
    checked = check_masks(collection, settings.get('classes'), colours, settings.get('ignore_index'), progress)
    if checked.coding.classes != names and collection.coding is None and not settings.get('classes'):
        # Fewer pictures may lack classes, so that their masks do not tell how many there are.
        checked = check_masks(collection, names, None, settings.get('ignore_index'), progress)
    if checked.coding.classes != names:
        raise UserError(
            f'the masks of {source} have the classes {", ".join(checked.coding.classes)}, and the network '
            f'{", ".join(names)}.')
    return checked


def _model_name(file: Path) -> str:
    config = json.loads(file.read_text(encoding='utf-8'))
    return f'{config["_model_class"]} {config["encoder_name"]}'


def _most_common_size(sizes: List[Tuple[int, int]], stride: int) -> Tuple[int, int]:
    """Height and width that most of the pictures (width, height) have once they are extended to the stride."""
    [((width, height), _)] = Counter(sizes).most_common(1)
    tall, wide = (max(-(-min(side, _LARGEST) // stride), 2) * stride for side in (height, width))
    return tall, wide


def _middle(array: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (max(0, (size - side) // 2) for size, side in zip(array.shape, (height, width), strict=False))
    return array[top:top + height, left:left + width]

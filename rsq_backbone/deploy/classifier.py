"""A run's classifier as something to deploy."""
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch.nn as nn
from timm.data import create_transform, resolve_data_config

from rsq_backbone.classification import class_names
from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.validation import load_validation_set
from rsq_backbone.deploy.calibration import read_calibration_set
from rsq_backbone.deploy.deployable import Deployable, Sample
from rsq_backbone.errors import UserError
from rsq_backbone.images import read_image
from rsq_backbone.model_loading import load_model
from rsq_backbone.progress import Progress
from rsq_backbone.training.run_folder import RunFolder

__all__ = ['DeployableClassifier']

_CALIBRATION = 300  # pictures at most


class DeployableClassifier(Deployable):
    """
    Args:
        folder: Of `finetune`.
        data: As `evaluate` takes it; None for the run's own validation pictures.
        progress: Told how far the work is.

    Raises:
        UserError: if the folder holds no classifier that an artifact can hold, or there is nothing to judge it by.
    """

    metric = 'accuracy'

    def __init__(self, folder: RunFolder, data: Optional[str], progress: Progress) -> None:
        self._folder = folder
        self.network = self.convertible = load_model(folder.timm_name(), pretrained=True)
        names = class_names(self.network)
        self.config = _config(self.network, folder.config, names)
        height, width = self.config['preprocessing']['input_size']
        self.size = height, width
        self._transform = create_transform(**resolve_data_config(model=self.network))
        self._judged, self.notes = _judged_pictures(folder, data, names, progress)
        self.pictures = len(self._judged)
        self.data = data or 'the validation pictures of the run'

    def calibration_set(self, named: Optional[Path], progress: Progress) -> np.ndarray:
        trained_on = [Path(row['path']) for row in self._folder.find_pictures('train')]
        return read_calibration_set(named, trained_on, self._folder.path, _CALIBRATION, self.preprocess, progress)

    def samples(self) -> Iterator[Sample]:
        for path, label in zip(self._judged.paths, self._judged.labels, strict=True):
            picture = read_image(path)
            inputs = self.preprocess(np.asarray(picture))
            classes = self.torch_logits(self._transform(picture)[None].numpy()).argmax(1)
            yield Sample(inputs, self.torch_logits(inputs), classes, np.array([label]))


def _config(network: nn.Module, file: Path, names: Tuple[str, ...]) -> Dict[str, Any]:
    data = resolve_data_config(model=network)
    if data['crop_mode'] not in ('center', 'squash') or data['interpolation'] not in ('bicubic', 'bilinear') or (
            data['input_size'][0] != 3):
        raise UserError(
            f'this network takes {data["input_size"][0]} channels, crop mode {data["crop_mode"]} and '
            f'{data["interpolation"]} resizing; artifacts have RGB, center or squash, and bicubic or bilinear.')
    height, width = data['input_size'][1:]
    if data['crop_mode'] == 'center' and height != width:
        raise UserError('this network takes pictures that are not square; train it with crop mode squash.')
    return {
        'task': 'classification',
        'model': json.loads(file.read_text(encoding='utf-8'))['architecture'],
        'classes': list(names),
        'preprocessing': {
            'mean': list(data['mean']), 'std': list(data['std']), 'input_size': [height, width],
            'interpolation': data['interpolation'], 'crop_pct': data['crop_pct'], 'crop_mode': data['crop_mode']},
        'size_multiple': 1,
    }


def _judged_pictures(
        folder: RunFolder, data: Optional[str], names: Tuple[str, ...], progress: Progress,
) -> Tuple[LabelledImages, List[str]]:
    """Pictures with classes that a run's network did not learn from, and a line for each that is left out."""
    if data is not None:
        validation = load_validation_set(data, names, folder.training_content(), str(folder.path), progress)
        return validation.images, [*validation.left_out, *validation.notes]
    place = {name: i for i, name in enumerate(names)}
    rows = [row for row in folder.pictures('validation') if row['label'] in place]
    there = [row for row in folder.find_pictures('validation') if row['label'] in place]
    if not rows:
        raise UserError(
            f'{folder.path} does not say which pictures it can be judged by; name pictures with classes that it was '
            'not trained on with --data.')
    if not there:
        raise UserError(
            f'the pictures that {folder.path} was judged by are not there any more ({rows[0]["path"]}, for one); name '
            'others with --data.')
    images = LabelledImages(
        tuple(Path(row['path']) for row in there), tuple(place[row['label']] for row in there), names)
    gone = len(rows) - len(there)
    return images, [f'{gone} of {len(rows)} validation pictures of the run are not there any more.'] if gone else []

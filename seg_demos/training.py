"""Training a segmentation network from beginning to end, whichever it is."""
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.split import split
from rsq_backbone.datasets.words import located
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import whole_file, write_text
from rsq_backbone.machine import machine, versions
from rsq_backbone.metrics import SegmentationMetrics, confusion_matrix, mean_iou, segmentation_metrics
from rsq_backbone.progress import Progress, silent
from rsq_backbone.results import FORMAT
from rsq_backbone.training.array_cache import array_key
from rsq_backbone.training.clock import Clock
from rsq_backbone.training.faults import one_line_faults
from rsq_backbone.training.fitting import Hardware, fit
from rsq_backbone.training.memory import keep_freed_memory
from rsq_backbone.training.pictures import to_input
from rsq_backbone.training.run_folder import RunFolder, run_name
from seg_demos.batch_norm import settle_statistics
from seg_demos.crops import Crops, crops_of_epoch, read_pair
from seg_demos.mask_checks import CheckedMasks, check_masks
from seg_demos.mask_sources import MaskedImage, load_masks
from seg_demos.masks import IGNORED, MaskCoding
from seg_demos.recipe import SegmentationRecipe
from seg_demos.report import draw_run
from seg_demos.results import PictureScore, SegmentationData, SegmentationResult
from seg_demos.task import SegmentationTask
from seg_demos.tiling import segment

__all__ = ['train']

T = TypeVar('T')

# Encoder, its weights, the number of classes, and options of its own -> smp model.
Build = Callable[..., nn.Module]
_MONITORED = 64  # validation pictures after each epoch; large sets would else take longer than the training
_SETTLING = 200  # crops


def train(
        architecture: str,
        build: Build,
        source: str,
        recipe: SegmentationRecipe,
        encoder: str = 'res_squeezenet',
        encoder_weights: Optional[str] = 'imagenet',
        *,
        options: Optional[Dict[str, Any]] = None,
        classes: Optional[Sequence[str]] = None,
        colours: Optional[Dict[Tuple[int, int, int], int]] = None,
        ignore_index: Optional[int] = None,
        train_share: float = 0.7,
        seed: int = 0,
        output: Union[str, Path] = 'runs',
        name: Optional[str] = None,
        resume: bool = False,
        overwrite: bool = False,
        hardware: Optional[Hardware] = None,
        progress: Progress = silent,
) -> SegmentationResult:
    """Train a segmentation network on pictures with masks and write all that is known about it to a run folder.

    The folder is an smp checkpoint: `smp.from_pretrained('runs/NAME')`.

    Args:
        architecture: A name for the network, for the run folder and the report.
        build: Makes the network.
        source: What `load_masks` takes.
        recipe: How to train; where the encoder starts at random it learns as fast as the decoder.
        encoder: Any of smp's names.
        encoder_weights: One of the encoder's, None for a random start.
        options: Further arguments of `build`.
        classes: Names by class number; from the masks themselves if None.
        colours: Class by colour, for painted masks; `classes` has to name them.
        ignore_index: Mask value that neither trains nor counts.
        train_share: Share of the pictures that is trained on, where the source has no split of its own.
        seed: Of the split, the decoder, the order, the crops and the augmentation.
        output: Folder of the run folders.
        name: Of the run folder; made of source, architecture, encoder and seed if None.
        resume: Go on where a run of the same settings was stopped.
        overwrite: Replace a run of the same name.
        hardware: Where to train.
        progress: Told how far the work is.

    Raises:
        UserError: for input that cannot be used and faults that the user can mend, in one line.
        KeyboardInterrupt: if the user stopped the training; it can be resumed.
    """
    hardware = hardware or Hardware()
    recipe = dataclasses.replace(
        recipe, precision=hardware.precision(recipe.precision),
        encoder_factor=1.0 if encoder_weights is None else recipe.encoder_factor)
    label = name or run_name(
        source, architecture, *([] if encoder == 'res_squeezenet' else [encoder]), seed=seed)
    folder = RunFolder(Path(output) / label)
    settings = {
        'source': located(source), 'recipe': dataclasses.asdict(recipe), 'model': f'{architecture} {encoder}',
        'encoder_weights': encoder_weights, 'options': options or {}, 'classes': classes and list(classes),
        'colours': colours and [[*colour, index] for colour, index in colours.items()], 'ignore_index': ignore_index,
        'train_share': train_share, 'seed': seed}
    with one_line_faults(folder.path), folder.locked():
        finished = folder.claim(settings, resume, overwrite, SegmentationResult.from_json)
        if finished is not None:
            return finished
        clock = Clock()
        keep_freed_memory()
        checked = check_masks(load_masks(source, progress), classes, colours, ignore_index, progress)
        training, validation = _parts(checked, train_share, seed)
        coding = checked.coding
        clock.lap('checking pictures')
        torch.manual_seed(seed)
        network, config = _build(build, architecture, encoder, encoder_weights, len(coding.classes), options or {})
        content = sorted((checked.content[pair.picture], checked.content[pair.mask])
                         for pair in {*training, *validation})
        folder.begin({**settings, 'pictures': array_key(content)}, resume)
        cut_from = crops_of_epoch(
            [checked.sizes[pair.picture] for pair in training], recipe.crop, recipe.batch_size)
        crops = Crops(training, coding, recipe.crop, recipe.augmentation, seed, cut_from)
        task = SegmentationTask(network, config, recipe, seed, crops, _evenly(validation, _MONITORED), coding)
        fit(task, recipe.epochs, recipe.precision, folder.checkpoints, None, hardware, progress)
        network.to('cpu')
        settle_statistics(network, (to_input(x, config) for x in _batches_of_crops(crops, recipe)))
        clock.lap('training')
        scores, metrics = _judge(network, config, coding, validation, progress)
        clock.lap('evaluation')
        save_model(network, folder.path, coding.classes, config)
        folder.save_split(('path', 'mask', 'part', 'sha256'), [
            (pair.picture.absolute(), pair.mask.absolute(), part, checked.content[pair.picture])
            for part, pairs in (('train', training), ('validation', validation)) for pair in pairs])
        result = SegmentationResult(
            format=FORMAT,
            name=label,
            data=SegmentationData(
                source=source, name=checked.collection.name, classes=coding.classes, train_pictures=len(training),
                validation_pictures=len(validation), monitored_pictures=len(task.monitoring), left_out=checked.left_out,
                notes=checked.collection.notes + checked.notes),
            architecture=architecture,
            encoder=encoder,
            encoder_weights=encoder_weights,
            options=options or {},
            parameters=sum(p.numel() for p in network.parameters()),
            file_bytes=folder.weights.stat().st_size,
            recipe=dataclasses.asdict(recipe),
            seed=seed,
            metrics=metrics,
            pictures=scores,
            epochs=tuple(task.epochs),
            iterations=tuple(task.iterations),
            seconds=clock.seconds(),
            command=tuple(sys.argv),
            versions=versions(),
            machine=machine(),
        )
        draw_run(result, coding, lambda picture: segment(network, picture, config), folder.path)
        folder.finish(result)
        return result


def _batches_of_crops(crops: Crops, recipe: SegmentationRecipe) -> Iterator[torch.Tensor]:
    """Whole ones, of one more epoch."""
    size = recipe.batch_size
    chosen = _evenly(range(len(crops)), max(_SETTLING, size))
    for start in range(0, len(chosen) - size + 1, size):
        yield torch.stack([crops[recipe.epochs, index][0] for index in chosen[start:start + size]])


def _evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many, from all over the sequence: files are often sorted by what they show."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else items


def input_config(encoder: str, encoder_weights: Optional[str]) -> Dict[str, Any]:
    """Mean and standard deviation of the encoder's input; ImageNet's where it starts at random."""
    known: Dict[str, Any] = {}
    if encoder_weights is not None:  # else smp would ask the hub for them
        known = smp.encoders.get_preprocessing_params(encoder, encoder_weights)
    return {
        'mean': tuple(known.get('mean') or IMAGENET_DEFAULT_MEAN),
        'std': tuple(known.get('std') or IMAGENET_DEFAULT_STD)}


def save_model(network: nn.Module, folder: Path, classes: Sequence[str], config: Dict[str, Any]) -> None:
    """As smp.from_pretrained reads it, with class names and preprocessing under keys that smp passes over."""
    with TemporaryDirectory(dir=folder, prefix='.model-') as temporary:
        network.save_pretrained(temporary)  # type: ignore[operator]
        plain = json.loads((Path(temporary) / 'config.json').read_text(encoding='utf-8'))
        # Without weights to begin with: smp would fetch them from the hub before it loads these.
        plain.update({
            'encoder_weights': None, '_classes': list(classes), '_mean': config['mean'], '_std': config['std']})
        with whole_file(folder / 'model.safetensors') as file:
            shutil.copyfile(Path(temporary) / 'model.safetensors', file)
        write_text(folder / 'config.json', json.dumps(plain, indent=2) + '\n')


def _build(
        build: Build, architecture: str, encoder: str, encoder_weights: Optional[str], classes: int,
        options: Dict[str, Any],
) -> Tuple[nn.Module, Dict[str, Any]]:
    try:
        network = build(encoder, encoder_weights, classes, **options)
        return network.to(memory_format=torch.channels_last), input_config(encoder, encoder_weights)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as e:
        raise UserError(
            f'{architecture} with the encoder {encoder!r} and weights {encoder_weights!r} cannot be built '
            f'({one_line(e)}); without a network, --random starts other encoders than res_squeezenet.') from e


def _parts(
        checked: CheckedMasks, train_share: float, seed: int,
) -> Tuple[Tuple[MaskedImage, ...], Tuple[MaskedImage, ...]]:
    """Training and validation pictures; copies stay on one side."""
    collection = checked.collection
    if collection.val is not None:
        return collection.train, collection.val
    pairs = collection.train
    if len(pairs) == 1:
        return pairs, pairs
    as_one_class = LabelledImages(tuple(pair.picture for pair in pairs), (0,) * len(pairs), ('picture',))
    by_picture = {pair.picture: pair for pair in pairs}
    training, validation = (
        tuple(by_picture[path] for path in part.paths)
        for part in split(as_one_class, train_share, seed, checked.content))
    return training, validation or training


def _judge(
        network: nn.Module, config: Dict[str, Any], coding: MaskCoding, pairs: Sequence[MaskedImage],
        progress: Progress,
) -> Tuple[Tuple[PictureScore, ...], SegmentationMetrics]:
    confusions = []
    scores: List[PictureScore] = []
    for done, pair in enumerate(pairs, 1):
        picture, mask = read_pair(pair, coding)
        counted = mask != IGNORED
        confusion = confusion_matrix(mask[counted], segment(network, picture, config)[counted], len(coding.classes))
        confusions.append(confusion)
        scores.append(PictureScore(str(pair.picture), str(pair.mask), mean_iou(confusion)))
        progress('evaluating, pictures', done, len(pairs))
    return tuple(scores), segmentation_metrics(np.stack(confusions), coding.classes)

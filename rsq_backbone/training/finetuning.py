"""Fine-tuning from beginning to end."""
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from timm.data import resolve_data_config

from rsq_backbone.datasets.checks import check
from rsq_backbone.datasets.labelled_images import LabelledImages
from rsq_backbone.datasets.sources import load_source
from rsq_backbone.datasets.split import split
from rsq_backbone.datasets.words import located
from rsq_backbone.errors import UserError
from rsq_backbone.evaluation import judge, mistakes
from rsq_backbone.machine import machine, versions
from rsq_backbone.metrics import (
    ClassificationMetrics,
    classification_metrics,
    confusion_matrix,
    paired_difference,
)
from rsq_backbone.model_loading import load_model
from rsq_backbone.progress import Progress, silent
from rsq_backbone.reports.html import write_report
from rsq_backbone.reports.plots import draw_confusion, draw_curves, draw_mistakes, draw_pictures
from rsq_backbone.results import FORMAT, Data, Epoch, PicturePrediction, TrainingResult
from rsq_backbone.training.array_cache import NotKept, array_key
from rsq_backbone.training.augmentation import Augmentation
from rsq_backbone.training.clock import Clock
from rsq_backbone.training.faults import one_line_faults
from rsq_backbone.training.fitting import Hardware, fit
from rsq_backbone.training.frozen_features import cut_at_frozen
from rsq_backbone.training.layers import freeze_stages, keep_statistics, scale_classifier
from rsq_backbone.training.lineage import describe_training
from rsq_backbone.training.linear import LinearClassifier, LinearStart, fit_linear, pooled_features, pooled_input
from rsq_backbone.training.memory import keep_freed_memory
from rsq_backbone.training.pictures import INFERENCE_BATCH, Features, Inputs, Pictures, Samples
from rsq_backbone.training.recipes import RECIPES, Recipe
from rsq_backbone.training.run_folder import RunFolder, run_name
from rsq_backbone.training.task import ClassificationTask

__all__ = ['choose_recipe', 'finetune', 'show_augmentations']


def finetune(
        source: str,
        recipe: Union[str, Recipe] = 'laptop',
        model: str = 'res_squeezenet',
        *,
        pretrained: bool = True,
        input_size: Optional[int] = None,
        train_share: float = 0.7,
        seed: int = 0,
        output: Union[str, Path] = 'runs',
        name: Optional[str] = None,
        resume: bool = False,
        overwrite: bool = False,
        feature_cache: bool = True,
        hardware: Optional[Hardware] = None,
        progress: Progress = silent,
) -> TrainingResult:
    """Train a classifier on a user's pictures and write all that is known about it to a run folder.

    The folder is a timm checkpoint: `timm.create_model('local-dir:runs/NAME', pretrained=True)`.

    Args:
        source: 'food', 'synthetic', or the path of a folder or CSV file (see `rsq_backbone.datasets.folders`).
        recipe: A name of RECIPES or a recipe of one's own.
        model: Any timm name.
        pretrained: Start from the model's pretrained weights.
        input_size: Side of the input in pixels; the model's own if None.
        train_share: Share of each class that is trained on, where the source has no split of its own.
        seed: Of the split, the last layer, the order, the augmentation and dropout.
        output: Folder of the run folders.
        name: Of the run folder; made of source, model, recipe and seed if None.
        resume: Go on where a run of the same settings was stopped.
        overwrite: Replace a run of the same name.
        feature_cache: Compute the frozen part once instead of in each epoch, where that gives the same.
        hardware: Where to train.
        progress: Told how far the work is.

    Raises:
        UserError: for input that cannot be used and faults that the user can mend, in one line.
        KeyboardInterrupt: if the user stopped the training; it can be resumed.
    """
    hardware = hardware or Hardware()
    if input_size is not None and not 32 <= input_size <= 1024:
        raise UserError(f'input size should be 32 .. 1024 pixels, got {input_size}.')
    chosen = recipe if isinstance(recipe, Recipe) else choose_recipe(recipe)
    chosen = dataclasses.replace(chosen, precision=hardware.precision(chosen.precision))
    label = name or run_name(
        source, *([] if model == 'res_squeezenet' else [model]), chosen.name, seed=seed)
    folder = RunFolder(Path(output) / label)
    settings = {
        'source': located(source), 'recipe': dataclasses.asdict(chosen), 'model': model, 'pretrained': pretrained,
        'input_size': input_size, 'train_share': train_share, 'seed': seed}
    with one_line_faults(folder.path), folder.locked():
        finished = folder.claim(settings, resume, overwrite, TrainingResult.from_json)
        if finished is not None:
            return finished
        clock = Clock()
        keep_freed_memory()

        parts = _prepare(source, train_share, chosen.held_out, seed, progress)
        clock.lap('checking pictures')

        network = _build(model, pretrained, chosen, input_size, seed)
        config = resolve_data_config(model=network)
        pictures = Pictures(parts.images, parts.content, config, progress)
        clock.lap('reading pictures')

        if chosen.trained_stages is not None:
            freeze_stages(network, chosen.trained_stages)
        if chosen.keep_statistics:
            keep_statistics(network)
        frozen, cache_note = _frozen_features(network, pictures, chosen, feature_cache, progress)
        clock.lap('frozen features')

        linear, probed = _linear_probe(network, frozen, pictures, parts, progress)
        torch.manual_seed(seed)
        network.reset_classifier(len(parts.classes))  # type: ignore[operator]
        start = LinearStart(network, linear) if chosen.linear_start else None
        if start is None:
            chosen = dataclasses.replace(chosen, feature_size=linear.feature_rms ** 2 or 1.0)
            scale_classifier(network, chosen.feature_size)
        clock.lap('linear probe')

        folder.begin({**settings, 'pictures': array_key(sorted(parts.content.values()))}, resume)
        task = None
        if chosen.epochs:
            task = _task(network, frozen, pictures, parts, chosen, seed, config)
            fit(task, chosen.epochs, chosen.precision, folder.checkpoints,
                'monitor_loss' if parts.held_out else None, hardware, progress)
            clock.lap('training')

        network.to('cpu').eval()
        if start is not None:
            start.fold()
        probabilities = _probabilities(network, pictures, parts.validation, progress)
        metrics, predictions = judge(probabilities, parts.subset('validation'))
        clock.lap('evaluation')

        describe_training(network.pretrained_cfg, chosen, pretrained)  # type: ignore[arg-type]
        folder.save_model(network, parts.classes)
        folder.save_split(('path', 'label', 'part', 'sha256'), [
            (path.absolute(), images.classes[label], part, parts.content[path])
            for part, images in ((part, parts.subset(part)) for part in ('train', 'held_out', 'validation'))
            for path, label in zip(images.paths, images.labels, strict=True)])
        folder.save_predictions(predictions)
        epochs = tuple(task.epochs) if task else ()
        result = TrainingResult(
            format=FORMAT,
            name=label,
            data=parts.data,
            model=model,
            parameters=sum(p.numel() for p in network.parameters()),
            file_bytes=folder.weights.stat().st_size,
            recipe=dataclasses.asdict(chosen),
            seed=seed,
            metrics=metrics,
            linear=_metrics_of(probed, parts),
            difference=None if not chosen.epochs else paired_difference(
                parts.subset('validation').labels, probabilities.argmax(1), probed, len(parts.classes)),
            monitor=None if not epochs else 'held out' if parts.held_out else 'validation',
            chosen_epoch=_chosen_epoch(epochs, bool(parts.held_out)),
            epochs=epochs,
            iterations=tuple(task.iterations) if task else (),
            seconds=clock.seconds(),
            feature_cache=cache_note,
            command=tuple(sys.argv),
            versions=versions(),
            machine=machine(),
        )
        _draw(result, predictions, folder.path)
        write_report(result, folder.path)
        folder.finish(result)
        return result


def choose_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UserError: if there is none.
    """
    if name not in RECIPES:
        raise UserError(f'unknown recipe {name!r}; choose one of {", ".join(RECIPES)}.')
    return RECIPES[name]


def show_augmentations(
        source: str, recipe: Recipe, model: str = 'res_squeezenet', *, input_size: Optional[int] = None, seed: int = 0,
        path: Union[str, Path] = 'augmentations.png', progress: Progress = silent,
) -> Path:
    """Write a picture of what the network sees: some training pictures, plain and as the first epochs change them."""
    parts = _prepare(source, 0.7, recipe.held_out, seed, progress)
    config = resolve_data_config(model=_build(model, False, recipe, input_size, seed))
    rows, views = 6, 6
    shown = parts.images.subset(np.random.default_rng(seed).permutation(len(parts.train))[:rows].tolist())
    pictures = Pictures(shown, parts.content, config, progress)
    augmentation = Augmentation(recipe.augmentation)
    tiles, titles = [], []
    for i in range(len(shown)):
        tiles += [pictures[i], *(augmentation(np.array(pictures[i]), seed, epoch, i) for epoch in range(views - 1))]
        titles += [shown.classes[shown.labels[i]], *(f'epoch {epoch + 1}' for epoch in range(views - 1))]
    draw_pictures(tiles, titles, Path(path), views)
    return Path(path)


@dataclass(frozen=True)
class _Parts:
    """The pictures of a run: those to learn from, those held out of training, those to report on."""

    images: LabelledImages
    content: Mapping[Path, str]
    train: range  # places in images
    held_out: range
    validation: range
    data: Data

    @property
    def classes(self) -> Tuple[str, ...]:
        return self.images.classes

    def subset(self, part: str) -> LabelledImages:
        return self.images.subset(getattr(self, part))


def _prepare(source: str, train_share: float, held_out: float, seed: int, progress: Progress) -> _Parts:
    checked = check(load_source(source, progress), progress)
    collection = checked.collection
    train, validation = collection.train, collection.val
    if validation is None:
        train, validation = split(train, train_share, seed, checked.content)
    counts = train.class_counts
    held: LabelledImages = train.subset(())
    if held_out:
        train, held = split(train, 1 - held_out, seed + 1, checked.content)
    images = LabelledImages(
        train.paths + held.paths + validation.paths, train.labels + held.labels + validation.labels, train.classes)
    first_held, first_validation = len(train), len(train) + len(held)
    return _Parts(
        images=images,
        content=checked.content,
        train=range(first_held),
        held_out=range(first_held, first_validation),
        validation=range(first_validation, len(images)),
        data=Data(
            source=source,
            name=collection.name,
            classes=train.classes,
            train_counts=counts,
            held_out_counts=held.class_counts,
            validation_counts=validation.class_counts,
            left_out=checked.left_out,
            notes=collection.notes + checked.notes,
        ))


def _build(
        name: str, pretrained: bool, recipe: Recipe, input_size: Optional[int], seed: int,
) -> nn.Module:
    """The model with its own last layer yet, its `pretrained_cfg` saying how it is to be fed."""
    torch.manual_seed(seed)
    network = load_model(name, pretrained, drop_rate=recipe.drop_rate)
    if getattr(network, 'logit_relu', recipe.logit_relu) != recipe.logit_relu:
        network = load_model(name, pretrained, drop_rate=recipe.drop_rate, logit_relu=recipe.logit_relu)
    config = resolve_data_config(model=network)
    if input_size not in (None, config['input_size'][-1]) and network.pretrained_cfg.get('fixed_input_size'):  # type: ignore
        raise UserError(f'{name} takes no other input size than {config["input_size"][-1]}.')
    size = config['input_size'] if input_size is None else (config['input_size'][0], input_size, input_size)
    config_of_model: Any = network.pretrained_cfg
    config_of_model.update(
        input_size=size, crop_mode=recipe.crop_mode, interpolation=config['interpolation'],
        crop_pct=1.0 if recipe.crop_mode == 'squash' else config['crop_pct'])
    return network


@dataclass(frozen=True)
class _Frozen:
    features: Features  # what the frozen part makes of every picture
    trained: nn.Module  # what makes logits of them, with the last layer of the time


def _metrics_of(guesses: np.ndarray, parts: _Parts) -> ClassificationMetrics:
    return classification_metrics(
        confusion_matrix(parts.subset('validation').labels, guesses, len(parts.classes)), parts.classes)


def _linear_probe(
        network: nn.Module, frozen: Optional[_Frozen], pictures: Pictures, parts: _Parts, progress: Progress,
) -> Tuple[LinearClassifier, np.ndarray]:
    """Logistic regression on the pooled features, and the classes that it gives the validation pictures."""
    inputs: Inputs = pictures
    pooled = pooled_features(network)
    last = network.get_classifier()  # type: ignore[operator]
    if frozen is not None and isinstance(last, (nn.Linear, nn.Conv2d)):  # in heads of several layers it is not called
        inputs, pooled = frozen.features, pooled_input(frozen.trained, last)
    features = Features(inputs, pooled, 'computing pooled features, pictures', progress, small=True)
    x = np.stack([features[i] for i in range(len(parts.images))]).astype(np.float32)
    labels = np.asarray(parts.images.labels)
    learned = range(parts.validation.start)  # there is nothing to choose by held-out pictures
    linear = fit_linear(x[learned], labels[learned], len(parts.classes))
    return linear, linear.predict(x[parts.validation])


def _frozen_features(
        network: nn.Module, pictures: Pictures, recipe: Recipe, wanted: bool, progress: Progress,
) -> Tuple[Optional[_Frozen], str]:
    """What the frozen part makes of every picture, or why that is not kept."""
    if not recipe.epochs:
        return None, 'not used: nothing is trained'
    if not wanted:
        return None, 'not used: switched off'
    if recipe.trained_stages is None:
        return None, 'not used: nothing is frozen'
    if recipe.augmentation != 'none':
        return None, 'not used: augmentation shows the frozen part other pictures in each epoch'
    cut = cut_at_frozen(network)
    if cut is None:
        return None, 'not used: the frozen part ends in no single tensor, or torch.fx cannot trace the model'
    try:
        features = Features(pictures, cut.frozen, 'computing frozen features, pictures', progress)
    except NotKept as e:
        return None, f'not used: {e}'
    return _Frozen(features, cut.trained), 'used'


def _task(
        network: nn.Module, frozen: Optional[_Frozen], pictures: Pictures, parts: _Parts, recipe: Recipe, seed: int,
        config: Dict[str, Any],
) -> ClassificationTask:
    inputs: Inputs = pictures
    trained = None
    if frozen is not None:
        cut = cut_at_frozen(network)  # again, with the new last layer
        assert cut is not None
        inputs, trained = frozen.features, cut.trained
    labels = parts.images.labels
    augmentation = None if recipe.augmentation == 'none' else Augmentation(recipe.augmentation)
    return ClassificationTask(
        network, trained, config, recipe, seed,
        class_counts=parts.subset('train').class_counts,
        training=Samples(inputs, labels, augmentation, seed),
        training_indices=parts.train,
        monitoring=Samples(inputs, labels),
        monitoring_indices=parts.held_out or parts.validation)


@torch.inference_mode()
def _probabilities(network: nn.Module, pictures: Pictures, indices: range, progress: Progress) -> np.ndarray:
    rows = []
    for start in range(0, len(indices), INFERENCE_BATCH):
        part = indices[start:start + INFERENCE_BATCH]
        rows.append(network(pictures.input(part)).softmax(1).numpy())
        progress('evaluating, pictures', start + len(part), len(indices))
    return np.concatenate(rows)


def _chosen_epoch(epochs: Tuple[Epoch, ...], by_held_out: bool) -> int:
    if not epochs:
        return 0
    if by_held_out:
        return min(epochs, key=lambda epoch: epoch.monitor_loss or 0.0).number
    return epochs[-1].number


def _draw(result: TrainingResult, predictions: Tuple[PicturePrediction, ...], folder: Path) -> None:
    if result.epochs:
        draw_curves(result, folder / 'curves.png')
    draw_confusion(result.metrics, folder / 'confusion.png')
    draw_mistakes(mistakes(predictions), folder / 'mistakes.png')

"""From a checkpoint of timm to a run folder."""
import dataclasses
import json
import reprlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple, Union

import timm
import torch
import torch.nn as nn
from timm.data import create_transform, infer_imagenet_subset, resolve_data_config
from torch.nn.modules.module import register_module_parameter_registration_hook

from rsq_backbone.classification import class_names
from rsq_backbone.errors import UserError, one_line
from rsq_backbone.files import replaced_folder, set_aside, write_text
from rsq_backbone.importing.checkpoint import ARGUMENTS, Checkpoint, read_checkpoint
from rsq_backbone.importing.class_names import named_by_training, read_class_names
from rsq_backbone.importing.description import Description, describe
from rsq_backbone.model_loading import check_name, load_model
from rsq_backbone.training.lineage import describe_import
from rsq_backbone.training.run_folder import RunFolder

__all__ = ['ImportedCheckpoint', 'import_checkpoint']

_MARK = 'imported.json'  # of a folder that was made here, with all that is known of it
_MEANINGLESS = {'model_best', 'last', 'model', 'pytorch_model'}  # names of checkpoints that say nothing of the run


@dataclass(frozen=True)
class ImportedCheckpoint:
    """What imported.json says; its keys are these names."""

    folder: str
    file: str  # the weights are from
    model: str  # timm name
    parameters: int
    ema: bool  # whether they are the averaged weights
    epoch: Optional[int]  # counted from 0, as timm does
    classes: Tuple[str, ...]
    classes_from: str
    input_size: Tuple[int, int, int]  # channels, height, width
    notes: Tuple[str, ...]  # one line for each thing that the user should know


def import_checkpoint(
        checkpoint: Union[str, Path], output: Union[str, Path, None] = None, *, model: Optional[str] = None,
        classes: Union[str, Path, None] = None, use_ema: bool = False, overwrite: bool = False,
) -> ImportedCheckpoint:
    """Make a run folder of a classifier that timm trained, for `evaluate`, `deploy`, `profile` and the commands.

    Nothing of the checkpoint is executed, so it may come from anywhere.

    Args:
        checkpoint: Output folder of timm's train.py, folder of timm's save_for_hf, or a file of weights.
        output: The folder to make; by default runs/NAME.
        model: timm name of the architecture, where the checkpoint does not tell.
        classes: Text file with the name of a class a line, or folder with a folder of pictures a class; by default what
            the checkpoint names.
        use_ema: Take the averaged weights (train.py's --model-ema).
        overwrite: Replace a folder that was imported before.

    Raises:
        UserError: if the checkpoint is damaged, does not fit the architecture, its weights are not finite, the classes
            are unknown or not as many as the network has, or the folder is taken.
    """
    source = Path(checkpoint)
    place = Path(output) if output is not None else Path('runs', _run_name(source))
    _refuse_taken(place, overwrite)
    found = read_checkpoint(source, use_ema)
    description = describe(found)
    name = model or description.model
    if name is None:
        raise UserError(f'{found.file} does not tell its architecture; name it by --model, such as --model resnet18.')
    network = _build(name, description, found)
    _load(network, found, name)
    names, names_from, notes = _class_names(network, description, found, None if classes is None else Path(classes))
    if found.has_ema and not use_ema:
        notes.append('The checkpoint holds averaged weights as well; --use-ema takes them.')
    config: Any = network.pretrained_cfg
    if not description.preprocessing and not found.arguments:
        height, width = config['input_size'][1:]
        notes.append(
            f'Nothing is known of how its pictures were prepared; what is usual for {name} is taken, {width} x '
            f'{height} pixels. Where {ARGUMENTS} of the training lies beside the weights, that is followed.')
    describe_import(config, found.file.name, description.lineage, description.pretrained)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(place) as temporary:
            RunFolder(temporary).save_model(network, names)
            result = ImportedCheckpoint(
                folder=str(place), file=str(found.file), model=name,
                parameters=sum(p.numel() for p in network.parameters()), ema=found.ema, epoch=found.epoch,
                classes=names, classes_from=names_from, input_size=_try(temporary, network, found), notes=tuple(notes))
            write_text(temporary / _MARK, json.dumps(dataclasses.asdict(result), indent=2) + '\n')
    except OSError as e:
        raise UserError(f'{place} cannot be written ({e.strerror or one_line(e)}); choose another --output.') from e
    return result


def _run_name(source: Path) -> str:
    source = source.resolve()  # of `.` too
    name = source.name
    if not source.is_dir():
        name = name.partition('.')[0] or name
        if name in _MEANINGLESS or name.startswith('checkpoint-'):
            name = source.parent.name
    return name or 'imported'


def _refuse_taken(place: Path, overwrite: bool) -> None:
    try:
        imported = (place / _MARK).is_file()
        taken = place.is_symlink() or (place.exists() and not (place.is_dir() and not any(place.iterdir())))
        before = set_aside(place) if place.name else place.resolve()
        in_the_way = before.exists() and not (before / _MARK).is_file()
    except (OSError, ValueError) as e:  # a name that no folder can have
        raise UserError(f'{str(place)[:80]!r} cannot be a folder ({one_line(e)}); choose another --output.') from e
    if not place.name or place.is_symlink() or (taken and not imported):
        raise UserError(f'{place} exists and was not imported; choose another --output.')
    if taken and not overwrite:
        raise UserError(f'{place} exists: replace it with --overwrite, or choose another --output.')
    if in_the_way:
        raise UserError(f'{before} is in the way, and is not from here; move it, or choose another --output.')


def _build(name: str, description: Description, checkpoint: Checkpoint) -> nn.Module:
    """The network without its weights, its `pretrained_cfg` saying how it is to be fed."""
    if ':' in name:  # such a name would be fetched, or read from a folder
        raise UserError(f'{name!r} is not the name of an architecture; name that by --model, such as --model resnet18.')
    check_name(name)
    cfg = timm.get_pretrained_cfg(name)
    arguments = {**description.arguments, 'num_classes': _num_classes(cfg, description, checkpoint)}
    size = description.preprocessing.get('img_size') or (description.preprocessing.get('input_size') or [None])[-1]
    if size is not None and cfg is not None and cfg.fixed_input_size and not arguments.keys() & {
            'img_size', 'dynamic_img_size', 'strict_img_size'}:
        arguments['img_size'] = size
    network: Any
    try:
        with _no_larger_than(checkpoint):
            network = load_model(name, **arguments)
        if not network.num_classes:
            raise UserError(f'{checkpoint.file} holds a network without classes; train its last layer first.')
        data = resolve_data_config(description.preprocessing, model=network)
        channels = data['input_size'][0]
        for key in ('mean', 'std'):
            if len(data[key]) != channels:  # of RGB, for a network that takes grey: what timm's loaders make of it
                data[key] = (sum(data[key]) / len(data[key]),) * channels
        network.pretrained_cfg.update(data)
        create_transform(**resolve_data_config(model=network))
    except UserError:
        raise
    except Exception as e:  # of arguments that nobody has tried before
        raise UserError(
            f'{name} cannot be built as {checkpoint.described_by} says ({one_line(e)}); mend it there.') from e
    return network


@contextmanager
def _no_larger_than(checkpoint: Checkpoint) -> Iterator[None]:
    """Stop building a network once it has far more weights than there are, before a few bytes fill the memory.

    Some networks build layers that they throw away again, so there is room for that.
    """
    most = 10 * len(checkpoint.weights) + 1000
    most_values = 10 * sum(value.numel() for value in checkpoint.weights.values()) + 10_000_000
    layers = values = 0

    def count(module: nn.Module, name: str, parameter: Optional[torch.Tensor]) -> None:
        nonlocal layers, values
        layers, values = layers + 1, values + (0 if parameter is None else parameter.numel())
        if layers > most or values > most_values:
            raise UserError('it would be far larger than the weights in the checkpoint')

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _num_classes(cfg: Any, description: Description, checkpoint: Checkpoint) -> Optional[int]:
    """Of the last layer's weights where they are known by name: train.py writes down only what it was told."""
    layers = None if cfg is None else cfg.classifier
    layer = layers[0] if isinstance(layers, (list, tuple)) and layers else layers
    weight = checkpoint.weights.get(f'{layer}.weight')
    return description.num_classes if weight is None or weight.ndim < 2 else weight.shape[0]


def _load(network: nn.Module, checkpoint: Checkpoint, name: str) -> None:
    own, given = network.state_dict(), checkpoint.weights
    # Of batch norms, which count batches only since PyTorch 0.4.1.
    missing = [key for key in own if key not in given and not key.endswith('num_batches_tracked')]
    foreign = [key for key in given if key not in own]
    other = [key for key in given if key in own and own[key].shape != given[key].shape]
    faults = [f'{len(keys)} {what}, such as {reprlib.repr(keys[0])}' for keys, what in (
        (missing, 'missing'), (foreign, 'too many'), (other, 'of another shape')) if keys]
    if faults:
        raise UserError(
            f'{checkpoint.file} does not hold the weights of {name} ({"; ".join(faults)}); name the architecture that '
            'was trained by --model.')
    try:
        network.load_state_dict(given, strict=False)
    except RuntimeError as e:
        raise UserError(f'{checkpoint.file} is damaged ({one_line(e)}); copy it again.') from e
    for key, value in network.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(
                f'{checkpoint.file} holds weights that are not numbers ({key}): the training has diverged; import the '
                'checkpoint of an earlier epoch.')


def _class_names(
        network: nn.Module, description: Description, checkpoint: Checkpoint, named: Optional[Path],
) -> Tuple[Tuple[str, ...], str, List[str]]:
    """The names, where they are from, and notes."""
    count: Any = network.num_classes
    place, why = named, ''
    if place is None:
        if description.classes:
            _refuse_other_number(description.classes, count, checkpoint.described_by)
            return description.classes, checkpoint.described_by, []
        place, why = named_by_training(description.data)
    if place is not None:
        names = read_class_names(place)
        where = str(place) if named is not None else f'{place}, which {checkpoint.described_by} names'
        _refuse_other_number(names, count, where)
        return names, where, []
    if infer_imagenet_subset(network) is not None:
        return class_names(network), 'ImageNet', [
            f'The names of its {count} classes are not known ({why}); they are taken for those of ImageNet. --classes '
            'names others.']
    raise UserError(
        f'the names of the {count} classes of {checkpoint.file} are not known: {why}; name a text file with a name a '
        'line, or the folder with a folder of pictures a class that it was trained on, by --classes.')


def _refuse_other_number(names: Tuple[str, ...], count: int, where: str) -> None:
    if len(names) != count:
        raise UserError(
            f'the network has {count} classes, and {where} names {len(names)} ({", ".join(names[:3])}'
            f'{" ..." if len(names) > 3 else ""}); name them all, in the order of its outputs, by --classes.')


@torch.inference_mode()
def _try(folder: Path, network: nn.Module, checkpoint: Checkpoint) -> Tuple[int, int, int]:
    """See that what was written computes the same; gives the size of its input.

    Raises:
        UserError: if not.
    """
    again: Any = load_model(RunFolder(folder).timm_name(), pretrained=True)
    channels, height, width = resolve_data_config(model=again)['input_size']
    x = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    try:
        expected, logits = network(x), again(x)
    except Exception as e:  # of a network and an input that nobody has tried together before
        raise UserError(
            f'{checkpoint.file}: the network takes no picture of {width} x {height} pixels ({one_line(e)}); mend the '
            f'size in {checkpoint.described_by or "its settings"}.') from e
    if logits.shape != (1, again.num_classes):
        raise UserError(
            f'{checkpoint.file}: the network gives {" x ".join(map(str, logits.shape))} values for a picture and not '
            f'one for each of {again.num_classes} classes; only classifiers can be imported.')
    if not torch.equal(logits, expected) or not torch.isfinite(logits).all():
        raise UserError(
            f'{checkpoint.file}: the network does not compute the same once it has been written; its model_kwargs hold '
            'something that timm cannot write down.')
    return channels, height, width

"""What has to be known of a network besides its weights, from either of the two ways in which timm writes it down."""
import math
import reprlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, FrozenSet, Optional, Tuple

from rsq_backbone.errors import UserError
from rsq_backbone.importing.checkpoint import TEXTS, Checkpoint
from rsq_backbone.printable import UNPRINTABLE

__all__ = ['Description', 'describe']

_LARGEST_SIDE = 2048  # pixels; no classifier of timm takes as many
# Options of timm.create_model that fetch weights, open files, or make something other than the classifier.
_NOT_OF_THE_NETWORK: FrozenSet[str] = frozenset({
    'cache_dir', 'checkpoint_path', 'device', 'dtype', 'exportable', 'feature_cfg', 'features_only', 'kwargs_filter',
    'no_jit', 'out_indices', 'pretrained', 'pretrained_cfg', 'pretrained_cfg_overlay', 'pretrained_custom_load',
    'pretrained_filter_fn', 'pretrained_model_args', 'pretrained_strict', 'scriptable'})
# Of a configuration: where the weights come from, as far as that is for people to read.
_LINEAGE = ('license', 'description', 'origin_url', 'notes')
_PREPROCESSING = ('input_size', 'img_size', 'mean', 'std', 'crop_pct', 'crop_mode', 'interpolation')


@dataclass(frozen=True)
class Description:
    model: Optional[str]  # timm name
    arguments: Dict[str, Any]  # of timm.create_model
    preprocessing: Dict[str, Any]  # as timm's resolve_data_config takes it
    num_classes: Optional[int]
    classes: Tuple[str, ...] = ()  # empty where it does not name them
    # The configuration that the network has to end up with, as far as it says where the weights come from; None where
    # that has to be concluded from `pretrained`.
    lineage: Optional[Dict[str, Any]] = None
    pretrained: Optional[bool] = None  # whether the training began with the weights that timm has for `model`
    data: Dict[str, Any] = field(default_factory=dict)  # train.py's arguments about the pictures


def describe(checkpoint: Checkpoint) -> Description:
    """
    Raises:
        UserError: if what is written about the checkpoint is not what timm writes.
    """
    if checkpoint.config:
        return _of_config(checkpoint.config, checkpoint.described_by)
    return _of_arguments(checkpoint.arguments, checkpoint.described_by)


def _of_arguments(arguments: Dict[str, Any], where: str) -> Description:
    values = _checked(arguments, where)
    size = values.get('input_size')
    network = {
        'in_chans': values.get('in_chans') or (size[0] if size else None), 'global_pool': values.get('gp'),
        'bn_eps': values.get('bn_eps')}
    network = {key: value for key, value in network.items() if value is not None}
    pretrained = values.get('pretrained')
    if values.get('pretrained_path') or values.get('initial_checkpoint'):
        pretrained = None  # by weights that nothing is known of
    return Description(
        model=values.get('model'),
        arguments={**network, **values.get('model_kwargs', {})},
        preprocessing={key: values[key] for key in (*_PREPROCESSING, 'in_chans') if values.get(key)},
        num_classes=values.get('num_classes'),
        pretrained=pretrained,
        data={key: values[key] for key in ('data', 'data_dir', 'dataset', 'train_split', 'class_map')
              if values.get(key)})


def _of_config(config: Dict[str, Any], where: str) -> Description:
    if '_model_class' in config:
        raise UserError(
            'this is a segmentation network of smp, which needs no import: rsq deploy, rsq profile and python -m '
            'seg_demos.predict take the folder as it is.')
    written = config.get('pretrained_cfg', config)  # older versions of timm wrote one level
    if not isinstance(written, dict):
        raise _unknown(where, 'pretrained_cfg', written)
    values = _checked({**written, **{key: config[key] for key in _TOP_LEVEL if key in config}}, where)
    classes = config.get('label_names', written.get('label_names', ()))
    if isinstance(classes, dict):  # where numbers are missing
        classes = [classes.get(str(number)) for number in range(len(classes))]
    if not isinstance(classes, (list, tuple)) or not all(map(_is_name, classes)):
        classes = ()  # as if it named none
    return Description(
        model=values.get('architecture'),
        arguments=dict(values.get('model_args', {})),
        preprocessing={key: values[key] for key in _PREPROCESSING if values.get(key)},
        num_classes=values.get('num_classes'),
        classes=tuple(classes),
        lineage={key: written[key] for key in _LINEAGE if _are_lines(written.get(key))})


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 1000 and not UNPRINTABLE.search(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 1_000_000


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_SIDE


def _is_size(value: Any) -> bool:
    return (isinstance(value, (list, tuple)) and len(value) == 3 and _is_count(value[0])
            and _is_side(value[1]) and _is_side(value[2]))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and 0 < len(value) < 100 and all(map(_is_number, value))


def _are_positive(value: Any) -> bool:
    return _are_numbers(value) and min(value) > 0


def _are_options(value: Any) -> bool:
    """Plain values by name, and so few that they are soon looked at: a few bytes can make lists of any length."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return False
    pending, seen = [value], 0
    while pending:
        one = pending.pop()
        seen += 1
        if seen > 1000 or not isinstance(one, (type(None), bool, int, float, str, list, tuple, dict)):
            return False
        if isinstance(one, str) and UNPRINTABLE.search(one):
            return False
        if isinstance(one, (list, tuple, dict)):
            pending += list(one.values() if isinstance(one, dict) else one)[:1001]
    size = value.get('img_size')
    sides = size if isinstance(size, (list, tuple)) else [] if size is None else [size]
    return all(map(_is_side, sides)) and all(
        _is_count(value[key]) for key in ('in_chans', 'num_classes') if value.get(key) is not None)


def _are_lines(value: Any) -> bool:
    return _is_name(value) or (isinstance(value, (list, tuple)) and all(map(_is_name, value)))


_TOP_LEVEL = ('architecture', 'num_classes', 'model_args')
_EXPECTED: Dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ('model', 'architecture', 'gp', 'data', 'data_dir', 'dataset', 'train_split', 'class_map', 'pretrained_path',
         'initial_checkpoint'), _is_name),
    **dict.fromkeys(('model_kwargs', 'model_args'), _are_options),
    'num_classes': _is_count,
    'in_chans': _is_count,
    'img_size': _is_side,
    'input_size': _is_size,
    'mean': _are_numbers,
    'std': _are_positive,
    'crop_pct': lambda value: _is_number(value) and 0 < value <= 1,
    'bn_eps': lambda value: _is_number(value) and value > 0,
    'crop_mode': lambda value: value in ('center', 'squash', 'border'),
    'interpolation': lambda value: value in ('nearest', 'box', 'bilinear', 'hamming', 'bicubic', 'lanczos'),
    'pretrained': lambda value: isinstance(value, bool),
}


def _checked(values: Dict[str, Any], where: str) -> Dict[str, Any]:
    """Those that are read here; None and '' stand for what was not given.

    Raises:
        UserError: if one is not what timm writes there.
    """
    given = {key: values[key] for key in _EXPECTED if values.get(key) not in (None, '')}
    for key, value in given.items():
        if not _EXPECTED[key](value):
            raise _unknown(where, key, value)
    for key in ('model_kwargs', 'model_args'):
        refused = sorted(given.get(key, {}).keys() & _NOT_OF_THE_NETWORK)
        if refused:
            raise UserError(
                f'{where}: {key} sets {", ".join(refused)}, which is no part of a network; {_remedy(where)}.')
    return given


def _unknown(where: str, key: str, value: Any) -> UserError:
    short = reprlib.Repr()
    short.maxlevel = 2  # a few bytes can make lists of any depth
    return UserError(f'{where}: {key} is {short.repr(value)}, which cannot be used; {_remedy(where)}.')


def _remedy(where: str) -> str:
    if where in TEXTS:
        return 'mend it there'
    return 'save the weights alone, and name their architecture by --model'

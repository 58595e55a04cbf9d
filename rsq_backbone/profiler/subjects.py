"""What can be profiled, so described that a fresh process can build it.

Networks get random weights unless they come from a run's folder: which numbers are multiplied makes no difference to
time and memory, once those below float32's normal range are flushed to zero, and nothing has to be fetched.
"""
import dataclasses
import difflib
import importlib
import json
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from rsq_backbone.errors import UserError, one_line

if TYPE_CHECKING:
    import torch
    import torch.nn as nn

__all__ = ['Subject', 'module_subject', 'parse_subject']

Size = Tuple[int, int, int]

_SEED = 0
_TIMM_SIZE = (3, 224, 224)  # of models that are registered without a configuration
_SMP_SIZE = (3, 256, 256)  # divisible by every encoder's stride; smp names no size of its own
_SMP_CLASSES = 2  # with one, the largest class would always be the same
_WEIGHTS, _CONFIG = 'model.safetensors', 'config.json'


@dataclass(frozen=True)
class Subject:
    name: str  # as the user named it
    kind: str  # 'timm', 'smp', 'classifier' or 'segmentation' (a run's folder), 'onnx' (or OpenVINO's .xml) or 'module'
    input_size: Size  # channels, height, width that it is profiled with where the user names none
    file: Optional[str] = None  # the folder, ONNX file or saved module
    bytes_on_disk: Optional[int] = None  # of the weights
    trained: bool = False  # whether its weights are those that someone wants to use
    imports: Tuple[str, ...] = ()  # modules that have to be imported before it can be built
    search_path: Tuple[str, ...] = ()  # for Python's modules

    def to_json(self) -> Dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Dict[str, Any]) -> 'Subject':
        """Of what `to_json` gave, with tuples come back as lists."""
        values: Dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        return cls(**values)

    def import_libraries(self) -> None:
        """What builds it, apart from the building: a process that has these has all but the network."""
        self._find_modules()
        for module in (*_LIBRARIES[self.kind], *self.imports):
            importlib.import_module(module)

    def _find_modules(self) -> None:
        sys.path.extend(path for path in self.search_path if path not in sys.path)

    def build(self) -> 'nn.Module':
        """The network on the CPU, in evaluation mode; its random weights are the same in every process.

        Raises:
            UserError: if it cannot be built, or is a file and no network.
        """
        import torch

        if self.kind == 'onnx':
            raise UserError(
                f'{self.name} is an ONNX file, which PyTorch does not run; choose --runtime onnxruntime,openvino.')
        self._find_modules()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            try:
                for module in self.imports:
                    importlib.import_module(module)
                return _BUILDERS[self.kind](self).eval()
            except UserError:
                raise
            except Exception as e:  # folders and modules may come from anywhere, and so may what they raise
                raise UserError(f'{self.name} cannot be built ({one_line(e)}).') from e

    def inputs(self, batch: int, input_size: Size, seed: int = _SEED) -> List[np.ndarray]:
        """An array for each input, the batch first: float32 noise of standard deviation 1, or a module's own examples.

        An example of one and the same number, such as torch.zeros, says the shape only: noise takes its place, as zeros
        can be faster than anything real and make all runtimes agree.

        Raises:
            UserError: if a module has examples of another size only.
        """
        noise = np.random.default_rng(seed)
        if self.kind != 'module':
            return [noise.standard_normal((batch, *input_size), dtype=np.float32)]
        if tuple(input_size) != self.input_size:
            raise UserError(
                f'{self.name} came with inputs of {_times(self.input_size)}; give it some of {_times(input_size)}.')
        with np.load(_examples(Path(str(self.file)))) as examples:
            arrays = [examples[key] for key in examples.files]
        return [
            noise.standard_normal((batch, *array.shape[1:])).astype(array.dtype) if _only_says_its_shape(array) else
            array[np.arange(batch) % len(array)] for array in arrays]  # as often as it takes

    def check(self, batch: int, input_size: Size) -> None:
        """See whether it takes such a batch. What does is built for that, but not run.

        Raises:
            UserError: if not, or if it cannot be built.
        """
        if self.kind == 'onnx':
            _refuse_other_size(self.name, _onnx_input_shape(Path(str(self.file))), (batch, *input_size))
            return
        import torch

        network = self.build()
        state = {key: value.to('meta') for key, value in (*network.named_parameters(), *network.named_buffers())}
        with torch.inference_mode():
            try:
                torch.func.functional_call(network, state, tuple(self._shapes(batch, input_size)))
            except Exception:  # of the network, or because not everything can be run on tensors without values
                inputs = [torch.from_numpy(array) for array in self.inputs(batch, input_size)]
                try:
                    network(*inputs)
                except Exception as e:
                    raise UserError(
                        f'{self.name} refuses an input of {_times((batch, *input_size))}: {one_line(e)}') from e

    def _shapes(self, batch: int, input_size: Size) -> List['torch.Tensor']:
        """`inputs` without their values, and without the memory for them."""
        import torch

        if self.kind != 'module':
            return [torch.empty(batch, *input_size, device='meta')]
        return [torch.from_numpy(array).to('meta') for array in self.inputs(batch, input_size)]


def parse_subject(text: str) -> Subject:
    """What the user named: a timm model, `smp:Architecture:encoder`, the folder of a run, or an ONNX file.

    Architectures of smp are those in `smp.MODEL_ARCHITECTURES_MAPPING`; whoever registers others has to import them
    first, and the process that builds them does the same.

    Raises:
        UserError: if there is no such thing, or the file or folder is damaged.
    """
    if text.endswith('.onnx'):
        return _parse_onnx(text)
    if text.startswith('smp:'):
        return _parse_smp(text)
    place = text.removeprefix('local-dir:')
    if _is_folder(Path(place)):
        return _parse_folder(text, Path(place).absolute())
    if any(sign in text for sign in (os.sep, '/', ':')):
        raise UserError(
            f'there is no folder {text!r}; name a timm model, smp:Architecture:encoder, the folder of a run, or a file '
            'that ends in .onnx.')
    return _parse_timm(text)


def module_subject(
        module: Callable[..., Any], inputs: Sequence[Union[np.ndarray, 'torch.Tensor']], folder: Path,
        name: str = '') -> Subject:
    """A network of the user's own, written to `folder` for the processes that measure it.

    Args:
        module: An `nn.Module`, or a function of tensors. It, and the classes of its parts, have to be importable.
        inputs: An example of each input, the batch first.
        folder: To write to; one for each module.
        name: What the profile calls it; its class or function if not given.

    Raises:
        UserError: if another process could not load it, or there is no input to it.
    """
    import torch
    import torch.nn as nn

    name = name or getattr(module, '__name__', type(module).__name__)
    arrays = [x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in inputs]
    if not arrays or arrays[0].ndim != 4 or not all(array.ndim and len(array) for array in arrays):
        raise UserError(
            f'{name} needs an example of each of its inputs, the batch first, and pictures (N, C, H, W) before others.')
    parts = module.modules() if isinstance(module, nn.Module) else [module]
    origins = {str(getattr(part, '__module__', '')) for part in parts}
    if '__main__' in origins:
        raise UserError(f'{name} is defined in the script itself; move it to a module, for other processes to import.')
    file = folder / 'module.pt'
    try:
        torch.save(module, file)
    except Exception as e:  # pickle asks every part of it
        raise UserError(f'{name} cannot be handed to another process ({one_line(e)}).') from e
    np.savez(_examples(file), *arrays)
    return Subject(
        name=name, kind='module', input_size=arrays[0].shape[1:], file=str(file.absolute()),
        bytes_on_disk=file.stat().st_size, trained=True, search_path=tuple(sys.path),
        imports=tuple(sorted(origin for origin in origins if origin and not origin.startswith('torch.'))))


def _only_says_its_shape(array: np.ndarray) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating) and array.size and (array == array.flat[0]).all())


def _parse_timm(text: str) -> Subject:
    import timm

    from rsq_backbone.model_loading import check_name

    check_name(text)
    cfg = timm.get_pretrained_cfg(text)
    return Subject(text, 'timm', _TIMM_SIZE if cfg is None else cfg.input_size)


def _build_timm(subject: Subject) -> 'nn.Module':
    from rsq_backbone.model_loading import load_model

    return load_model(subject.name)


def _parse_smp(text: str) -> Subject:
    import segmentation_models_pytorch as smp
    import timm

    if text.count(':') != 2 or text.endswith(':'):
        raise UserError(f'{text!r} should be smp:Architecture:encoder, such as smp:Unet:res_squeezenet.')
    _, architecture, encoder = text.split(':')
    found = smp.MODEL_ARCHITECTURES_MAPPING.get(architecture.lower())
    if found is None:
        names = [one.__name__ for one in smp.MODEL_ARCHITECTURES_MAPPING.values()]
        raise UserError(
            f'smp has no architecture {architecture!r}; {_did_you_mean(architecture, names)} Others have to be '
            'imported before, as seg_demos.segnet_model for SegNet.')
    of_timm = encoder.removeprefix('tu-').partition('.')[0]
    if encoder not in smp.encoders.encoders and not (encoder.startswith('tu-') and timm.is_model(of_timm)):
        names = [*smp.encoders.encoders, *(f'tu-{name}' for name in timm.list_models())]
        raise UserError(
            f'smp has no encoder {encoder!r}; {_did_you_mean(encoder, names)} smp.encoders.get_encoder_names() lists '
            'them, and tu- stands before any of timm.')
    return Subject(text, 'smp', _SMP_SIZE, imports=(found.__module__,))


def _build_smp(subject: Subject) -> 'nn.Module':
    import segmentation_models_pytorch as smp

    _, architecture, encoder = subject.name.split(':')
    network: nn.Module = smp.create_model(architecture, encoder, encoder_weights=None, classes=_SMP_CLASSES)
    return network


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    """With upper and lower case alike."""
    by_lower = {one.lower(): one for one in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3)
    return f'did you mean {" or ".join(by_lower[one] for one in close)}?' if close else 'nothing is called like that.'


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _parse_folder(text: str, folder: Path) -> Subject:
    config = _read_config(folder)
    subject = Subject(
        text, 'classifier', (0, 0, 0), file=str(folder), bytes_on_disk=(folder / _WEIGHTS).stat().st_size, trained=True)
    if 'architecture' in config:
        import timm
        from timm.data import resolve_data_config

        network = subject.build()
        # A network that a module of the caller's own registered is registered in the measuring process by it too.
        module = timm.model_entrypoint(config['architecture']).__module__
        return dataclasses.replace(
            subject, input_size=tuple(resolve_data_config(model=network)['input_size']), imports=(module,),
            search_path=tuple(sys.path))
    import segmentation_models_pytorch as smp

    found = smp.MODEL_ARCHITECTURES_MAPPING.get(str(config.get('_model_class')).lower())
    if found is None or not isinstance(config.get('encoder_name'), str):
        raise UserError(
            f'{folder / _CONFIG} describes no network of timm, and none of smp whose architecture has been imported '
            '(as seg_demos.segnet_model has to be for SegNet).')
    subject = dataclasses.replace(
        subject, kind='segmentation', input_size=_SMP_SIZE, imports=(found.__module__,))
    subject.build()
    return subject


def _read_config(folder: Path) -> Dict[str, Any]:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(
                f'{folder} is no finished run ({name} is missing); rsq finetune makes one, and rsq import makes one of '
                'a checkpoint of timm.')
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f'{folder / _CONFIG} is damaged ({one_line(e)}); copy the folder again.') from e
    if not isinstance(config, dict):
        raise UserError(f'{folder / _CONFIG} is damaged (it holds no object); copy the folder again.')
    return config


def _build_classifier(subject: Subject) -> 'nn.Module':
    from rsq_backbone.model_loading import load_model

    return load_model(f'local-dir:{subject.file}', pretrained=True)


def _build_segmentation(subject: Subject) -> 'nn.Module':
    from rsq_backbone.model_loading import load_smp_folder

    folder = Path(str(subject.file))
    return load_smp_folder(folder, _read_config(folder))


def _parse_onnx(text: str) -> Subject:
    file = Path(text)
    shape = _onnx_input_shape(file)
    channels, height, width = (
        size if isinstance(size, int) else default for size, default in zip(shape[1:], _SMP_SIZE, strict=True))
    return Subject(
        text, 'onnx', (channels, height, width), file=str(file.absolute()), bytes_on_disk=file.stat().st_size,
        trained=True)


def _onnx_input_shape(file: Path) -> List[Union[int, str]]:
    """Batch, channels, height, width of its only input; names stand for any size.

    Raises:
        UserError: if the file is damaged, or takes something other than one batch of float32 pictures.
    """
    if find_spec('onnx') is None:
        raise UserError('ONNX files need more packages: pip install "rsq-backbone[onnx]"')
    import onnx

    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except FileNotFoundError:
        raise UserError(f'there is no file {file}.') from None
    except Exception as e:  # its parser's own kinds
        raise UserError(f'{file} is no ONNX file, or damaged ({one_line(e)}); export it again.') from e
    constants = {constant.name for constant in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    shapes = [[d.dim_value or d.dim_param or '?' for d in one.type.tensor_type.shape.dim] for one in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UserError(
            f'{file} takes {" and ".join(map(_times, shapes)) or "nothing"}; only files that take one batch of float32 '
            'pictures (N, C, H, W) can be profiled.')
    return shapes[0]


def _refuse_other_size(name: str, wanted: Sequence[Union[int, str]], given: Sequence[int]) -> None:
    if any(isinstance(a, int) and a != b for a, b in zip(wanted, given, strict=True)):
        raise UserError(f'{name} takes {_times(wanted)} and not {_times(given)}; choose --batch and --input-size so.')


def _build_module(subject: Subject) -> 'nn.Module':
    import torch
    import torch.nn as nn

    # Our own file, with the user's own classes in it.
    loaded = torch.load(str(subject.file), map_location='cpu', weights_only=False)
    if isinstance(loaded, nn.Module):
        return loaded

    class Function(nn.Module):
        def forward(self, *inputs: torch.Tensor) -> Any:
            return loaded(*inputs)

    return Function()


def _examples(module_file: Path) -> Path:
    """Beside the module, in a form that a process without PyTorch reads."""
    return module_file.with_suffix('.npz')


def _times(shape: Sequence[Union[int, str]]) -> str:
    return ' x '.join(map(str, shape))


_LIBRARIES: Dict[str, Tuple[str, ...]] = {
    'timm': ('rsq_backbone.model_loading',),
    'smp': ('segmentation_models_pytorch',),
    'classifier': ('rsq_backbone.model_loading',),
    'segmentation': ('segmentation_models_pytorch',),
    'onnx': (),
    'module': (),
}
_BUILDERS: Dict[str, Callable[[Subject], 'nn.Module']] = {
    'timm': _build_timm,
    'smp': _build_smp,
    'classifier': _build_classifier,
    'segmentation': _build_segmentation,
    'module': _build_module,
}

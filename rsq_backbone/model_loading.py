"""Models by their timm names and from folders, with errors that say how to mend the call."""
import difflib
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Dict, Union

import timm
import torch
import torch.nn as nn

import rsq_backbone.res_squeezenet  # noqa: F401  (registers)
from rsq_backbone.errors import UserError, one_line

__all__ = ['as_model', 'check_name', 'load_model', 'load_smp_folder']


def load_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`timm.create_model(name, pretrained, **kwargs)` in evaluation mode; options that are None are left out.

    Its weights are in channels_last memory, in which PyTorch's max pools and convolutions are fastest on CPUs: whatever
    runs such a model computes in that format, even from contiguous input.

    Raises:
        UserError: if timm does not know the name or the tag, the model refuses an option, or weights are out of reach.
    """
    if ':' not in name:  # hf-hub: and local-dir: names are not in the registry
        check_name(name)
        if pretrained and not timm.models.is_model_pretrained(name):
            raise UserError(f'no pretrained weights exist for {name!r}; choose one of timm.list_pretrained().')
    try:
        model = timm.create_model(name, pretrained=pretrained, **kwargs).eval()
        return model.to(memory_format=torch.channels_last)
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as e:
        if pretrained and isinstance(e, OSError):
            raise UserError(
                f'the weights of {name!r} are out of reach ({one_line(e)}); go online, or use res_squeezenet, whose '
                'weights are bundled.') from e
        raise UserError(f'{name!r} cannot be built like this: {one_line(e)}') from e


def as_model(model: Union[str, nn.Module], pretrained: bool) -> nn.Module:
    """The model itself, or what `load_model` makes of its name.

    Raises:
        UserError: where `load_model` does, or for anything else.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, str):
        return load_model(model, pretrained)
    raise UserError(f'a model is a torch.nn.Module or the name of a timm model, not {type(model).__name__}.')


def check_name(name: str) -> None:
    """Raise a UserError if timm does not know the name or the tag."""
    arch, _, tag = name.partition('.')
    if not timm.is_model(arch):
        raise UserError(f'unknown model {name!r}; {_suggestion(arch)}')
    tags = [m.partition('.')[2] for m in timm.list_models(f'{arch}.*', include_tags=True)]
    if tag and tag not in tags:
        raise UserError(f'model {arch!r} has no weights tagged {tag!r}; it has: {", ".join(tags) or "none"}.')


def load_smp_folder(folder: Path, config: Dict[str, Any]) -> nn.Module:
    """The segmentation network that smp's `save_pretrained` left, in evaluation mode, from that folder alone.

    Args:
        folder: With config.json and model.safetensors; may come from anywhere.
        config: What config.json says.

    Raises:
        Exception: of any kind, from smp, timm and safetensors.
    """
    import segmentation_models_pytorch as smp

    # A few of timm's options read files and hubs, which a folder from somewhere else has no business to do.
    if 'checkpoint_path' in config or ':' in config['encoder_name']:
        raise ValueError('it names files or hubs to load from')
    # huggingface_hub prints what it does, and smp warns at length of what is raised anyway.
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        network: nn.Module = smp.from_pretrained(folder, encoder_weights=None, local_files_only=True)
    return network.eval()


def _suggestion(arch: str) -> str:
    close = difflib.get_close_matches(arch, timm.list_models(), n=3)
    if close:
        return f'did you mean {" or ".join(close)}?'
    return 'timm.list_models() lists the names.'

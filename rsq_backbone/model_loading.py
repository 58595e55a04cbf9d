"""Models by their timm names, with errors that say how to mend the call."""
import difflib
from typing import Any

import timm
import torch.nn as nn

import rsq_backbone.res_squeezenet  # noqa: F401  (registers)
from rsq_backbone.errors import UserError, one_line

__all__ = ['load_model']


def load_model(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """`timm.create_model(name, pretrained, **kwargs)` in evaluation mode; options that are None are left out.

    Raises:
        UserError: if timm does not know the name or the tag, the model refuses an option, or weights are out of reach.
    """
    arch, _, tag = name.partition('.')
    if ':' not in name:  # hf-hub: and local-dir: names are not in the registry
        if not timm.is_model(arch):
            raise UserError(f'unknown model {name!r}; {_suggestion(arch)}')
        tags = [m.partition('.')[2] for m in timm.list_models(f'{arch}.*', include_tags=True)]
        if tag and tag not in tags:
            raise UserError(f'model {arch!r} has no weights tagged {tag!r}; it has: {", ".join(tags) or "none"}.')
        if pretrained and not timm.models.is_model_pretrained(name):
            raise UserError(f'no pretrained weights exist for {name!r}; choose one of timm.list_pretrained().')
    try:
        return timm.create_model(name, pretrained=pretrained, **kwargs).eval()
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as e:
        if pretrained and isinstance(e, OSError):
            raise UserError(
                f'the weights of {name!r} are out of reach ({one_line(e)}); go online, or use res_squeezenet, whose '
                'weights are bundled.') from e
        raise UserError(f'{name!r} cannot be built like this: {one_line(e)}') from e


def _suggestion(arch: str) -> str:
    close = difflib.get_close_matches(arch, timm.list_models(), n=3)
    if close:
        return f'did you mean {" or ".join(close)}?'
    return 'timm.list_models() lists the names.'

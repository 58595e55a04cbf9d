"""The JSON schema of a profile, made from the dataclasses that it describes.

`python -m rsq_backbone.profiler.schema` writes the published file anew.
"""
import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any, Dict, Union, get_args, get_origin, get_type_hints, is_typeddict

from rsq_backbone.profiler import profile
from rsq_backbone.profiler.profile import FORMAT, Profile

__all__ = ['SCHEMA_FILE', 'profile_schema']

SCHEMA_FILE = Path(__file__).with_name('profile.schema.json')

_TYPES = {str: 'string', bool: 'boolean', int: 'integer', float: 'number'}


def profile_schema() -> Dict[str, Any]:
    """JSON schema (draft 2020-12) of what `write_profile` writes.

    Keys that it does not name are allowed: a later version of the same format may add some.
    """
    definitions: Dict[str, Any] = {}
    whole = _of_fields(Profile, definitions)
    whole['properties']['format'] = {'const': FORMAT}
    return {
        '$schema': 'https://json-schema.org/draft/2020-12/schema',
        'title': 'Profile of rsq-backbone',
        **whole,
        'description': inspect.cleandoc(profile.__doc__ or ''),
        '$defs': dict(sorted(definitions.items())),
    }


def _of_fields(kind: Any, definitions: Dict[str, Any]) -> Dict[str, Any]:
    """Of a dataclass or a TypedDict, whose keys are all required."""
    hints = get_type_hints(kind)
    optional = {f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING} if (
        dataclasses.is_dataclass(kind)) else set()
    written: Dict[str, Any] = {'type': 'object'}
    if kind.__doc__ and not kind.__doc__.startswith((f'{kind.__name__}(', 'dict(')):  # what Python makes up
        written['description'] = ' '.join(kind.__doc__.split())
    written['properties'] = {name: _of_hint(hint, definitions) for name, hint in hints.items()}
    written['required'] = [name for name in hints if name not in optional]
    return written


def _of_hint(hint: Any, definitions: Dict[str, Any]) -> Dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _TYPES:
        return {'type': _TYPES[hint]}
    if dataclasses.is_dataclass(hint) or is_typeddict(hint):
        name = getattr(hint, '__name__', '')
        if name not in definitions:
            definitions[name] = _of_fields(hint, definitions)
        return {'$ref': f'#/$defs/{name}'}
    if origin is Union:  # Optional
        return {'anyOf': [_of_hint(arguments[0], definitions), {'type': 'null'}]}
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return {'type': 'array', 'items': _of_hint(arguments[0], definitions)}
    if origin is tuple:
        items = [_of_hint(argument, definitions) for argument in arguments]
        return {'type': 'array', 'prefixItems': items, 'items': False, 'minItems': len(items)}
    if origin is dict:
        return {'type': 'object', 'additionalProperties': _of_hint(arguments[1], definitions)}
    raise TypeError(f'no schema is known for {hint}')


if __name__ == '__main__':
    SCHEMA_FILE.write_text(json.dumps(profile_schema(), indent=2) + '\n', encoding='utf-8')

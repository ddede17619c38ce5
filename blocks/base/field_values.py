"""Example values for the fields of a config, by type, for tests and starter specs. Torch-free.

Required counts are 2. The `examples` of a field take precedence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from blocks.base.config import Config


def required_values(config: type[Config]) -> dict[str, Any]:
    """Return an example value for each required field."""
    fields = config.model_fields.items()
    return {
        field.alias or name: (field.examples or values_of(field.annotation, required=True))[0]
        for name, field in fields
        if field.is_required()
    }


def other_values(config: type[Config]) -> Iterator[tuple[str, Any]]:
    """Yield (field, value) for values that differ from the default and from `required_values`."""
    first = required_values(config)
    for key, field in config.model_fields.items():
        name = field.alias or key
        for value in field.examples or values_of(field.annotation):
            if name != "type" and value not in (field.default, first.get(name)):
                yield name, value


def values_of(annotation: Any, required: bool = False) -> list[Any]:
    """Return example values for a flag, a choice or a number; none for other types."""
    origin = get_origin(annotation)
    if annotation is bool:
        return [True, False]
    if annotation is int:
        return [2] if required else [1, 2]
    if annotation is float:
        return [0.5]
    if origin is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Config):
        first = required_values(annotation)
        return [first] if first else [{name: value} for name, value in other_values(annotation)]
    if origin is Annotated:
        return values_of(get_args(annotation)[0], required)
    return [value for part in get_args(annotation) for value in values_of(part, required)]

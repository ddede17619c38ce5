"""Examples of a block, made from the fields of its config. Torch-free.

Required counts are 2, and every other value of a flag, a choice or an optional count makes one more example.
Those that the block itself refuses are left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

from blocks.base.config import BlockConfig

WIDTH = 16
Plain = dict[str, Any]


def examples(config: type[BlockConfig]) -> dict[str, Plain]:
    """Map a name to each example of a block, as plain data."""
    kind = config.model_fields["type"].default
    plain: Plain = {"type": kind}
    for name, field in config.model_fields.items():
        if field.is_required():
            plain[name] = _values(field.annotation, required=True)[0]
    found = {kind: plain}
    for name, field in config.model_fields.items():
        for value in _values(field.annotation):
            if name != "type" and value not in (field.default, plain.get(name)):
                found[f"{kind}, {name} {value}"] = {**plain, name: value}
    return {name: one for name, one in found.items() if not _refused(config, one)}


def _values(annotation: Any, required: bool = False) -> list[Any]:
    """Return values to try for a field: flags, choices and counts; other fields stay at their default."""
    origin = get_origin(annotation)
    if annotation is bool:
        return [True, False]
    if annotation is int:
        return [2] if required else [1, 2]
    if annotation is float:
        return [0.5]
    if origin is Literal:
        return list(get_args(annotation))
    if origin is Annotated:
        return _values(get_args(annotation)[0], required)
    return [value for part in get_args(annotation) for value in _values(part, required)]


def _refused(config: type[BlockConfig], plain: Plain) -> bool:
    return any(config.model_validate(plain).problems(WIDTH))


def tree(plain: Plain, context: int = 8) -> Plain:
    """Return the plain data of a model of this block alone, at three steps."""
    return {
        "schema": 1,
        "name": "t",
        "model": {"width": WIDTH, "vocab": 13, "context": context},
        "blocks": {"b": plain},
        "stages": [{"recur": 3, "step": ["b"]}],
    }

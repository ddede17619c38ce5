"""Writes a spec in full, as YAML that loads back to an equal spec."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from blocks.base.config import Config, Problem
from composer.language.parsing.yaml12 import scalar
from composer.language.schema.defaults import changed
from composer.language.schema.levels import Sublayer
from composer.language.schema.spec import Spec, Stage
from composer.language.schema.wired import Wired, inherited_keys

Path: TypeAlias = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
_WIDEST = 52
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def resolved_yaml(spec: Spec, origins: bool = False) -> str:
    """Write `spec` with every default filled in; with `origins` each key says where its value came from."""
    return "".join(f"{line.text}{line.origin}\n" for line in resolved_lines(spec, origins))


def changed_yaml(spec: Spec) -> str:
    """Write only the values that differ from defaults; the result loads to an equal spec."""
    return "".join(f"{text}\n" for text, _ in _mapping(changed(spec, document(spec)), (), ""))


class ShownLine(NamedTuple):
    """One line of a spec in full.

    Attributes:
        origin: the comment behind it, or "".
        changed: whether its value has no default or differs from it; None for the head of a mapping.
    """

    text: str
    origin: str
    changed: bool | None


def resolved_lines(spec: Spec, origins: bool = False) -> Iterator[ShownLine]:
    """Yield the lines of `resolved_yaml`."""
    full = document(spec)
    kept = changed(spec, full)
    lines = list(_mapping(full, (), ""))
    column = min(_WIDEST, max(len(text) for text, _ in lines)) + 2
    for text, path in lines:
        where = spec.origin(*path) if origins and path is not None else ""
        origin = f"{' ' * max(2, column - len(text))}# {where}" if where else ""
        yield ShownLine(text, origin, None if path is None else _holds(kept, path))


def _holds(plain: Any, path: Path) -> bool:
    for step in path:
        if isinstance(plain, dict) and step not in plain:
            return False
        plain = plain[step]
    return True


def document(spec: Spec) -> dict[str, Any]:
    """Return the spec as plain values, in reading order."""
    width, model, train = spec.model.width, spec.model, spec.train
    tree: dict[str, Any] = spec.model_dump(by_alias=True, exclude={"blocks", "stages", "caps", "train"})
    tree["blocks"] = {
        name: _fields(block, lambda b: b.problems(width)) for name, block in spec.blocks.items()
    }
    tree["stages"] = [_stage(stage) for stage in spec.stages]
    if caps := spec.caps.model_dump(exclude_none=True):
        tree["caps"] = caps
    if train is not None:
        data = _fields(train.data, lambda data: data.problems(model))
        tree["train"] = {"data": data} | train.model_dump(exclude={"data"})
    keys = [field.alias or name for name, field in Spec.model_fields.items()]
    return {key: tree[key] for key in keys if key in tree}


def _fields(config: Any, problems: Callable[[Any], Iterable[Problem]]) -> dict[str, Any]:
    """Dump a config without defaults that it would refuse if written out."""
    fields: dict[str, Any] = config.model_dump(by_alias=True)
    assert isinstance(config, Config)
    silent = {field.alias or name for name, field in type(config).model_fields.items()}
    silent -= {type(config).model_fields[name].alias or name for name in config.model_fields_set}
    silent -= {"type", "task"}
    refused = {problem.key for problem in problems(type(config).model_validate(fields))} & silent
    return {name: value for name, value in fields.items() if name not in refused}


def _stage(stage: Stage) -> dict[str, Any]:
    steps = [_stage(item) if isinstance(item, Stage) else _entry(item) for item in stage.step]
    options = _options(stage, without={"recur", "stack", "step"})
    count = stage.model_dump(include={"recur", "stack"}, exclude_none=True, by_alias=True)
    return {**count, "step": steps, **options}


def _entry(entry: Sublayer) -> Any:
    return entry if isinstance(entry, str) else _options(entry)


def _options(config: Wired, without: Collection[str] = ()) -> dict[str, Any]:
    """Dump a config without inherited keys, and without `at` for all steps."""
    taken = {key for key in (*inherited_keys(type(config)), "at") if getattr(config, key) is None}
    return config.model_dump(exclude={*without, *taken})


Line: TypeAlias = tuple[str, Path | None]


def _mapping(mapping: dict[str, Any], path: Path, indent: str) -> Iterator[Line]:
    for key, value in mapping.items():
        head, here = f"{indent}{_scalar(key)}:", (*path, key)
        if isinstance(value, dict) and value:
            yield head, None
            yield from _mapping(value, here, indent + "  ")
        elif isinstance(value, list | tuple) and not all(map(_short, value)):
            yield head, None
            yield from _items(value, here, indent + "  ")
        else:
            yield f"{head} {_flow(value)}", here


def _items(items: Iterable[Any], path: Path, indent: str) -> Iterator[Line]:
    for i, item in enumerate(items):
        here = (*path, i)
        if isinstance(item, dict) and item and not _short(item):
            (first, where), *rest = _mapping(item, here, indent + "  ")
            yield f"{indent}- {first.lstrip()}", where
            yield from rest
        elif isinstance(item, list | tuple) and not _short(item):
            yield f"{indent}-", None
            yield from _items(item, here, indent + "  ")
        else:
            yield f"{indent}- {_flow(item)}", here


def _short(value: Any) -> bool:
    """Whether a list item stands on one line: a scalar, or an entry of a step that is not a stage."""
    if isinstance(value, dict):
        return "use" in value or "parallel" in value
    return not isinstance(value, list | tuple)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        case str():
            bare = _BARE.fullmatch(value) and isinstance(scalar(value), str)
            return value if bare else _quoted(value)
        case _:
            return repr(value)


def _quoted(text: str) -> str:
    text = text.replace("${", "$${")
    return f'"{"".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text)}"'


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"

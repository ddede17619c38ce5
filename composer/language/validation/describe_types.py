"""Describes types for error messages, and follows the location of a validation error through types."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Len, Lt, MinLen
from pydantic import Tag
from pydantic.fields import FieldInfo

from blocks.base.config import Config
from blocks.base.fields import LARGEST, Bytes, Count, Grid, Natural, Width
from composer.language.schema.unions import DiscoveredUnion
from composer.settings.errors import listed
from composer.settings.tree import Node
from composer.settings.types import Description

M = TypeVar("M")

_NAMED = {
    Width: "a whole number above 0, such as 64 or 4Ki",
    Count: "a whole number above 0, such as 64 or 4Ki",
    Natural: "a whole number, 0 or more",
    Bytes: "a size in bytes, such as 64MiB or 2GiB",
}


def words(hint: Any, extra: tuple[Any, ...] = ()) -> str:
    """Describe a type hint: `Count` is "a whole number above 0, such as 64 or 4Ki"."""
    if (named := _named(hint)) and not extra:
        return named
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        if said := next((item for item in metadata if isinstance(item, Description)), None):
            return said
        if grid := next((item for item in metadata if isinstance(item, Grid)), None):
            return f"{grid.words}, such as {grid.nth(8)} or {grid.nth(32)}"
        union = next((item for item in metadata if isinstance(item, DiscoveredUnion)), None)
        if union:
            return union.describe()
        return words(inner, (*_flat(metadata), *extra))
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return listed(_plain(value) for value in args)
    if origin in (Union, types.UnionType):
        return listed(dict.fromkeys(each for arg in args for each in _alternatives(_untagged(arg))))
    if origin is tuple or origin is list:
        return _list(origin, args, extra)
    if isinstance(hint, type) and issubclass(hint, Config):
        keys = [field.alias or name for name, field in hint.model_fields.items()]
        return f"a mapping of {', '.join(keys)}" if keys else "an empty mapping"
    if origin is dict or hint is dict:
        return "a mapping from names to values"
    base = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(
        hint, "another value"
    )
    return f"{base}{_bounds(extra)}"


def _alternatives(hint: Any) -> list[str]:
    """Describe a branch of a union: its values where it has few."""
    if hint is type(None):
        return []
    return [*map(_plain, get_args(hint))] if get_origin(hint) is Literal else [words(hint)]


def _untagged(hint: Any) -> Any:
    """Return a branch of a tagged union without its tag."""
    if get_origin(hint) is not Annotated:
        return hint
    inner, *metadata = get_args(hint)
    rest = [item for item in metadata if not isinstance(item, Tag)]
    return Annotated[inner, *rest] if rest else inner


def _named(hint: Any) -> str | None:
    try:
        return _NAMED.get(hint)
    except TypeError:
        return None


def _list(origin: type, args: tuple[Any, ...], extra: tuple[Any, ...]) -> str:
    if origin is tuple and args and args[-1] is not Ellipsis:
        kinds = list(dict.fromkeys(words(arg) for arg in args))
        return f"a list of {len(args)}: {kinds[0]}" if len(kinds) == 1 else f"a list of {', '.join(kinds)}"
    least = next((item.min_length for item in extra if isinstance(item, MinLen | Len)), 0)
    return f"a list of {least} or more" if least > 1 else "a list that is not empty" if least else "a list"


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else [item]


def _bounds(extra: tuple[Any, ...]) -> str:
    bounds = []
    low = next((item.ge for item in extra if isinstance(item, Ge)), None)
    # the bound on all counts says nothing worth reading
    extra = tuple(item for item in extra if not (isinstance(item, Le) and item.le == LARGEST))
    high = next((item.le for item in extra if isinstance(item, Le)), None)
    if low is not None and high is not None:
        return f" from {low} to {high}"
    for item in extra:
        match item:
            case Gt():
                bounds.append(f"above {item.gt}")
            case Ge():
                bounds.append(f"at least {item.ge}")
            case Lt():
                bounds.append(f"below {item.lt}")
            case Le():
                bounds.append(f"at most {item.le}")
            case MinLen(min_length=1):
                bounds.append("that is not empty")
    return f" {listed(bounds, 'and')}" if bounds else ""


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def quantity(hint: Any) -> bool:
    """Whether a hint is, or may be, a number with units, or has words of its own."""
    metadata = getattr(hint, "__metadata__", ())
    if _named(hint) or any(isinstance(item, Description | Grid) for item in metadata):
        return True
    return get_origin(hint) in (Union, types.UnionType) and any(map(quantity, get_args(hint)))


def keys(hint: Any) -> list[str]:
    """List the keys of the config that a hint holds, through `Annotated` and `| None`."""
    if isinstance(hint, type) and issubclass(hint, Config):
        return list(fields(hint))
    return [key for arg in get_args(hint) if not isinstance(arg, str) for key in keys(arg)]


def marker(hint: Any, kind: type[M]) -> M | None:
    """Return the marker of a kind in the metadata of a type or of a part of it."""
    own = (item for item in getattr(hint, "__metadata__", ()) if isinstance(item, kind))
    inner = (inside for arg in get_args(hint) if not isinstance(arg, str) and (inside := marker(arg, kind)))
    return next(chain(own, inner), None)


def config_of(hint: Any, plain: Any) -> type[Config] | None:
    """Give the config that a mapping in the place of a type is validated against, if that is one only."""
    if not isinstance(plain, Mapping):
        return None
    if isinstance(hint, type):
        return hint if issubclass(hint, Config) else None
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        union = next((item for item in metadata if isinstance(item, DiscoveredUnion)), None)
        if union:
            return union.select(plain)
        return config_of(inner, plain)
    if get_origin(hint) in (Union, types.UnionType):
        configs = [each for arg in get_args(hint) if (each := config_of(arg, plain)) is not None]
        return configs[0] if len(configs) == 1 else None
    return None


def type_at(hint: Any, node: Node, path: Iterable[str]) -> Any:
    """Return the type of the value at a path below a node of a type; None where the path leads nowhere."""
    for name in path:
        step = int(name) if isinstance(node.value, list) and name.isdigit() else name
        child, config = node.child(step), config_of(hint, node.plain)
        deeper = None if child is None else step_into(config or hint, step)
        if child is None or deeper is None:
            return None
        hint, node = deeper[0], child
    return hint


@cache
def fields(config: type[Config]) -> Mapping[str, Any]:
    """Map each key of a config, as written, to its type hint."""
    hints = get_type_hints(config, include_extras=True)
    return {field.alias or name: hints[name] for name, field in config.model_fields.items()}


def step_into(hint: Any, step: str | int) -> tuple[Any, bool] | None:
    """Go from a type to the type one step of an error's location deeper.

    Returns the type and whether the step stands in the file (a union's tag does not); None where the
    location leads into a union of plain values, or nowhere.
    """
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        union = next((item for item in metadata if isinstance(item, DiscoveredUnion)), None)
        if union:
            return (union.find()[str(step)], False) if step in union.find() else None
        return step_into(inner, step)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        tagged = next((arg for arg in args if Tag(str(step)) in getattr(arg, "__metadata__", ())), None)
        if tagged:
            return _untagged(tagged), False
        some = [arg for arg in args if arg is not type(None)]
        if len(some) == 1 and get_origin(some[0]) is Annotated:
            return step_into(some[0], step)
        models = [arg for arg in args if isinstance(arg, type) and issubclass(arg, Config)]
        return step_into(models[0], step) if len(models) == 1 else None
    if origin is dict:
        return args[1], True
    if origin is tuple and isinstance(step, int):
        return (args[0] if args[-1] is Ellipsis else args[step]), True
    if origin is list and isinstance(step, int):
        return args[0], True
    if isinstance(hint, type) and issubclass(hint, Config) and step in fields(hint):
        return fields(hint)[str(step)], True
    return None

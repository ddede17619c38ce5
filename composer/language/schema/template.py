"""Splits a plain tree into structure and numbers, and traces the numbers of a spec.

Numbers are what varies among candidates of one structure: every int and float of the tree. What is left,
texts, booleans, which keys there are and in which order, is the structure.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Discriminator, Tag, WithJsonSchema
from pydantic.fields import FieldInfo

from blocks.base.config import Config
from blocks.base.fields import UNITS, Aligned, Grid
from blocks.ir.traced import Number, Traced
from composer.settings.types import Description

C = TypeVar("C", bound=Config)
Plain = Mapping[str, Any]
Structure = tuple[Any, ...]
Limits = tuple[Callable[[Traced], Any], ...]


def split(tree: Plain) -> tuple[tuple[Any, ...], list[Number]]:
    """Return the structure of a tree, to be compared and hashed, and its numbers in order.

    Raises:
        TypeError: it holds what no spec holds.
    """
    structure: list[Any] = []
    numbers: list[Number] = []
    _split(tree, structure, numbers)
    return tuple(structure), numbers


def _split(tree: Any, structure: list[Any], numbers: list[Number]) -> None:
    kind = type(tree)
    if kind is dict:
        structure.append(tuple(tree))
        children = tree.values()
    elif kind is tuple or kind is list:
        structure.append((list, len(tree)))
        children = tree
    else:
        raise TypeError(f"expected plain data, got {kind.__name__}")
    for child in children:
        kind = type(child)
        if kind is int or kind is float:
            structure.append(kind)
            numbers.append(child)
        elif kind is str or kind is bool or child is None:
            structure.append(child)
        else:
            _split(child, structure, numbers)


def joined(tree: Any, numbers: Iterator[Any]) -> Any:
    """Return the tree with other numbers, in the order of `split`."""
    if type(tree) in (int, float):
        return next(numbers)
    if isinstance(tree, dict):
        return {name: joined(child, numbers) for name, child in tree.items()}
    if isinstance(tree, list | tuple):
        return tuple(joined(child, numbers) for child in tree)
    return tree


def traced(config: C, tree: Plain) -> C:
    """Return a config with the traced numbers of `tree`, which is the tree the config was made from.

    Guards see to it that other numbers pass the same checks. A number with a check that cannot be traced
    stays as it is, and is guarded not to change.
    """
    spec = _traced(config, tree)
    assert isinstance(spec, type(config))
    return spec


def _traced(value: Any, tree: Any) -> Any:
    if isinstance(value, Config) and isinstance(tree, dict) and _plain_checks(type(value)):
        return _config(value, tree)
    if isinstance(value, dict) and isinstance(tree, dict):
        return {name: _traced(child, tree[name]) for name, child in value.items()}
    if isinstance(value, tuple) and isinstance(tree, tuple):
        return tuple(map(_traced, value, tree))
    _pin(tree)
    return value


def _config(value: Config, tree: dict[str, Any]) -> Config:
    """Return a copy of the config that bypasses pydantic and drops cached values."""
    kind = type(value)
    names = {field.alias or name: name for name, field in kind.model_fields.items()}
    fields = {key: getattr(value, name) for key, name in names.items()}
    for key, child in tree.items():
        if key in names:
            fields[key] = _field(kind.model_fields[names[key]], fields[key], child)
        else:
            # names that other values were worked out from
            _pin(child)
    config = kind.model_construct(value.model_fields_set, **fields)
    for check in kind.__pydantic_decorators__.model_validators.values():
        check.func(config)
    return config


def _field(field: FieldInfo, value: Any, number: Any) -> Any:
    if type(number) is not Traced:
        return _traced(value, number)
    limits = _limits(field, type(value))
    if limits is None or type(number.value) is not type(value):
        _pin(number)
        return value
    for check in limits:
        check(number)
    return number


def _pin(tree: Any) -> None:
    """Guard every number below not to change."""
    if type(tree) is Traced:
        tree.trace.guard("", tree)
    elif isinstance(tree, dict | tuple):
        for child in tree.values() if isinstance(tree, dict) else tree:
            _pin(child)


@cache
def _plain_checks(kind: type[Config]) -> bool:
    """Whether a config's fields are checked one by one, and beyond that only by functions of the whole."""
    own = kind.__pydantic_decorators__
    other = (own.field_validators, own.validators, own.root_validators)
    return (
        not any(other)
        and all(check.info.mode == "after" for check in own.model_validators.values())
        and all(field.default_factory is None for field in kind.model_fields.values())
    )


def _limits(field: FieldInfo, kind: type) -> Limits | None:
    """Return what a field asks of a number of a type; None where it asks more than to lie between limits."""
    hint, checks = field.annotation, list(field.metadata)
    while get_origin(hint) is not None:
        args = [arg for arg in get_args(hint) if arg is not type(None)]
        if get_origin(hint) is Annotated:
            hint, more = args[0], args[1:]
            checks += [
                each for item in more for each in (item.metadata if isinstance(item, FieldInfo) else [item])
            ]
        elif get_origin(hint) in (Union, types.UnionType) and len(numbers := [*_numbers(args)]) == 1:
            hint = numbers[0]
        else:
            return None
    limits = [_limit(check) for check in checks]
    if hint is not kind or None in limits:
        return None
    # neither infinite nor not a number
    largest = sys.float_info.max
    finite = (_guard("<=", largest), _guard(">=", -largest)) if kind is float else ()
    return (*(limit for limits in limits if limits for limit in limits), *finite)


def _numbers(hints: Iterable[Any]) -> Iterator[Any]:
    """Yield the types of a union that are not mappings."""
    for hint in hints:
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if not (isinstance(bare, type) and issubclass(bare, Config)):
            yield hint


def _limit(check: Any) -> Limits | None:
    match check:
        case Gt():
            return (_guard(">", check.gt),)
        case Ge():
            return (_guard(">=", check.ge),)
        case Lt():
            return (_guard("<", check.lt),)
        case Le():
            return (_guard("<=", check.le),)
        case Grid():
            return (check.holds,)
        case WithJsonSchema() | Description() | Aligned() | Discriminator() | Tag():
            return ()
    finite = getattr(check, "__dict__", None) == {"allow_inf_nan": False}
    return () if finite or check in UNITS else None


def _guard(comparison: str, bound: Any) -> Callable[[Traced], Any]:
    return lambda number: number.trace.guard(comparison, number, bound)

"""Partially valid configs, so that checks of the valid parts still run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.invalid import INVALID, Unknown
from composer.settings.tree import Node, within

C = TypeVar("C", bound=Config)


def partial_at(config: type[C], node: Node, path: str, broken: Collection[str]) -> C | None:
    """Make a config of what is valid in the mapping `node` at `path`; None where it is no mapping.

    `broken` are paths that could not be resolved.
    """
    if not isinstance(node.value, dict):
        return None
    wrong = [key for key in node.value if any(f"{each}.".startswith(f"{path}.{key}.") for each in broken)]
    return partial(config, node.plain, node.value if within(path, broken) else wrong)


def partial(config: type[C], plain: Mapping[str, Any], wrong: Collection[str] = ()) -> C:
    """Make a config of the fields of `plain` that are valid; the others are INVALID.

    `wrong` are keys whose values count as invalid whatever they are. So does a key that is missing, where
    an unknown one may stand for it.
    """
    known = {field.alias or name for name, field in config.model_fields.items()}
    misspelt = {key for name in plain if name not in known for key in _meant(str(name), config, known)}
    wrong = {*wrong, *(misspelt - plain.keys())}
    values: dict[str, Any] = {}
    given: set[str] = set()
    for name, field in config.model_fields.items():
        key = field.alias or name
        if key in wrong:
            values[name] = INVALID
        elif key in plain:
            values[name] = _value(config, name, key, plain[key])
        else:
            values[name] = INVALID if field.is_required() else field.get_default(call_default_factory=True)
        if key in plain:
            given.add(name)
    built: Any = config.model_construct(given, **values)
    return cast(C, built)


def _meant(name: str, config: type[Config], known: Collection[str]) -> Collection[str]:
    """Give the keys that count as given, misspelt; of several meanings only those that have to be given."""
    # imports all blocks, options and tasks, whose words it knows
    from composer.language.validation.hints import meant

    fields = meant(name, config, known)
    required = {field.alias or name for name, field in config.model_fields.items() if field.is_required()}
    return fields if len(fields) == 1 else required.intersection(fields)


def conflicts(config: Config) -> Iterator[PydanticCustomError | ValueError | AssertionError]:
    """Run each check of a config as a whole, and yield what fails; `config` may be valid in part only."""
    for check in type(config).__pydantic_decorators__.model_validators.values():
        if check.info.mode != "after":
            continue
        try:
            check.func(config)
        except Unknown:
            pass
        except (PydanticCustomError, ValueError, AssertionError) as error:
            yield error


def _value(config: type[Config], name: str, key: str, plain: Any) -> Any:
    from composer.language.validation.describe_types import config_of, fields

    try:
        return getattr(_alone(config, name).model_validate({key: plain}), name)
    except ValidationError:
        nested = config_of(fields(config)[key], plain)
        return partial(nested, plain) if nested else INVALID


@cache
def _alone(config: type[Config], name: str) -> type[BaseModel]:
    """Make a model with one field of a config."""
    from composer.language.validation.describe_types import fields

    key = config.model_fields[name].alias or name
    field: Any = (fields(config)[key], ...)
    return create_model(name, __config__=ConfigDict(strict=True), **{name: field})

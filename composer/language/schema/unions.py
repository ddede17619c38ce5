"""Fields whose configs are discovered at run time: blocks, tasks and wiring options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from blocks.base.config import Config
from blocks.base.wiring import WiringConfig, selected
from blocks.find import wiring_options
from composer.settings.errors import listed

T = TypeVar("T")


class DiscoveredUnion(Generic[T]):
    """A union over the configs that discovery finds, told apart by a tag field.

    A valid value costs the import of its own config only; all of them are imported to say what is wrong.
    """

    def __init__(
        self,
        tag: str,
        find: Callable[[], Mapping[str, type[Config]]],
        find_one: Callable[[str], type[Config] | None],
    ) -> None:
        """Make a union.

        Args:
            tag: the field whose value selects the config.
            find: returns all configs by their tags.
            find_one: returns the config of a tag, or None.
        """
        self.tag, self.find, self.find_one = tag, find, find_one
        self._discriminator: str | Callable[[Any], str | None] = tag
        self._validator: SchemaValidator | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def _validate(self, value: Any) -> Any:
        if config := self.select(value):
            with suppress(ValidationError):
                return config.model_validate(self._fields(value))
        if self._validator is None:
            choices: dict[Any, CoreSchema] = {
                name: self._deferred(each) for name, each in self.find().items()
            }
            self._validator = SchemaValidator(core_schema.tagged_union_schema(choices, self._discriminator))
        return self._validator.validate_python(value)

    def _deferred(self, config: type[Config]) -> CoreSchema:
        """Return a schema that builds a config's validator when a value is first validated against it."""
        return core_schema.no_info_plain_validator_function(
            lambda value: config.model_validate(self._fields(value))
        )

    def _fields(self, value: Any) -> Any:
        """Return what the config is validated from."""
        return value

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        choices: dict[Any, CoreSchema] = {name: _schema(config) for name, config in self.find().items()}
        return handler(core_schema.tagged_union_schema(choices, self.tag))

    def select(self, plain: Any) -> type[Config] | None:
        """Return the config that a plain value is validated against, if it says so."""
        tag = plain.get(self.tag) if isinstance(plain, Mapping) else None
        return self.find_one(tag) if isinstance(tag, str) else None

    def describe(self) -> str:
        """Say what is expected."""
        return f"a mapping with {self.tag}: {listed(sorted(self.find()))}"


class WiringUnion(DiscoveredUnion[WiringConfig]):
    """The values of a key of wiring: each is its name, or a mapping with its name as a key."""

    def __init__(self, key: str, optional: bool = False) -> None:
        """With `optional`, null takes the option of what is around it."""
        self.options, self.optional = wiring_options()[key], optional
        super().__init__(key, lambda: self.options, self.options.get)
        self.kind = self.options.kind
        self._discriminator = lambda value: selected(self.options, value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(_written, info_arg=True)
        union = core_schema.no_info_plain_validator_function(self._validate, serialization=written)
        return core_schema.nullable_schema(union) if self.optional else union

    def _fields(self, value: Any) -> Any:
        return _fields(value)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # the handler describes what is inside a schema once, under its name, not the schema itself
        mappings = [
            handler(core_schema.no_info_before_validator_function(_fields, _schema(option)))
            for option in self.options.values()
            if option.model_fields
        ]
        names = {"type": "string", "enum": self.bare()}
        return {"anyOf": [names, *mappings]} if mappings else names

    def bare(self) -> list[str]:
        """Return the names that are values by themselves: of options that need no fields."""
        return [name for name, option in self.options.items() if not _required(option)]

    def select(self, plain: Any) -> type[Config] | None:
        """Return the option that a plain value selects, if it does."""
        name = selected(self.options, plain)
        return None if name is None else self.options.get(name)

    def describe(self) -> str:
        """Say what is expected."""
        mappings = [f"{{{name}: ..}}" for name, option in self.options.items() if option.model_fields]
        return listed([*self.bare(), *mappings])


def _schema(config: type[Config]) -> CoreSchema:
    """Return the schema of a config, to be described once under its name."""
    config.model_rebuild()
    schema: Any = {"ref": f"{config.__module__}.{config.__qualname__}:{id(config)}"}
    return {**config.__pydantic_core_schema__, **schema}


def _required(option: type[Config]) -> bool:
    return any(field.is_required() for field in option.model_fields.values())


def _fields(value: Any) -> Any:
    return {} if isinstance(value, str) else value


def _written(option: Any, info: core_schema.SerializationInfo) -> Any:
    return option.plain(defaults=not info.exclude_defaults)

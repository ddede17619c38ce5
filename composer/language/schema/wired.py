"""Configs that wiring options add keys to: the model, stages and entries of steps."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from blocks.base.config import Config
from blocks.base.invalid import INVALID, Unknown
from blocks.base.wiring import Owner, WiringConfig, inherits
from blocks.find import wiring_options
from composer.language.schema.unions import WiringUnion

K = TypeVar("K", bound=WiringConfig)


class Wired(Config):
    """A config with keys of wiring: those that belong to its `owner`, after its own fields."""

    not_options: ClassVar[frozenset[str]] = frozenset()
    """Fields with a default that say what is there, not how it behaves."""

    def __init_subclass__(cls, owner: Owner | None = None, **kwargs: Any) -> None:
        """Declare the keys; pydantic makes fields of a class's annotations after this."""
        super().__init_subclass__(**kwargs)
        for key, options in wiring_options().items():
            if owner is None or owner not in options.kind.owner:
                continue
            optional = inherits(options.kind, owner)
            value = WiringConfig | None if optional else WiringConfig
            cls.__annotations__[key] = Annotated[value, WiringUnion(key, optional=optional)]
            setattr(cls, key, None if optional else options.default)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        json_schema = super().__get_pydantic_json_schema__(schema, handler)
        properties = handler.resolve_ref_schema(json_schema).get("properties", {})
        for key in wiring_keys(cls):
            if default := cls.model_fields[key].default:
                properties[key]["default"] = default.plain()
        return json_schema

    def wiring(self) -> dict[str, WiringConfig]:
        """Return the options given here, and the defaults of keys that nothing around it has."""
        options = {key: getattr(self, key) for key in wiring_keys(type(self))}
        return {key: option for key, option in options.items() if option is not None}

    def option(self, kind: type[K]) -> K:
        """Return the option of a kind."""
        option = getattr(self, kind.key)
        if option is INVALID:
            raise Unknown(kind.key)
        assert isinstance(option, kind)
        return option

    def changed_options(self) -> dict[str, Any]:
        """Return the options that are not at their defaults, as a spec writes them."""
        required = {name for name, field in type(self).model_fields.items() if field.is_required()}
        return self.model_dump(exclude_defaults=True, exclude=required | self.not_options)


@cache
def inherited_keys(config: type[Config]) -> frozenset[str]:
    """Return the keys of wiring that a config takes from what is around it, where it does not have them."""
    return frozenset(key for key in wiring_keys(config) if config.model_fields[key].default is None)


@cache
def wiring_keys(config: type[Config]) -> tuple[str, ...]:
    """Return the keys of wiring that a config has."""
    return tuple(key for key in wiring_options() if key in config.model_fields)

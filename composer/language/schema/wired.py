"""Configs that wiring options add keys to: the model, stages and entries of steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import GetJsonSchemaHandler, create_model
from pydantic_core import CoreSchema

from blocks.base.config import Config
from blocks.base.invalid import INVALID, Unknown
from blocks.base.wiring import Owner, WiringConfig, inherits
from blocks.find import wiring_options
from composer.language.schema.unions import WiringUnion

W = TypeVar("W", bound="Wired")
K = TypeVar("K", bound=WiringConfig)


class Wired(Config):
    """A config with keys of wiring."""

    not_options: ClassVar[frozenset[str]] = frozenset()
    """Fields with a default that say what is there, not how it behaves."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = super().__get_pydantic_json_schema__(schema, handler)
        properties = handler.resolve_ref_schema(found).get("properties", {})
        for key in wiring_keys(cls):
            if default := cls.model_fields[key].default:
                properties[key]["default"] = default.plain()
        return found

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


def wired(owner: Owner) -> Callable[[type[W]], type[W]]:
    """Decorate a config so that it has the keys of wiring that belong to `owner`."""

    def decorate(config: type[W]) -> type[W]:
        fields: dict[str, Any] = {}
        for key, options in wiring_options().items():
            kind = options.kind
            if owner in kind.owner and inherits(kind, owner):
                fields[key] = Annotated[WiringConfig | None, WiringUnion(key, optional=True)], None
            elif owner in kind.owner:
                fields[key] = Annotated[WiringConfig, WiringUnion(key)], options.default
        name = config.__name__.lstrip("_")
        return create_model(
            name, __base__=config, __module__=config.__module__, __doc__=config.__doc__, **fields
        )

    return decorate


@cache
def inherited_keys(config: type[Config]) -> frozenset[str]:
    """Return the keys of wiring that a config takes from what is around it, where it does not have them."""
    return frozenset(key for key in wiring_keys(config) if config.model_fields[key].default is None)


@cache
def wiring_keys(config: type[Config]) -> tuple[str, ...]:
    """Return the keys of wiring that a config has."""
    return tuple(key for key in wiring_options() if key in config.model_fields)

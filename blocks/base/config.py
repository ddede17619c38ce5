"""The base of everything a user can write: strict, frozen, and able to say what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from blocks.base.sublayer import INPUT, View

if TYPE_CHECKING:
    from blocks.base.builder import Builder
    from blocks.ir.operation import Value


class Config(BaseModel):
    """A mapping of the spec: unknown keys are errors, values never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    unhashed: ClassVar[frozenset[str]] = frozenset()
    """Fields that hashes of a spec leave out; all others are part of them."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        _forget_class_vars(cls)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the class by its docstring, and each field by the one below it."""
        from blocks.base.docstrings import docstring, field_docs

        found = handler(schema)
        described = handler.resolve_ref_schema(found)
        if text := docstring(cls):
            described.setdefault("description", text)
        properties = described.get("properties", {})
        for name, text in field_docs(cls).items():
            if name in cls.model_fields:
                properties[cls.model_fields[name].alias or name]["description"] = text
        return found


def _forget_class_vars(config: type[Config]) -> None:
    """Delete the annotations of class variables, which pydantic would evaluate again for each subclass."""
    annotations = vars(config).get("__annotations__", {})
    for name in config.__class_vars__ & annotations.keys():
        del annotations[name]


_forget_class_vars(Config)


@dataclass(frozen=True)
class Problem:
    """One semantic fault of a config: the key at fault (dotted below the config), expected, got, a hint."""

    key: str
    expected: str
    got: Any
    hint: str = ""


class BlockConfig(Config):
    """The config of one block: its fields, its checks and how it lowers itself into operations.

    A subclass sets `type: Literal["name"] = "name"`; the name is what a spec writes.
    """

    type: str

    def problems(self, width: int) -> Iterator[Problem]:
        """Yield what a schema cannot say, such as heads that kv_heads does not divide. `width` is d_model."""
        yield from ()

    def sources(self) -> dict[str, str]:
        """Return the blocks whose values this one reads, by the field that names each.

        They have to run before it in each step that it is in.
        """
        return {}

    def source_problems(self, field: str, source: BlockConfig, width: int) -> Iterator[Problem]:
        """Yield why it cannot read the values of the block that a field names."""
        yield from ()

    def shares_step(self) -> bool:
        """Whether its uses in one step share a step's index, so that they have to run at the same steps."""
        return False

    def views(self) -> frozenset[View]:
        """Return which views of its input it reads, by `Builder.view`; the input itself is one."""
        return INPUT

    def weights_per_step(self) -> bool:
        """Whether it has weights for each step, so that the number of steps is fixed."""
        return False

    def not_causal(self) -> str:
        """Return how training lets tokens see later ones, and what inference does instead; else ""."""
        return ""

    def needs_all_tokens(self) -> str:
        """Return why it cannot run on some of the tokens of a sequence, given in order; "" where it can."""
        return "it is not known to do with some of the tokens"

    def counts_tokens(self) -> str:
        """Return what of it counts tokens, so that ones that nothing reads would matter; or ""."""
        return ""

    def written_before(self) -> str:
        """Return what it writes before the first step of a stage with weights of its own, or ""."""
        return ""

    def makes_kv(self) -> bool:
        """Whether it makes keys and values of tokens, which `kv: first` of a route shares among steps."""
        return False

    def crosses_documents(self) -> str:
        """Return why tokens of one document see another with `documents: apart`; "" where they do not.

        A block that reads other tokens asks `Builder.document_start`.
        """
        return "it is not known to keep documents apart"

    def keeps_kv(self) -> bool:
        """Whether it has keys and values of tokens that each step has to make anew."""
        return False

    def canonical(self, width: int) -> dict[str, Any]:
        """Return the fields that say what is built, defaults filled in: equal for equal blocks."""
        return self.model_dump()

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Yield short lines that describe the block in pictures, three at most.

        `fields` are the canonical ones. Pop those that a line covers; a picture shows the others, as
        `name value`, where they are not at their defaults.
        """
        yield from ()

    def lower(self, build: Builder, x: Value) -> Value:
        """Add this block's operations to `build`, reading the normed input `x` [width]; return [width]."""
        raise NotImplementedError

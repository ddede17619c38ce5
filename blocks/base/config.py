"""Base classes of all parts of a spec: strict, frozen pydantic models with semantic checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from blocks.base.sublayer import INPUT, Use, View

if TYPE_CHECKING:
    from blocks.base.builder import Builder
    from blocks.ir.operation import Value


class Config(BaseModel):
    """A mapping of the spec; unknown keys are errors, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    unhashed: ClassVar[frozenset[str]] = frozenset()
    """Fields that are not part of a spec's hashes; all others are."""
    other_names: ClassVar[Mapping[str, str]] = {}
    """What other frameworks and papers call its fields, by field, as words; under `type` or `task` a block or
    a task itself. Error messages suggest the field."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        _forget_class_vars(cls)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe the class by its docstring, and each field by the string below it."""
        from blocks.base.docstrings import docstring, field_docs

        reference = handler(schema)
        described = handler.resolve_ref_schema(reference)
        if text := docstring(cls):
            described.setdefault("description", text)
        properties = described.get("properties", {})
        for name, text in field_docs(cls).items():
            if name in cls.model_fields:
                properties[cls.model_fields[name].alias or name]["description"] = text
        return reference


def _forget_class_vars(config: type[Config]) -> None:
    """Delete the annotations of class variables, which pydantic would evaluate again for each subclass."""
    annotations = vars(config).get("__annotations__", {})
    for name in config.__class_vars__ & annotations.keys():
        del annotations[name]


_forget_class_vars(Config)


class Problem(NamedTuple):
    """A semantic error of a config.

    Attributes:
        key: the key, with dots below the config.
        expected: the expected value, in words.
        got: the actual value.
        hint: a suggestion, or "".
        unread: whether the value is valid, but nothing reads it.
    """

    key: str
    expected: str
    got: Any
    hint: str = ""
    unread: bool = False


class BlockConfig(Config):
    """The config of a block: its fields, its checks, and the operations it consists of (`lower`).

    A subclass sets `type: Literal["name"] = "name"`, the name in specs.
    """

    type: str

    def problems(self, width: int) -> Iterator[Problem]:
        """Yield errors that types cannot express, such as heads that kv_heads does not divide.

        `width` is d_model.
        """
        yield from ()

    def sources(self) -> dict[str, str]:
        """Return the names of the blocks whose published values it reads, by field.

        They must run before it in each step that contains it.
        """
        return {}

    def source_problems(self, field: str, source: BlockConfig, width: int) -> Iterator[Problem]:
        """Yield the reasons why it cannot read the values of the block `source`, which `field` names."""
        yield from ()

    def unread(self, uses: Sequence[Use]) -> Iterator[Problem]:
        """Yield the fields without effect at all its uses, such as reads of other steps where none are."""
        yield from ()

    def mixes_tokens(self) -> bool:
        """Whether its output for a token may depend on other tokens of the sequence."""
        return True

    def shares_step(self) -> bool:
        """Whether several uses in one step write slots of the same index and must run at the same steps."""
        return False

    def views(self) -> frozenset[View]:
        """Return the views of its input that it reads through `Builder.view`."""
        return INPUT

    def weights_per_step(self) -> bool:
        """Whether it has weights for each step, so that the number of steps is fixed."""
        return False

    def not_causal(self) -> str:
        """Return how tokens depend on later ones in training, and what inference does instead; or ""."""
        return ""

    def needs_all_tokens(self) -> str:
        """Return why it cannot run on selected tokens of a sequence; "" if it can."""
        return "the block does not declare that it can run on selected tokens"

    def counts_tokens(self) -> str:
        """Return the field that depends on the number of tokens, so that padding would matter; or ""."""
        return ""

    def written_before(self) -> str:
        """Return what it writes, with weights of its own, before the first step of a stage; or ""."""
        return ""

    def makes_kv(self) -> bool:
        """Whether it computes keys and values that steps share with `kv: first` of a route."""
        return False

    def crosses_documents(self) -> str:
        """Return why tokens depend on other documents despite `documents: apart`; "" if they do not.

        A block that reads other tokens has to respect `Builder.document_start`.
        """
        return "the block does not declare that it keeps documents apart"

    def keeps_kv(self) -> bool:
        """Whether each step must compute keys and values of its own."""
        return False

    def canonical(self, width: int) -> dict[str, Any]:
        """Return the fields with defaults filled in; equal for equal blocks."""
        return self.model_dump()

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Yield up to three short lines that describe the block in pictures.

        `fields` are the canonical ones. Pop those that a line covers; pictures show the others as
        `name value` if they differ from their defaults.
        """
        yield from ()

    def lower(self, build: Builder, x: Value) -> Value:
        """Add the block's operations to the graph.

        Args:
            build: the builder.
            x: the input [width], after the norm if there is one.

        Returns:
            The output [width].
        """
        raise NotImplementedError

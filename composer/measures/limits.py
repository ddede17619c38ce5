"""What a cap may be: a hard limit, a soft one, or both; of memory and time with what they depend on."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.fields import Bytes, Count
from composer.settings.types import Description, Duration


class Limits(Config):
    """What all caps written as a mapping share: one limit or both, the soft one not above the hard one."""

    _without: ClassVar[bool] = False
    """Whether it may state no limit."""

    @model_validator(mode="after")
    def _some(self) -> Limits:
        soft, hard = getattr(self, "soft", None), getattr(self, "hard", None)
        if soft is None and hard is None and not self._without:
            raise PydanticCustomError(
                "expected", "{expected}", {"expected": "soft, hard or both", "got": "neither"}
            )
        if soft is not None and hard is not None and soft > hard:
            context = {"expected": f"soft at most hard ({hard:g})", "got": f"{soft:g}"}
            raise PydanticCustomError("expected", "{expected}", context)
        return self


class CountLimits(Limits):
    """A cap on a number, with two limits."""

    soft: Count | None = None
    """A spec above this value gets a warning."""
    hard: Count | None = None
    """A spec above this value is refused."""


class ByteLimits(Limits):
    """A cap on bytes, with two limits."""

    soft: Bytes | None = None
    """A spec above this value gets a warning."""
    hard: Bytes | None = None
    """A spec above this value is refused."""


class MemoryLimits(ByteLimits):
    """A cap on training memory; operations are recomputed to stay below its lower limit."""

    batch_tokens: Count | None = None
    """Tokens of the micro-batch, if there is no `train` section. Default: one sequence."""


class TimeLimits(Limits):
    """The estimated time of an optimizer step on one device, with optional limits."""

    _without: ClassVar[bool] = True

    device: Annotated[str, Field(min_length=1), Description("the name of a device, such as h100")]
    """The device: h100, h200, a100, cpu, or one measured by `composer calibrate`."""
    soft: Duration | None = None
    """A spec above this value gets a warning."""
    hard: Duration | None = None
    """A spec above this value is refused."""


def _form(value: Any) -> str:
    return "limits" if isinstance(value, dict | Config) else "number"


Number: TypeAlias = Annotated[
    Annotated[Count, Tag("number")] | Annotated[CountLimits, Tag("limits")], Discriminator(_form)
]
"""A count, which is the hard limit, or {soft: .., hard: ..}."""

Size: TypeAlias = Annotated[
    Annotated[Bytes, Tag("number")] | Annotated[ByteLimits, Tag("limits")], Discriminator(_form)
]
"""A size, which is the hard limit, or {soft: .., hard: ..}."""

Memory: TypeAlias = Annotated[
    Annotated[Bytes, Tag("number")] | Annotated[MemoryLimits, Tag("limits")], Discriminator(_form)
]
"""A size, which is the hard limit, or {soft: .., hard: .., batch_tokens: ..}."""

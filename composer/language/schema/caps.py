"""The `caps:` section: what a model may cost at most. Each cap is a hard limit, a soft one, or both."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.fields import Bytes, Count
from composer.settings.types import Description, Duration

Kind: TypeAlias = Literal["hard", "soft"]


class _Limits(Config):
    """What all caps written as a mapping share: one limit or both, the soft one not above the hard one."""

    _without: ClassVar[bool] = False
    """Whether it may state no limit."""

    @model_validator(mode="after")
    def _some(self) -> _Limits:
        soft, hard = getattr(self, "soft", None), getattr(self, "hard", None)
        if soft is None and hard is None and not self._without:
            raise PydanticCustomError(
                "expected", "{expected}", {"expected": "soft, hard or both", "got": "neither"}
            )
        if soft is not None and hard is not None and soft > hard:
            told = {"expected": f"soft at most hard ({hard:g})", "got": f"{soft:g}"}
            raise PydanticCustomError("expected", "{expected}", told)
        return self


class CountLimits(_Limits):
    """A cap on a number, with two limits."""

    soft: Count | None = None
    """Above it a spec is warned about."""
    hard: Count | None = None
    """Above it a spec is refused."""


class ByteLimits(_Limits):
    """A cap on bytes, with two limits."""

    soft: Bytes | None = None
    """Above it a spec is warned about."""
    hard: Bytes | None = None
    """Above it a spec is refused."""


class MemoryLimits(ByteLimits):
    """A cap on training memory: what recomputing can do to keep to its lower limit is done."""

    batch_tokens: Count | None = None
    """Tokens of the micro-batch it is stated for, where there is no `train` to say. Default: one sequence."""


class TimeLimits(_Limits):
    """The estimated time of a training step on one device, and what caps it, if anything."""

    _without: ClassVar[bool] = True

    device: Annotated[str, Field(min_length=1), Description("the name of a device, such as h100")]
    """The device: h100, h200, a100, cpu, or one that `composer calibrate` has measured."""
    soft: Duration | None = None
    """Above it a spec is warned about."""
    hard: Duration | None = None
    """Above it a spec is refused."""


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


class Caps(Config):
    """What the model may cost at most: a number is a hard limit, above which a spec is refused untrained.

    `{soft: .., hard: ..}` states two: above the soft one a spec is warned about.
    """

    params: Number | None = None
    """Parameters, all of them."""
    active_params: Number | None = None
    """Parameters that one token touches."""
    flops_per_token: Number | None = None
    """FLOPs of the forward pass per token at the full context."""
    train_flops: Number | None = None
    """FLOPs of forward and backward over all training tokens."""
    train_memory: Memory | None = None
    """Bytes at the peak of a training step of one micro-batch; operations are recomputed to keep to it."""
    cache_bytes_per_token: Size | None = None
    """Bytes of keys and values kept per token of the sequence at generation."""
    depth_cache_bytes: Size | None = None
    """Bytes of depth slots kept per token while its steps run."""
    step_time: TimeLimits | None = None
    """Estimated time of an optimizer step on a device: {device: h100, hard: 120ms}, or without limits."""

    def limit(self, name: str, kind: Kind = "hard") -> float | None:
        """Return the limit of a cap, None where there is none of that kind."""
        cap = getattr(self, name)
        if isinstance(cap, _Limits):
            found: float | None = getattr(cap, kind)
            return found
        return cap if kind == "hard" else None

    def limits(self, kind: Kind = "hard") -> dict[str, float]:
        """Return the limits of a kind by cap, in the order caps are declared."""
        found = {name: self.limit(name, kind) for name in type(self).model_fields}
        return {name: limit for name, limit in found.items() if limit is not None}

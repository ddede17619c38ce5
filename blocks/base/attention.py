"""Fields and checks that attention blocks share. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count, Width
from blocks.base.invalid import independent
from blocks.base.sublayer import View
from blocks.ir.operation import Value
from blocks.ir.tensor_type import Shape


class SharedKV(NamedTuple):
    """Keys and values [kv_heads, head_dim] that another block of the same step reads.

    Attributes:
        key: the keys.
        value: the values.
        rotate: rotates queries like these keys: called with the builder, the queries, a name and their shape.
        shape: (kv_heads, head_dim).
        write: appends further keys and values to the depth cache, for the same token at later steps; None
            if the block has no depth cache.
    """

    key: Value
    value: Value
    rotate: Callable[[Builder, Value, str, Shape], Value]
    shape: Shape
    write: Callable[[Builder, Value, Value], None] | None


def heads_text(heads: int, head_dim: int) -> str:
    """Describe heads: `8 heads × 64`."""
    return f"{heads} {'head' if heads == 1 else 'heads'} \u00d7 {head_dim}"


def undivided(heads: int, width: int) -> Problem:
    """Return the problem of a number of heads that does not divide the width, without `head_dim`."""
    hint = "or set head_dim, then any number of heads is allowed"
    return Problem("heads", f"a divisor of the width ({width})", heads, hint)


class AttentionConfig(BlockConfig):
    """Grouped-query attention: query heads share fewer key and value heads (GQA, arXiv 2305.13245)."""

    shares_kv: ClassVar[bool] = False
    """Whether it publishes its keys and values as a `SharedKV`."""

    def reads_own_steps(self) -> bool:
        """Whether tokens attend to their own earlier steps, to which another block may append."""
        return False

    heads: Count
    """The number of query heads."""
    kv_heads: Count | None = None
    """The number of key and value heads; must divide `heads`. Default: `heads`."""
    head_dim: Width | None = None
    """The size of one head. Default: width / heads."""

    def geometry(self, width: int) -> tuple[int, int, int]:
        """Return (heads, kv_heads, head_dim) with the defaults filled in."""
        return self.heads, self.kv_heads or self.heads, self.head_dim or width // self.heads

    def canonical(self, width: int) -> dict[str, Any]:
        _, kv_heads, head_dim = self.geometry(width)
        return {**super().canonical(width), "kv_heads": kv_heads, "head_dim": head_dim}

    def heads_words(self, fields: dict[str, Any]) -> str:
        """Describe the heads: `8 heads × 64, 2 kv`."""
        heads, kv_heads, head_dim = (fields.pop(name) for name in ("heads", "kv_heads", "head_dim"))
        shared = "" if kv_heads == heads else f", {kv_heads} kv"
        return f"{heads_text(heads, head_dim)}{shared}"

    def rotates(self) -> bool:
        """Return whether heads are rotated, which requires an even head_dim."""
        return False

    def views(self) -> frozenset[View]:
        """Return queries, keys and values."""
        return frozenset({"q", "k", "v"})

    def projections(self, build: Builder, x: Value) -> tuple[Value, Value, Value]:
        """Add projections of `x` to queries [heads, head_dim], keys and values [kv_heads, head_dim]."""
        return self.query(build, x), *self.key_and_value(build, x)

    def query(self, build: Builder, x: Value) -> Value:
        """Add a projection of `x` to queries [heads, head_dim]."""
        heads, _, head_dim = self.geometry(build.width)
        return build.project(build.score_input(build.view("q", x)), "query", (heads, head_dim))

    def key_and_value(self, build: Builder, x: Value) -> tuple[Value, Value]:
        """Add projections of `x` to keys and values [kv_heads, head_dim]."""
        _, kv_heads, head_dim = self.geometry(build.width)
        k = build.project(build.score_input(build.view("k", x)), "key", (kv_heads, head_dim))
        return k, build.project(build.view("v", x), "value", (kv_heads, head_dim))

    def problems(self, width: int) -> Iterator[Problem]:
        """Check that `kv_heads` divides `heads` and that heads have a valid size."""
        yield from independent(self._sharing(), self._sizes(width))

    def _sharing(self) -> Iterator[Problem]:
        heads, kv_heads = self.heads, self.kv_heads or self.heads
        if heads % kv_heads:
            divisors = [n for n in range(1, min(heads, 4096) + 1) if heads % n == 0]
            near = min(divisors, key=lambda n: abs(n - kv_heads))
            yield Problem("kv_heads", f"a divisor of heads ({heads})", kv_heads, f"the nearest is {near}")

    def _sizes(self, width: int) -> Iterator[Problem]:
        heads, head_dim = self.heads, self.head_dim
        if head_dim is None and width % heads:
            yield undivided(heads, width)
        elif self.rotates() and (head_dim := head_dim or width // heads) % 2:
            got = self.head_dim or f"{head_dim} (width {width} / heads {heads})"
            yield Problem("head_dim", "an even number, since pairs are rotated", got)

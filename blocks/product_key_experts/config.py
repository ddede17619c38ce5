"""Config and lowering of experts found by product keys. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count, Square, Squares, Width
from blocks.base.invalid import independent
from blocks.ir.operation import Init, Value, Weight

_root = Squares().rank


class ProductKeyExperts(BlockConfig):
    """Very many experts of one neuron each, retrieved by product keys (PEER, arXiv 2407.04153)."""

    other_names: ClassVar[Mapping[str, str]] = {
        "type": "peer product_keys product_key product_key_memory pkm",
        "key_dim": "dim_key d_key query_dim",
    }

    type: Literal["product_key_experts"] = "product_key_experts"
    experts: Annotated[Square, Field(examples=[9])]
    """The number of experts, a square number; each is a pair of keys from two sets of sqrt(experts)."""
    active: Count
    """The number of experts that each head of a token uses (top-k)."""
    heads: Count = 1
    """The number of queries per token; all heads share the keys and the experts."""
    key_dim: Width | None = None
    """The size of a query, an even number; each half is compared with one set of keys. Default: width /
    heads."""

    def geometry(self, width: int) -> tuple[int, int]:
        """Return (keys of one set, key_dim) with the default filled in."""
        return _root(self.experts), self.key_dim or width // self.heads

    def canonical(self, width: int) -> dict[str, Any]:
        return {**super().canonical(width), "key_dim": self.geometry(width)[1]}

    def problems(self, width: int) -> Iterator[Problem]:
        """Check that there are enough keys, and that queries have halves."""
        yield from independent(self._enough(), self._halves(width))

    def _enough(self) -> Iterator[Problem]:
        if self.active > (keys := _root(self.experts)):
            yield Problem("active", f"at most the number of keys in a set ({keys})", self.active)

    def _halves(self, width: int) -> Iterator[Problem]:
        _, key_dim = self.geometry(width)
        if self.key_dim is None and width % self.heads:
            yield Problem("heads", f"a divisor of the width ({width})", self.heads, "or give key_dim")
        elif key_dim % 2:
            got = self.key_dim or f"{key_dim} (width {width} / heads {self.heads})"
            yield Problem("key_dim", "an even number, for two halves", got)

    def crosses_documents(self) -> str:
        """Each token goes through alone."""
        return ""

    def mixes_tokens(self) -> bool:
        """Each token goes through alone."""
        return False

    def needs_all_tokens(self) -> str:
        """Each token goes through alone."""
        return ""

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe the experts and how they are found."""
        heads, active, experts = (fields.pop(name) for name in ("heads", "active", "experts"))
        yield f"{heads} \u00d7 {active} of {experts} neurons"
        yield f"2 \u00d7 {_root(experts)} keys of {fields.pop('key_dim') // 2}"

    def lower(self, build: Builder, x: Value) -> Value:
        """Make queries and norm them, choose experts by their halves, run these."""
        from blocks.product_key_experts.operations import ChooseByProductKeys, ReadNeurons, WriteNeurons

        (keys, key_dim), width = self.geometry(build.width), build.width
        query = build.project(build.score_input(x), "query", (self.heads, key_dim))
        query = build.norm(query, "query_norm", (self.heads, key_dim))
        choose = ChooseByProductKeys(self.heads, key_dim, keys, self.active)
        sets = [
            Weight(role, shape, Init("normal", (key_dim // 2) ** -0.5))
            for role, shape in zip(("first_keys", "second_keys"), choose.weight_shapes(), strict=True)
        ]
        chosen = build.op("choose", choose, query, weights=sets)
        used = self.heads * self.active
        sizes = (width, self.experts, self.heads, self.active)
        share = (min(used, self.experts), self.experts)
        shape, indices = (self.experts, width), Value(chosen.node, 1)
        up = Weight("up", shape, Init("normal", width**-0.5), active=share)
        start = Init("normal", used**-0.5)
        down = Weight("down", shape, start, active=share, writes_residual=True)
        sums = build.op("read", ReadNeurons(*sizes), x, indices, weights=[up])
        return build.op("written", WriteNeurons(*sizes), sums, chosen, indices, weights=[down])

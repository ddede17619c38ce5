"""Config and lowering of latent attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from blocks.base.attention import heads_text, undivided
from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count, Positive, Width
from blocks.base.invalid import independent
from blocks.ir.operation import Init, Value, Weight
from blocks.primitives.operations import SequenceTable


class LatentAttention(BlockConfig):
    """Causal attention with keys and values projected from one latent per token (MLA, arXiv 2405.04434)."""

    other_names: ClassVar[Mapping[str, str]] = {
        "type": "mla multi_head_latent_attention multihead_latent_attention",
        "latent": "kv_lora_rank kv_latent latent_dim d_c",
        "rope_dim": "qk_rope_head_dim rope_head_dim",
        "query_latent": "q_lora_rank",
    }

    type: Literal["latent_attention"] = "latent_attention"
    heads: Count
    """The number of query, key and value heads."""
    head_dim: Width | None = None
    """The size of one head, its rotated part included. Default: width / heads."""
    latent: Width
    """The size of the latent vector that keys and values are projected from, and that the KV cache holds."""
    rope_dim: Width | None = None
    """The size of the rotated part of each head, an even number; all heads share its key. Default: head_dim /
    2."""
    rope_base: Positive = 10000.0
    """The base of the RoPE frequencies (arXiv 2104.09864); a single rotated pair has the frequency 1 with any
    base."""
    query_latent: Width | None = None
    """The size of a latent vector that queries are projected from. Default: no latent, the input is
    projected."""

    def geometry(self, width: int) -> tuple[int, int, int]:
        """Return (heads, head_dim, rope_dim) with the defaults filled in."""
        head_dim = self.head_dim or width // self.heads
        return self.heads, head_dim, self.rope_dim or head_dim // 2

    def canonical(self, width: int) -> dict[str, Any]:
        _, head_dim, rope_dim = self.geometry(width)
        return {**super().canonical(width), "head_dim": head_dim, "rope_dim": rope_dim}

    def problems(self, width: int) -> Iterator[Problem]:
        """Check that heads divide the width, and that some elements are rotated in pairs."""
        yield from independent(self._heads(width), self._rotated(width))

    def _heads(self, width: int) -> Iterator[Problem]:
        if self.head_dim is None and width % self.heads:
            yield undivided(self.heads, width)

    def _rotated(self, width: int) -> Iterator[Problem]:
        _, head_dim, rope_dim = self.geometry(width)
        if rope_dim % 2 or not 0 < rope_dim < head_dim:
            source = "" if self.rope_dim else f", half of head_dim ({head_dim})"
            expected = f"an even number above 0 and below head_dim ({head_dim})"
            yield Problem("rope_dim", expected, f"{rope_dim}{source}")

    def keeps_kv(self) -> bool:
        """They are made of the latent vectors of a step."""
        return True

    def needs_all_tokens(self) -> str:
        """Return "": the order of the tokens is enough."""
        return ""

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe heads, the latent vectors and positions."""
        heads, head_dim, rope_dim = (fields.pop(name) for name in ("heads", "head_dim", "rope_dim"))
        yield heads_text(heads, head_dim)
        queries = fields.pop("query_latent")
        latent = f"keys and values of {fields.pop('latent')}"
        yield f"{latent}, queries of {queries}" if queries else latent
        yield f"RoPE on {rope_dim} of each head"

    def lower(self, build: Builder, x: Value) -> Value:
        """Compress, norm, rotate, attend, project back."""
        from blocks.latent_attention.operations import LatentAttend

        heads, head_dim, rope_dim = self.geometry(build.width)
        table, bare = SequenceTable(rope_dim, self.rope_base), head_dim - rope_dim
        latent = build.norm(build.project(x, "latent", (self.latent,)), "latent_norm", (self.latent,))
        shared = build.project(build.score_input(x), "rope_key", (1, rope_dim))
        shared = build.rotate(shared, "rope_key_rotated", (1, rope_dim), table)
        q = build.rotate(self._query(build, x), "query_rotated", (heads, head_dim), table)
        init = Init("normal", self.latent**-0.5)
        weights = [
            Weight("up_key", (heads * bare, self.latent), init),
            Weight("up_value", (heads * head_dim, self.latent), init),
        ]
        attend = LatentAttend(heads, head_dim, rope_dim, self.latent)
        y = build.op("attend", attend, q, shared, latent, weights=weights)
        return build.project(y, "out", (build.width,), heads * head_dim, writes_residual=True)

    def _query(self, build: Builder, x: Value) -> Value:
        heads, head_dim, _ = self.geometry(build.width)
        x, size = build.score_input(x), self.query_latent
        if size is None:
            return build.project(x, "query", (heads, head_dim))
        small = build.norm(build.project(x, "query_latent", (size,)), "query_latent_norm", (size,))
        return build.project(small, "query", (heads, head_dim), size)

"""Config and lowering of depth attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from blocks.base.attention import AttentionConfig
from blocks.base.builder import Builder
from blocks.depth_attention.operations import Attend, WriteKV
from blocks.ir.operation import Value


class DepthAttention(AttentionConfig):
    """Softmax attention of each token over its own keys and values of earlier steps (arXiv 2601.21582).

    Slots are shared by the uses of one block name within the innermost `recur` around it.
    """

    type: Literal["depth_attention"] = "depth_attention"
    rotary: bool = True
    """Whether to rotate queries and keys by the index of their step."""
    span: Literal["inclusive", "exclusive"] = "inclusive"
    """Whether a step attends to its own slot, or only to those of earlier steps (then 0 at the first)."""

    def rotates(self) -> bool:
        """Return whether heads are rotated."""
        return self.rotary

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe heads, rotation and span."""
        yield self.heads_words(fields)
        yield "rotary over steps" if fields.pop("rotary") else "no step code"
        yield "steps so far" if fields.pop("span") == "inclusive" else "earlier steps only"

    def lower(self, build: Builder, x: Value) -> Value:
        """Project, rotate by depth, append to the slots, attend over them, project back."""
        heads, kv_heads, head_dim = self.geometry(build.width)
        q, k, v = self.projections(build, x)
        if self.rotary:
            q = build.rotate_step(q, "query_rotated", (heads, head_dim), 10000.0)
            k = build.rotate_step(k, "key_rotated", (kv_heads, head_dim), 10000.0)
        slots = build.depth_slots(kv_heads, head_dim)
        token = build.op("append", WriteKV(kv_heads, head_dim), k, v, build.depth_token(), slots)
        build.set_depth_token(token)
        y = build.op("attend", Attend(heads, kv_heads, head_dim, self.span), q, token, slots)
        return build.project(y, "out", (build.width,), heads * head_dim, writes_residual=True)

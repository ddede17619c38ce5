"""Config and lowering of sequence attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from blocks.base.attention import AttentionConfig
from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Positive, Width
from blocks.base.invalid import independent
from blocks.ir.numbers import label
from blocks.ir.operation import Value
from blocks.sequence_attention.operations import Attend, WindowAttend, WindowMask


class SequenceAttention(AttentionConfig):
    """Causal softmax attention over the tokens of the same step, with grouped heads and RoPE."""

    type: Literal["sequence_attention"] = "sequence_attention"
    rope: bool = True
    """Whether to rotate queries and keys by position (RoPE, arXiv 2104.09864)."""
    rope_base: Positive = 10000.0
    """Base of the RoPE frequencies."""
    window: Width | None = None
    """Size of a sliding attention window, including the token itself. Default: the whole context."""
    qk_norm: bool = False
    """Whether to apply RMSNorm to queries and keys per head before the rotation."""

    def rotates(self) -> bool:
        """Return whether heads are rotated."""
        return self.rope

    def problems(self, width: int) -> Iterator[Problem]:
        """Check the heads, and that no field is set that nothing reads."""
        yield from independent(super().problems(width), self._unread())

    def _unread(self) -> Iterator[Problem]:
        if not self.rope and "rope_base" in self.model_fields_set:
            yield Problem("rope_base", "no rope_base, since rope is false", self.rope_base)

    def canonical(self, width: int) -> dict[str, Any]:
        """Return the fields that say what is built."""
        fields = super().canonical(width)
        return fields if self.rope else {**fields, "rope_base": None}

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe heads, positions and norms, and the window."""
        yield self.heads_words(fields)
        options = [
            "RoPE" if fields.pop("rope") else "no positions",
            "QK norm" if fields.pop("qk_norm") else "",
        ]
        yield " · ".join(filter(None, options))
        window = fields.pop("window")
        yield f"window of {window}" if window else "all earlier tokens"

    def lower(self, build: Builder, x: Value) -> Value:
        """Project, norm, rotate, attend, project back."""
        heads, kv_heads, head_dim = self.geometry(build.width)
        q, k, v = self.projections(build, x)
        if self.qk_norm:
            q = build.norm(q, "query_norm", (heads, head_dim))
            k = build.norm(k, "key_norm", (kv_heads, head_dim))
        if self.rope:
            q = build.rotate(q, "query_rotated", (heads, head_dim), self.rope_base)
            k = build.rotate(k, "key_rotated", (kv_heads, head_dim), self.rope_base)
        if self.window:
            mask = build.shared(f"window_{label(self.window)}", WindowMask(self.window))
            y = build.op("attend", WindowAttend(heads, kv_heads, head_dim, self.window), q, k, v, mask)
        else:
            y = build.op("attend", Attend(heads, kv_heads, head_dim), q, k, v)
        return build.project(y, "out", (build.width,), heads * head_dim, writes_residual=True)

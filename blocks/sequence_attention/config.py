"""Config and lowering of sequence attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from math import floor
from typing import Any, Literal

from blocks.base.attention import AttentionConfig
from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Fraction, Positive, Width
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
    rope_fraction: Fraction = 1.0
    """Fraction of each head that is rotated: its first elements, in whole pairs (arXiv 2204.06745)."""
    window: Width | None = None
    """Size of a sliding attention window, including the token itself. Default: the whole context."""
    qk_norm: bool = False
    """Whether to apply RMSNorm to queries and keys per head before the rotation."""

    def rotates(self) -> bool:
        """Return whether heads are rotated."""
        return self.rope and self.rope_fraction == 1

    def _rotated(self, head_dim: int) -> int | None:
        """Return how many elements of a head are rotated; None is all of them."""
        # a fraction that is no binary number must not lose a pair
        return None if self.rope_fraction == 1 else 2 * floor(head_dim * self.rope_fraction / 2 + 1e-9)

    def problems(self, width: int) -> Iterator[Problem]:
        """Check the heads, and that no field is set that nothing reads."""
        yield from independent(super().problems(width), self._unread(), self._fraction(width))

    def _unread(self) -> Iterator[Problem]:
        for name in ("rope_base", "rope_fraction"):
            if not self.rope and name in self.model_fields_set:
                yield Problem(name, f"no {name}, since rope is false", getattr(self, name))

    def _fraction(self, width: int) -> Iterator[Problem]:
        head_dim = self.geometry(width)[2]
        if self._rotated(head_dim) == 0:
            expected = f"a fraction that rotates a pair of the {head_dim} elements of a head"
            yield Problem("rope_fraction", expected, self.rope_fraction)

    def canonical(self, width: int) -> dict[str, Any]:
        """Return the fields that say what is built."""
        fields = super().canonical(width)
        return fields if self.rope else {**fields, "rope_base": None, "rope_fraction": 1.0}

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe heads, positions and norms, and the window."""
        yield self.heads_words(fields)
        fraction = fields.pop("rope_fraction")
        partial = "" if fraction == 1 else f" on {fraction:g} of each head"
        options = [
            f"RoPE{partial}" if fields.pop("rope") else "no positions",
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
            rotated = self._rotated(head_dim)
            q = build.rotate(q, "query_rotated", (heads, head_dim), self.rope_base, rotated=rotated)
            k = build.rotate(k, "key_rotated", (kv_heads, head_dim), self.rope_base, rotated=rotated)
        if self.window:
            mask = build.shared(f"window_{label(self.window)}", WindowMask(self.window))
            y = build.op("attend", WindowAttend(heads, kv_heads, head_dim, self.window), q, k, v, mask)
        else:
            y = build.op("attend", Attend(heads, kv_heads, head_dim), q, k, v)
        return build.project(y, "out", (build.width,), heads * head_dim, writes_residual=True)

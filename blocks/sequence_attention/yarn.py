"""The position table of YaRN. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blocks.ir.kernel import Kernel
from blocks.primitives.operations import SequenceTable


@dataclass(frozen=True)
class YarnTable(SequenceTable):
    """The rotations of all positions, with low frequencies divided by `scale` (YaRN, arXiv 2309.00071).

    Attributes:
        context: the context of the original training, in tokens.
        beta_fast: rotations within `context` from which on frequencies are unchanged.
        beta_slow: rotations within `context` up to which frequencies are divided by `scale`.
    """

    context: int = 1
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    decoding = "blocks.sequence_attention.decoding:next_yarn_rows"
    kernels = (
        Kernel(
            "yarn_table",
            "blocks.sequence_attention.reference:yarn_table",
            "made once per forward, in fp32",
        ),
    )

    def arguments(self) -> dict[str, Any]:
        slow = {"context": self.context, "beta_fast": self.beta_fast, "beta_slow": self.beta_slow}
        return {"head_dim": self.head_dim, "base": self.base, "scale": self.scale, **slow}

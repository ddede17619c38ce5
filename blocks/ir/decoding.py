"""How an operation computes tokens that come after others, as in generation. Torch-free."""

from __future__ import annotations

from typing import Any, ClassVar

from blocks.ir.meaning import Meaning

LOCAL = "local"
"""The decoding of an operation that makes each token's output from that token's inputs alone."""


class Decoding(Meaning):
    """How new tokens are computed where earlier ones went through before. Not at all unless it says so."""

    decoding: ClassVar[str] = ""
    """`LOCAL`: by the same kernel. `package.module:name`: by a function that is called like a kernel with a
    `Past` after its inputs, and by keyword a `place` and a `use` of it that are this execution's own. "": a
    model with the operation cannot generate token by token.
    """

    decoding_of_some: ClassVar[str] = ""
    """The function in its place where a step runs on some of the tokens, which also gets by keyword
    `chosen_by`, the place of what chose them: `Past.runs` tells which of them run it. Local ones need none.
    """

    keeps_every_step: ClassVar[str] = ""
    """Why later tokens need what was kept at each step, where they do. Else steps may share it."""

    def decoding_arguments(self) -> dict[str, Any]:
        """Return the constant keyword arguments of that function: by default those of the kernels."""
        return self.arguments()

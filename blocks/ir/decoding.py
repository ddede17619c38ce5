"""How an operation computes new tokens in generation, with a cache of earlier ones. Torch-free."""

from __future__ import annotations

from typing import Any, ClassVar

from blocks.ir.meaning import Meaning

LOCAL = "local"
"""The decoding of an operation whose outputs for a token depend on that token's inputs only."""


class Decoding(Meaning):
    """How new tokens are computed from cached earlier ones. By default the operation cannot decode."""

    decoding: ClassVar[str] = ""
    """`LOCAL`: the kernel runs on the new tokens. `package.module:name`: a function with the signature of a
    kernel, plus a `Past` after the inputs and the keywords `place` and `use`, which identify this execution
    in the `Past`. "": a model with the operation cannot generate token by token.
    """

    decoding_of_some: ClassVar[str] = ""
    """The function that replaces `decoding` in a step that runs on selected tokens. It gets the keyword
    `chosen_by` as well, the place of the selection: `Past.runs` has the tokens that run. Not needed by local
    operations.
    """

    keeps_every_step: ClassVar[str] = ""
    """Why each step needs a cache of its own; "" if steps may share one."""

    def decoding_arguments(self) -> dict[str, Any]:
        """Return the constant keyword arguments of that function. Default: those of the kernels."""
        return self.arguments()

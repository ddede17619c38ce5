"""Documents in one sequence that do not see each other. Torch-free."""

from __future__ import annotations

from blocks.base.fields import Natural
from blocks.base.wiring import Site
from blocks.wiring.documents import Documents


class DocumentsApart(Documents):
    """Tokens attend only within their own document, in training and generation (arXiv 2402.13991).

    Outputs and gradients equal those of each document alone: learned positions restart with each document,
    and RoPE depends on distances only. The mask saves no FLOPs, so costs count all pairs of a sequence.
    """

    name = "apart"
    aliases = "masked mask separate"

    apart: Natural
    """The id of the end-of-document token. As an input it is the first token of the next document."""

    def summary(self, site: Site) -> str:
        """Name the token."""
        return f"documents apart, from token {self.apart} on"

    def start(self) -> int | None:
        """Return the token."""
        return self.apart

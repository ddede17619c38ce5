"""Documents in one sequence that do not see each other. Torch-free."""

from __future__ import annotations

from blocks.base.fields import Natural
from blocks.base.wiring import Site
from blocks.wiring.documents import Documents


class DocumentsApart(Documents):
    """Tokens see only those of their own document, in training and generation (arXiv 2402.13991).

    Outputs and gradients are those of the documents one by one: learned positions begin again with each
    document, and rotations depend on distances alone. Costs count all pairs of a sequence, which is also
    what runs: the mask saves no FLOPs.
    """

    name = "apart"
    aliases = "masked mask separate"

    apart: Natural
    """The token that ends a document; where it is read it begins the next one."""

    def summary(self, site: Site) -> str:
        """Name the token."""
        return f"documents apart, from token {self.apart} on"

    def start(self) -> int | None:
        """Return the token."""
        return self.apart

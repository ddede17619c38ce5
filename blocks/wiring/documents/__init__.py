"""The key `documents`; each value is a file here. Torch-free."""

from __future__ import annotations

from blocks.base.wiring import WiringConfig


class Documents(WiringConfig):
    """Whether tokens attend to other documents of the same sequence."""

    key = "documents"
    owner = ("model",)
    default = "joined"
    key_aliases = "document_mask doc_mask intra_document_masking packing"

    def start(self) -> int | None:
        """Return the token that begins a document, where documents do not see each other."""
        return None

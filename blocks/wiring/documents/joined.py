"""Sequences as one text. Torch-free."""

from blocks.wiring.documents import Documents


class JoinedDocuments(Documents):
    """Tokens attend to all earlier tokens of the sequence, across documents."""

    name = "joined"
    aliases = "none false off all"

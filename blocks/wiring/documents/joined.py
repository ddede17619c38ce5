"""Sequences as one text. Torch-free."""

from blocks.wiring.documents import Documents


class JoinedDocuments(Documents):
    """Tokens see all earlier ones of the sequence, whatever documents these are from."""

    name = "joined"
    aliases = "none false off all"

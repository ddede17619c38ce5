"""From tokens back to text, with the tokenizer that data were built with."""

from __future__ import annotations

import os
from collections.abc import Sequence

from composer.data.building.tokenizing import tokenizer
from composer.data.tokens.manifest import BYTES, BYTES_SEPARATOR, Manifest


def decode(manifest: Manifest, tokens: Sequence[int]) -> str:
    """Return the text of tokens, ends of documents as a mark; numbers where no tokenizer is known."""
    if manifest.tokenizer == BYTES:
        content = bytes(tokens)
        return "\u241e".join(
            part.decode(errors="replace") for part in content.split(bytes([BYTES_SEPARATOR]))
        )
    if not manifest.tokenizer:
        return " ".join(map(str, tokens)) + " "
    made = tokenizer(os.path.join(manifest.folder, manifest.tokenizer))
    return str(made.decode([*tokens], skip_special_tokens=False))

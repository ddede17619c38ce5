"""Into how many tokens at a time logits are cut. Torch-free."""

from __future__ import annotations

CHUNK_BYTES = 2**27
"""What the logits of one chunk take at most, unless they are those of `FEWEST` tokens.

In fp32, or as products make them where a kernel reads these.
"""

FEWEST = 256
"""Tokens of a chunk at least: each chunk adds to the whole gradient of the weight."""


def chunk_tokens(vocab: int, size: float = 4) -> int:
    """Return the tokens of a chunk, a power of two; `size` is that of its largest elements, in bytes."""
    tokens = FEWEST
    # compared step by step, which leaves a traced size a range to move in
    while 2 * tokens * size * vocab <= CHUNK_BYTES:
        tokens *= 2
    return tokens


def chunks_pay(vocab: int, tokens: int) -> bool:
    """Return whether the logits of a micro-batch are more than one chunk."""
    return 4 * vocab * tokens > CHUNK_BYTES and tokens > FEWEST

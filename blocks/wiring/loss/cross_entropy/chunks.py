"""The number of tokens per chunk of logits. Torch-free."""

from __future__ import annotations

CHUNK_BYTES = 2**27
"""The most bytes that the logits of one chunk take, unless it has only `FEWEST` tokens.

In fp32, or in the dtype of products with the kernel.
"""

FEWEST = 256
"""The fewest tokens of a chunk: each chunk adds to the whole gradient of the weight."""


def chunk_tokens(vocab: int, size: float = 4) -> int:
    """Return the tokens of a chunk, a power of two; `size` is the bytes per element of its logits."""
    tokens = FEWEST
    # a loop of comparisons, so that a traced size keeps a range of valid values
    while 2 * tokens * size * vocab <= CHUNK_BYTES:
        tokens *= 2
    return tokens


def chunks_pay(vocab: int, tokens: int) -> bool:
    """Return whether the logits of a micro-batch take more than one chunk."""
    return 4 * vocab * tokens > CHUNK_BYTES and tokens > FEWEST

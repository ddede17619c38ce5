"""Stop tokens and stop sequences: where a row ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import index
from typing import Any

from torch import Tensor

Stop = int | Collection[int | Sequence[int]] | None
"""Stop tokens, or stop sequences: a row ends after any of them."""

_EXPECTED = "stop: expected tokens or sequences of at least one token"


def as_stop(stop: Stop, vocab: int) -> list[list[int]]:
    """Return the sequences of tokens after which a row ends.

    Raises:
        ValueError: a sequence is empty, or has something else than tokens below `vocab` (`model.vocab`).
    """
    sequences = [] if stop is None else _sequences(stop)
    for sequence in sequences:
        if not sequence:
            raise ValueError(f"{_EXPECTED}, got an empty sequence")
        for token in sequence:
            if not 0 <= token < vocab:
                expected = f"expected tokens from 0 to {vocab - 1} (model.vocab is {vocab})"
                raise ValueError(f"stop: {expected}, got {token}, which is never generated")
    return sequences


def _sequences(stop: Any) -> list[list[int]]:
    """Return one token, or each of a collection, as a sequence."""
    stop = stop.tolist() if isinstance(stop, Tensor) else stop
    try:
        if isinstance(stop, Collection) and not isinstance(stop, str):
            return [[*map(index, each)] if isinstance(each, Collection) else [index(each)] for each in stop]
        return [[index(stop)]]
    except TypeError:
        raise ValueError(f"{_EXPECTED}, got {stop!r}") from None

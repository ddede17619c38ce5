"""The gated delta rule for tokens that come after others: one state is kept."""

from __future__ import annotations

from torch import Tensor

from blocks.gated_delta.reference import chunked, empty_state, prepared
from blocks.kernels.past import Past, State


def mix_next(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    write: Tensor,
    forget: Tensor,
    past: Past,
    rate: Tensor,
    shift: Tensor,
    *,
    place: str,
    use: int,
) -> Tensor:
    """Write new tokens into the state, and read it after each."""
    parts = prepared(q, k, v, write, forget, rate, shift)
    kept = past.held(place, use, lambda: State(empty_state(parts[1], parts[2])))
    y, kept.tensor = chunked(*parts, kept.tensor)
    return y.transpose(1, 2).to(v.dtype)

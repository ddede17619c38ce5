"""Generation with Gated DeltaNet: caches the state and the last inputs of the convolutions."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.gated_delta.by_autograd import empty_state, mixed
from blocks.gated_delta.reference import convolve_plain
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
    """Write new tokens into the state and read it after each token; padding leaves the state as it is."""
    padded = past.padded(write)
    if padded is not None:
        # a write strength of 0 and a decay of 1
        write, forget = (x.masked_fill(padded[:, :, None], -torch.inf) for x in (write, forget))
    kept = past.held(place, use, lambda: State(empty_state(k, v)))
    y, state = mixed(q, k, v, write, forget, rate, shift, kept.tensor)
    kept.put(state)
    return y


def convolve_next(x: Tensor, past: Past, weight: Tensor, *, place: str, use: int) -> Tensor:
    """Convolve new tokens with the cached previous tokens, and update the cache."""
    before = weight.shape[1] - 1
    kept = past.held(place, use, lambda: State(x.new_zeros(len(x), before, *x.shape[2:])))
    seen = torch.cat((kept.tensor, x), 1)
    kept.put(past.latest(seen, before))
    return convolve_plain(seen, weight)[:, before:]

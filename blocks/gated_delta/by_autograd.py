"""The gated delta rule by chunks with gradients by autograd, which exported models and generation run.

Shapes are those of `reference`. Within a chunk, tokens come after heads: keys are [B, heads, C, key_dim],
gates [B, heads, C, 1], states [B, heads, key_dim, value_dim].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.gated_delta.operations import CHUNK
from blocks.gated_delta.reference import unit
from blocks.primitives.reference import wide


def mix(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    """Return the values that each query reads from the state after its token: [B, S, heads, value_dim]."""
    return mixed(q, k, v, write, forget, rate, shift, empty_state(k, v))[0]


def empty_state(k: Tensor, v: Tensor) -> Tensor:
    """Return the zero state before the first token."""
    state: Tensor = wide(k.new_zeros(len(k), *k.shape[2:], v.shape[-1]))
    return state


def mixed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    write: Tensor,
    forget: Tensor,
    rate: Tensor,
    shift: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the values that tokens read, in the dtype of v, and the state after the last one."""
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        query, key = unit(wide(q)) * q.shape[-1] ** -0.5, unit(wide(k))
        strength = wide(write).sigmoid().unsqueeze(-1)
        log_decay = (-wide(rate).exp() * F.softplus(wide(forget) + wide(shift))).unsqueeze(-1)
        given = [each.transpose(1, 2).split(CHUNK, 2) for each in (query, key, wide(v), strength, log_decay)]
        for query, key, value, strength, log_decay in zip(*given, strict=True):
            y, state = _chunk(query, key, value, strength, log_decay, state)
            outputs.append(y)
        return torch.cat(outputs, 2).transpose(1, 2).to(v.dtype), state


def _chunk(
    query: Tensor, key: Tensor, value: Tensor, strength: Tensor, log_decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the values that the tokens of a chunk read, and the state after it."""
    total = log_decay.cumsum(2)
    since, until = total.exp(), (total[:, :, -1:] - total).exp()
    # from an earlier token to a later one; differences above the diagonal could overflow
    between = (total - total.mT).tril().exp().tril()
    # what each token writes: its value, less what the state and earlier tokens hold for its key
    system = ((key @ key.mT) * between * strength).tril(-1)
    error = strength * (value - (since * key) @ state)
    written = torch.linalg.solve_triangular(system, error, upper=False, unitriangular=True)
    y = ((query @ key.mT) * between) @ written + (since * query) @ state
    return y, since[:, :, -1:] * state + (until * key).mT @ written

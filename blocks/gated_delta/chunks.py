"""The gated delta rule by chunks of tokens, without autograd.

N is batch times heads, C the tokens of a chunk. Gates are [N, C, 1], states [N, key_dim, value_dim].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.gated_delta.operations import CHUNK
from blocks.primitives.reference import wide

EPS = 1e-6


class Gates(NamedTuple):
    """The write strength of a token, the logarithm of its decay, and the inputs of both."""

    strength: Tensor
    rate: Tensor
    opened: Tensor
    log_decay: Tensor


class Chunk(NamedTuple):
    """Intermediates of the tokens of a chunk and the state before them.

    Attributes:
        key, key_scale: keys normalized to length 1, and the factors of the normalization.
        since, until: decay from the state before the chunk to a token, and from a token to the state after.
        kept: decay from token j to token i [N, C, C], 0 for later j.
        alike: dot products of keys [N, C, C].
        system: the strictly lower triangular system: the share of j's write that i subtracts [N, C, C].
        error: values minus the values that the state before holds for their keys.
        written: the vectors that tokens write at their keys.
    """

    key: Tensor
    key_scale: Tensor
    gates: Gates
    since: Tensor
    until: Tensor
    kept: Tensor
    alike: Tensor
    system: Tensor
    error: Tensor
    written: Tensor


def parts(length: int) -> Iterator[slice]:
    """Yield the slice of tokens of each chunk."""
    return (slice(start, start + CHUNK) for start in range(0, length, CHUNK))


def rows(x: Tensor, part: slice) -> Tensor:
    """Return the tokens `part` of x [B, S, heads, ...] as [N, C, ...], at least in fp32."""
    part_rows = x[:, part].transpose(1, 2)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.empty(part_rows.shape, dtype=dtype, device=x.device).copy_(part_rows).flatten(0, 1)


def put(x: Tensor, part: slice, values: Tensor) -> None:
    """Write `found` [N, C, ...] to the tokens `part` of x."""
    batch, _, heads = x.shape[:3]
    x[:, part].copy_(torch.unflatten(values, 0, (batch, heads)).transpose(1, 2))


def unit(x: Tensor, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return x normalized to length `size` over the last dimension, and the factor of each row."""
    scale = x.square().sum(-1, keepdim=True).add_(EPS).rsqrt_().mul_(size)
    return x.mul_(scale), scale


def gates(write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor, part: slice) -> Gates:
    """Return the gates of the tokens `part`; write, forget: [B, S, heads]; rate, shift: [heads]."""
    batch = len(write)
    each = (wide(x).repeat(batch)[:, None, None] for x in (rate.exp(), shift))
    rates, shifts = each
    opened = rows(forget, part).unsqueeze(-1).add_(shifts)
    return Gates(rows(write, part).unsqueeze(-1).sigmoid_(), rates, opened, F.softplus(opened).mul_(-rates))


def solve(key: Tensor, value: Tensor, gates: Gates, state: Tensor) -> Chunk:
    """Compute the writes of a chunk by one triangular system over its tokens."""
    key, key_scale = unit(key)
    total = gates.log_decay.cumsum(1)
    # only elements above the diagonal can overflow
    kept = torch.sub(total, total.mT).exp_().tril_()
    until = (total[:, -1:] - total).exp_()
    since = total.exp_()
    alike = torch.bmm(key, key.mT)
    system = (alike * kept).mul_(gates.strength)
    error = torch.baddbmm(value, since * key, state, alpha=-1)
    written = torch.linalg.solve_triangular(system, gates.strength * error, upper=False, unitriangular=True)
    return Chunk(key, key_scale, gates, since, until, kept, alike, system, error, written)


def read(query: Tensor, chunk: Chunk, state: Tensor) -> Tensor:
    """Return the values [N, C, value_dim] that normalized queries [N, C, key_dim] read."""
    scores = torch.bmm(query, chunk.key.mT).mul_(chunk.kept)
    return torch.baddbmm(torch.bmm(scores, chunk.written), chunk.since * query, state)


def after(chunk: Chunk, state: Tensor) -> Tensor:
    """Return the state after a chunk [N, key_dim, value_dim]."""
    return torch.baddbmm(chunk.since[:, -1:] * state, (chunk.until * chunk.key).mT, chunk.written)


def empty_state(key: Tensor, value: Tensor) -> Tensor:
    """Return the zero state before the first token; key, value: [B, S, heads, ...]."""
    batch, _, heads, key_dim = key.shape
    dtype = torch.promote_types(key.dtype, torch.float32)
    return torch.zeros(batch * heads, key_dim, value.shape[-1], dtype=dtype, device=key.device)


def mixed(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    """Return the values that tokens read [B, S, heads, value_dim], in the dtype of v."""
    y = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    state = empty_state(k, v)
    for part in parts(k.shape[1]):
        chunk = solve(rows(k, part), rows(v, part), gates(write, forget, rate, shift, part), state)
        query, _ = unit(rows(q, part), q.shape[-1] ** -0.5)
        outputs = read(query, chunk, state)
        put(y, part, outputs)
        state = after(chunk, state)
        # free the memory for the next chunk
        del chunk, query, outputs
    return y

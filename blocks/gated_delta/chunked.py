"""The gated delta rule by chunks, with a backward pass from the last chunk to the first.

Only the inputs are saved. The backward pass recomputes the state before each chunk, then holds the tensors of
one chunk at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.gated_delta.chunks import (
    Chunk,
    Gates,
    after,
    empty_state,
    gates,
    mixed,
    parts,
    put,
    rows,
    solve,
    unit,
)


def mix(
    q: Tensor, k: Tensor, v: Tensor, write: Tensor, forget: Tensor, rate: Tensor, shift: Tensor
) -> Tensor:
    """Return the values that each query reads from the state after its token: [B, S, heads, value_dim].

    Shapes are those in `reference`. Computed in fp32; the result has the dtype of v.
    """
    made: Tensor = _Mix.apply(q, k, v, write, forget, rate, shift)  # type: ignore[no-untyped-call]
    return made


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        ctx.save_for_backward(*given)
        with torch.autocast(given[0].device.type, enabled=False):
            return mixed(*given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(gradient.device.type, enabled=False):
            return _backward(gradient, *ctx.saved_tensors)


class _Gradients(NamedTuple):
    """The gradients of the inputs of a chunk, [N, C, ...] each, and of the state before it."""

    query: Tensor
    key: Tensor
    value: Tensor
    strength: Tensor
    log_decay: Tensor
    state: Tensor


def _backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    write: Tensor,
    forget: Tensor,
    rate: Tensor,
    shift: Tensor,
) -> tuple[Tensor, ...]:
    made = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, write, forget)]
    states, chunks = [empty_state(k, v)], list(parts(k.shape[1]))
    for part in chunks[:-1]:
        chunk = solve(rows(k, part), rows(v, part), gates(write, forget, rate, shift, part), states[-1])
        states.append(after(chunk, states[-1]))
        del chunk
    last = torch.zeros_like(states[0])
    sums = torch.zeros(2, len(last), dtype=last.dtype, device=last.device)
    for part, state in zip(reversed(chunks), reversed(states), strict=True):
        chunk = solve(rows(k, part), rows(v, part), gates(write, forget, rate, shift, part), state)
        size = q.shape[-1] ** -0.5
        query, scale = unit(rows(q, part), size)
        gradients = _of_chunk(rows(gradient, part), query, chunk, state, last)
        last = gradients.state
        put(made[0], part, _through_unit(gradients.query, query, scale, size))
        put(made[1], part, _through_unit(gradients.key, chunk.key, chunk.key_scale, 1.0))
        put(made[2], part, gradients.value)
        put(made[3], part, _through_sigmoid(gradients.strength, chunk.gates).squeeze(-1))
        opened = _through_softplus(gradients.log_decay, chunk.gates)
        put(made[4], part, opened.squeeze(-1))
        sums[0] += (gradients.log_decay * chunk.gates.log_decay).sum((1, 2))
        sums[1] += opened.sum((1, 2))
        del chunk, query, scale, gradients, opened
    weights = sums.view(2, len(q), -1).sum(1)
    return *made, weights[0].to(rate.dtype), weights[1].to(shift.dtype)


def _of_chunk(gradient: Tensor, query: Tensor, chunk: Chunk, state: Tensor, last: Tensor) -> _Gradients:
    """Return the gradients of a chunk from those of its outputs and of the state after it.

    All intermediates are held until the end; the peak is their sum.
    """
    key, since, until, written = chunk.key, chunk.since, chunk.until, chunk.written
    strength = chunk.gates.strength
    scores = torch.bmm(query, key.mT).mul_(chunk.kept)
    of_written = torch.baddbmm(torch.bmm(scores.mT, gradient), until * key, last)
    solved = torch.linalg.solve_triangular(chunk.system.mT, of_written, upper=True, unitriangular=True)
    of_scores = torch.bmm(gradient, written.mT).tril_()
    of_system = torch.bmm(solved, written.mT).neg_().tril_(-1)
    of_strength = (solved * chunk.error).sum(-1, keepdim=True)
    of_strength += (of_system * chunk.alike).mul_(chunk.kept).sum(-1, keepdim=True)
    of_value = solved * strength
    # gradients of the decay between tokens
    moved = scores.mul_(of_scores).add_(of_system * chunk.system)
    of_decay = moved.sum(-1, keepdim=True).sub_(moved.sum(-2).unsqueeze(-1))
    of_scores.mul_(chunk.kept)
    of_system.mul_(chunk.kept).mul_(strength)
    either_way = of_system + of_system.mT
    # gradients through the states before and after the chunk
    from_before = torch.bmm(gradient, state.mT).mul_(since)
    of_query = torch.baddbmm(from_before, of_scores, key)
    of_decay += from_before.mul_(query).sum(-1, keepdim=True)
    from_error = torch.bmm(of_value, state.mT).mul_(since).neg_()
    of_decay += (from_error * key).sum(-1, keepdim=True)
    from_after = torch.bmm(written, last.mT).mul_(until)
    at_end = (from_after * key).sum(-1, keepdim=True)
    of_decay -= at_end
    of_decay[:, -1:] += at_end.sum(1, keepdim=True)
    of_decay[:, -1:] += (state * last).sum((1, 2), keepdim=True).mul_(since[:, -1:])
    log_decay = of_decay.flip(1).cumsum_(1).flip(1)
    of_key = torch.baddbmm(from_error.add_(from_after), of_scores.mT, query)
    of_key = torch.baddbmm(of_key, either_way, key)
    seen_query, seen_key, shrunk = since * query, since * key, since[:, -1:] * last
    grown = torch.baddbmm(shrunk, seen_query.mT, gradient)
    before = torch.baddbmm(grown, seen_key.mT, of_value, alpha=-1)
    return _Gradients(of_query, of_key, of_value, of_strength, log_decay, before)


def _through_unit(gradient: Tensor, unit: Tensor, scale: Tensor, size: float) -> Tensor:
    """Return the gradient of a vector that was normalized to length `size`."""
    along = (gradient * unit).sum(-1, keepdim=True).div_(size**2)
    return gradient.sub_(unit * along).mul_(scale)


def _through_sigmoid(gradient: Tensor, gates: Gates) -> Tensor:
    return gradient.mul_(gates.strength).mul_(1 - gates.strength)


def _through_softplus(gradient: Tensor, gates: Gates) -> Tensor:
    return gates.opened.sigmoid().mul_(-gates.rate).mul_(gradient)

"""Plain PyTorch for experts with equal numbers of rows: with a capacity, or expert choice.

x, query: [batch, sequence, width]; token indices and gates of the rows: [batch, experts, size].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blocks.expert_attention import reference
from blocks.expert_attention.sizes import rows_per_expert


def with_capacity(
    x: Tensor,
    query: Tensor,
    training: bool,
    up: Tensor,
    down: Tensor,
    keys: Tensor,
    balance: Tensor,
    load: Tensor | None,
    active: int,
    capacity: float,
    activation: str,
    **options: Any,
) -> Tensor | tuple[Tensor, ...]:
    """Route like `reference.route`; in training, choices beyond an expert's capacity are dropped.

    First choices of all tokens of a sequence precede second choices, each in the order of tokens (GShard,
    arXiv 2006.16668). Outside of training nothing is dropped. `options` are those of `reference.choose`,
    whose losses are returned after y.
    """
    weights, indices, *losses = reference.route(query, keys, balance, load, active, **options)
    if not training:
        odd = down.shape[1] % 8 or down.shape[2] % 8
        run = reference.experts_plain if odd else reference.experts_grouped
        return _beside(run(x, weights, indices, up, down, activation=activation), losses)
    size = int(rows_per_expert(x.shape[1], len(keys), active, capacity))
    tokens, gates = kept(weights, indices, len(keys), size)
    return _beside(in_equal_parts(x, tokens, gates, up, down, activation), losses)


def kept(weights: Tensor, indices: Tensor, experts: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the tokens and gates of the first `size` choices of each expert.

    Unfilled rows have gate 0.
    """
    length, active = indices.shape[1:]
    chosen = indices.transpose(1, 2).flatten(1)
    order = chosen.argsort(dim=-1, stable=True)
    counts = chosen.new_zeros(len(chosen), experts).scatter_add_(1, chosen, torch.ones_like(chosen))
    number = torch.arange(size, device=chosen.device)
    place = (counts.cumsum(1) - counts).unsqueeze(-1) + number
    picked = order.gather(1, place.clamp(max=active * length - 1).flatten(1)).view_as(place)
    gates = weights.transpose(1, 2).flatten(1).gather(1, picked.flatten(1)).view_as(place)
    return picked % length, gates * (number < counts.unsqueeze(-1))


def choosing_tokens(
    x: Tensor,
    query: Tensor,
    training: bool,
    up: Tensor,
    down: Tensor,
    keys: Tensor,
    threshold: Tensor,
    cutoffs: Tensor | None,
    active: int,
    scores: str,
    renormalize: bool,
    z_loss: bool,
    activation: str,
) -> Tensor | tuple[Tensor, ...]:
    """Run each expert on the tokens of a sequence that it scores highest (expert choice, arXiv 2202.09368).

    The number of tokens is such that a token has `active` experts on average. threshold: [experts]; cutoffs:
    [experts + 1], to which the lowest score of each expert's tokens and, last, the number of sequences are
    added, or None. Outside of training, an expert runs the tokens whose scores reach its threshold.
    """
    logits, every = reference.scored(query, keys, scores)
    losses = [reference.z_of(logits)] if z_loss else []
    if not training:
        return _beside(_above(x, every, threshold, up, down, renormalize, activation), losses)
    size = int(rows_per_expert(x.shape[1], len(keys), active))
    best = every.detach().transpose(1, 2).topk(size, -1)
    tokens = best.indices
    if cutoffs is not None:
        lowest = best.values[..., -1].sum(0)
        cutoffs += torch.cat((lowest, lowest.new_full((1,), len(x))))
    gates = every.transpose(1, 2).gather(-1, tokens)
    if renormalize:
        flat = tokens.flatten(1)
        sums = gates.new_zeros(x.shape[:2]).scatter_add(1, flat, gates.flatten(1))
        gates = gates / sums.gather(1, flat).view_as(gates)
    return _beside(in_equal_parts(x, tokens, gates, up, down, activation), losses)


def _above(
    x: Tensor,
    every: Tensor,
    threshold: Tensor,
    up: Tensor,
    down: Tensor,
    renormalize: bool,
    activation: str,
) -> Tensor:
    """Run each expert on tokens whose scores, `every` [batch, sequence, experts], reach its threshold."""
    gates = every * (every >= threshold)
    if renormalize:
        gates = gates / gates.sum(-1, keepdim=True).clamp(min=1e-30)
    flat, gates = x.flatten(0, 1), gates.flatten(0, 1)
    y = torch.zeros_like(flat)
    for expert in range(len(up)):
        (token,) = gates[:, expert].nonzero(as_tuple=True)
        hidden = reference.PLAIN.activations[activation](flat[token] @ up[expert])
        y = y.index_add(0, token, (hidden @ down[expert] * gates[token, expert, None]).to(y.dtype))
    return y.view(x.shape)


def _beside(y: Tensor, losses: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return (y, *losses) if losses else y


@torch.no_grad()
def update_threshold(threshold: Tensor, cutoffs: Tensor, rate: float) -> None:
    """Move thresholds towards the mean cutoffs of this optimizer step by `rate`, and reset the sums."""
    *_, sequences = cutoffs
    mean = cutoffs[:-1] / sequences.clamp(min=1)
    threshold += rate * (sequences > 0) * (mean - threshold)
    cutoffs.zero_()


def in_equal_parts(
    x: Tensor, tokens: Tensor, gates: Tensor, up: Tensor, down: Tensor, activation: str
) -> Tensor:
    """Run all experts in two batched products, and return each token's sum of outputs weighted by gates.

    up: [experts, width, 2 * hidden], or [experts, width, hidden] without a gate (`relu`);
    down: [experts, hidden, width].
    """
    batch, length, width = x.shape
    first = torch.arange(0, batch * length, length, device=x.device)
    rows = (tokens + first[:, None, None]).transpose(0, 1).flatten()
    given = x.flatten(0, 1).index_select(0, rows).view(len(up), -1, width).to(up.dtype)
    hidden = reference.PLAIN.activations[activation](torch.bmm(given, up))
    out = torch.bmm(hidden, down).flatten(0, 1)
    weighted = out * gates.transpose(0, 1).reshape(-1, 1)
    # unlike index_add, it saves no rows for the backward pass
    y = weighted.new_zeros(batch * length, width)
    y = y.scatter_add_(0, rows.unsqueeze(1).expand(-1, width), weighted)
    return y.view(x.shape).to(out.dtype)

"""Plain PyTorch for expert-choice routing of tokens through steps.

x: [batch, sequence, width]; places: [batch, chosen], indices of the chosen tokens in the flattened batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.ir.selected_tokens import selected_count
from blocks.kernels.past import Past
from blocks.primitives.reference import wide


def all_tokens(tokens: Tensor) -> Tensor:
    """Return flags [batch, sequence], all set."""
    return torch.ones_like(tokens, dtype=torch.bool)


def choose_tokens(
    x: Tensor,
    ran_before: Tensor,
    training: bool,
    router: Tensor,
    keep: Sequence[float],
    index: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the tokens that run step `index`, in order, among those that ran the previous step.

    ran_before: flags [batch, sequence]; router: [steps, width]. Outside of training, tokens with positive
    logits are chosen. Sequences with fewer of them than others are padded at the end with tokens whose gate
    is 0.

    Returns places, gates [batch, chosen], the flags of the tokens that run, and the binary cross-entropy
    between these and the logits, averaged over `ran_before`.
    """
    # fp32 under any autocast dtype: a rounded logit can swap tokens
    with torch.autocast(x.device.type, enabled=False):
        logits = F.linear(wide(x), wide(router[index])[None]).squeeze(-1)
    here, before = (keep[min(step, len(keep) - 1)] for step in (index, max(index - 1, 0)))
    length = x.shape[1]
    if training:
        ranked = logits.detach().masked_fill(~ran_before, float("-inf"))
        tokens = ranked.topk(selected_count(length, here), -1).indices.sort(-1).values
        runs = torch.zeros_like(ran_before).scatter(1, tokens, True)
    else:
        # a step with as many tokens as the previous one takes all of them
        everyone = here == 1 if index == 0 else here == before
        runs = ran_before if everyone else ran_before & (logits > 0)
        tokens = running_first(runs)
    places = tokens + torch.arange(0, x.shape[0] * length, length, device=x.device)[:, None]
    gates = scale * logits.flatten().take(places).sigmoid()
    if not training:
        gates = gates * runs.gather(1, tokens)
    compared = F.binary_cross_entropy_with_logits(logits, runs.to(logits.dtype), reduction="none")
    loss = (compared * ran_before).sum() / ran_before.sum().clamp(min=1)
    return places, gates, runs, loss


def running_first(runs: Tensor) -> Tensor:
    """Return the places of the tokens that run, in order, padded to the longest sequence with other tokens.

    runs: flags [batch, sequence]. At least one token per sequence is returned.
    """
    # a single token needs no synchronization with the device
    most = 1 if runs.shape[1] == 1 else max(int(runs.sum(-1).max()), 1)
    return (~runs).long().argsort(dim=-1, stable=True)[:, :most]


def choose_next(
    x: Tensor,
    ran_before: Tensor,
    training: bool,
    past: Past,
    router: Tensor,
    *,
    keep: Sequence[float],
    index: int,
    scale: float,
    place: str,
    use: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose among new tokens, and record in the KV caches which of them run."""
    places, gates, runs, loss = choose_tokens(x, ran_before, training, router, keep, index, scale)
    past.chosen(place, runs, places)
    return places, gates, runs, loss


def pick_tokens(x: Tensor, places: Tensor) -> Tensor:
    """Return the tokens of x at the places: [batch, chosen, width]."""
    return x.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, -1)


def put_back(x: Tensor, places: Tensor, gates: Tensor, y: Tensor) -> Tensor:
    """Add y [batch, chosen, width] times its gates to the tokens of x at the places."""
    weighted = (y * gates.unsqueeze(-1)).to(x.dtype).flatten(0, 1)
    # unlike index_add, it saves no rows for the backward pass
    rows = places.flatten().unsqueeze(1).expand(-1, x.shape[-1])
    return x.flatten(0, 1).scatter_add(0, rows, weighted).view(x.shape)

"""Plain PyTorch for expert attention.

x: [batch, sequence, width]; weights and indices of the chosen experts: [batch, sequence, active].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import rotate_step, wide


def route(
    query: Tensor, keys: Tensor, balance: Tensor, load: Tensor | None, active: int, **options: Any
) -> tuple[Tensor, ...]:
    """Choose `active` experts by biased logits, and weight them by scores of the unbiased logits.

    keys: [experts, width]; balance: [experts]; load: [experts], incremented in place, None outside of
    training. `options` are those of `choose`, whose losses are returned last.
    """
    weights, indices, *losses = choose(query, keys, balance, active, **options)
    if load is not None:
        count_load(indices, load)
    return weights, indices, *losses


def choose(
    query: Tensor,
    keys: Tensor,
    balance: Tensor,
    active: int,
    scores: str = "sigmoid",
    renormalize: bool = True,
    z_loss: bool = False,
    balance_loss: bool = False,
) -> tuple[Tensor, ...]:
    """Choose like `route`, without counting the load.

    Scores are sigmoids, or a softmax over all experts; `renormalize` divides the scores of a token's experts
    by their sum. Further outputs are scalars: the z-loss (arXiv 2202.08906), and the balance loss, which is 1
    if loads and scores are even (arXiv 2101.03961).
    """
    logits, every = scored(query, keys, scores)
    indices = (logits.detach() + balance).topk(active, -1).indices
    weights = every.gather(-1, indices)
    if renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    losses = [z_of(logits)] if z_loss else []
    if balance_loss:
        shares = every if scores == "softmax" else every / every.sum(-1, keepdim=True)
        losses.append(balance_of(indices, shares))
    return weights, indices, *losses


def scored(query: Tensor, keys: Tensor, scores: str) -> tuple[Tensor, Tensor]:
    """Return the logits of all experts, and their scores: [batch, sequence, experts]."""
    # fp32 under any autocast dtype: a rounded score can swap experts
    with torch.autocast(query.device.type, enabled=False):
        logits = F.linear(wide(query), wide(keys)) * query.shape[-1] ** -0.5
    return logits, logits.softmax(-1) if scores == "softmax" else logits.sigmoid()


def z_of(logits: Tensor) -> Tensor:
    """Return the mean over tokens of logsumexp(logits)^2."""
    return logits.logsumexp(-1).square().mean()


def balance_of(indices: Tensor, shares: Tensor) -> Tensor:
    """Return experts * sum over experts of their share of all choices * their mean score.

    indices: [batch, sequence, active]; shares: scores [batch, sequence, experts] that sum to 1 per token.
    """
    chosen, experts = indices.flatten(), shares.shape[-1]
    load = shares.new_zeros(experts).index_add_(0, chosen, shares.new_ones(len(chosen)))
    return (shares.flatten(0, 1).mean(0) * (load * (experts / len(chosen)))).sum()


def count_load(indices: Tensor, load: Tensor) -> None:
    """Add the number of times that each expert was chosen to load [experts]."""
    load += choices(indices.flatten(), len(load))


def choices(chosen: Tensor, experts: int) -> Tensor:
    """Return the counts of experts among the indices chosen [n]: [experts], int64."""
    # bincount would synchronize with the GPU
    return chosen.new_zeros(experts).index_add_(0, chosen, chosen.new_ones(1).expand(len(chosen)))


@torch.no_grad()
def update_balance(balance: Tensor, load: Tensor, rate: float) -> None:
    """Raise the bias of experts below the mean load by `rate`, lower the others, and reset the load."""
    balance += rate * (load.mean() - load).sign()
    load.zero_()


def cast(*weights: Tensor) -> tuple[Tensor, ...]:
    """Cast the weights to the autocast dtype, since autocast does not apply to grouped products."""
    device = weights[0].device.type
    if not torch.is_autocast_enabled(device):
        return weights
    return tuple(weight.to(torch.get_autocast_dtype(device)) for weight in weights)


def cast_experts(gate_up: Tensor, down: Tensor, *routing: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast the weights of experts like `cast`; the weights of routing are returned unchanged."""
    return (*cast(gate_up, down), *routing)


def routed_experts(
    x: Tensor,
    query: Tensor,
    gate_up: Tensor,
    down: Tensor,
    keys: Tensor,
    balance: Tensor,
    load: Tensor | None,
    active: int,
) -> Tensor:
    """Route tokens by their query and run the chosen experts on x: `route` and `experts_grouped`."""
    weights, indices = route(query, keys, balance, load, active)
    return experts_grouped(x, weights, indices, gate_up, down)


def rotary_experts(
    x: Tensor,
    query: Tensor,
    angle: Tensor,
    gate_up: Tensor,
    down: Tensor,
    keys: Tensor,
    balance: Tensor,
    load: Tensor | None,
    active: int,
    index: int,
) -> Tensor:
    """Run `routed_experts` with a query that is first rotated by `index` times the angle [width / 2]."""
    turned = rotate_step(query, angle, index)
    return routed_experts(x, turned, gate_up, down, keys, balance, load, active)


class Parts(NamedTuple):
    """The functions that `experts_grouped` runs between products, by activation, and after (`summed`)."""

    activations: Mapping[str, Callable[[Tensor], Tensor]]
    summed: Callable[[Tensor, Tensor], Tensor]


def swiglu(both: Tensor) -> Tensor:
    """Return silu(gate) * up [rows, hidden]; both: joined gate and up [rows, 2 * hidden]."""
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def summed(each: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of each token's outputs [batch, sequence, active, width]."""
    y: Tensor = (each * weights.unsqueeze(-1)).sum(-2)
    return y.to(each.dtype)


PLAIN = Parts({"swiglu": swiglu, "relu": F.relu}, summed)


def experts_grouped(
    x: Tensor,
    weights: Tensor,
    indices: Tensor,
    gate_up: Tensor,
    down: Tensor,
    parts: Parts = PLAIN,
    activation: str = "swiglu",
) -> Tensor:
    """Sort tokens by expert, run all experts in two grouped products, return weighted sums of outputs.

    gate_up: [experts, width, 2 * hidden], or [experts, width, hidden] without a gate (`relu`);
    down: [experts, hidden, width].
    """
    # grouped_mm does not support float64, and its fake kernel for tracing only bfloat16
    traced = torch.compiler.is_compiling() and gate_up.dtype != torch.bfloat16
    if traced or gate_up.dtype == torch.float64:
        return experts_plain(x, weights, indices, gate_up, down, activation)
    active = indices.shape[-1]
    chosen = indices.flatten()
    order = chosen.argsort(stable=True)
    ends = choices(chosen, len(gate_up)).cumsum(0).to(torch.int32)
    rows = x.flatten(0, 1).index_select(0, order // active).to(gate_up.dtype)
    hidden = parts.activations[activation](F.grouped_mm(rows, gate_up, offs=ends))
    out = F.grouped_mm(hidden, down, offs=ends)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return parts.summed(out.index_select(0, place).view(*indices.shape, -1), weights)


def experts_plain(
    x: Tensor, weights: Tensor, indices: Tensor, gate_up: Tensor, down: Tensor, activation: str = "swiglu"
) -> Tensor:
    """Do the same, running one expert after the other on the tokens that chose it."""
    flat, y = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1))
    chosen, share = indices.flatten(0, 1), weights.flatten(0, 1)
    for expert in range(len(gate_up)):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        hidden = PLAIN.activations[activation](flat[token] @ gate_up[expert])
        out = hidden @ down[expert] * share[token, place, None]
        y = y.index_add(0, token, out.to(y.dtype))
    return y.view(x.shape)


def shared_unit(*halves: Tensor, activation: str) -> Tensor:
    """Return the activation of shared experts: silu(gate) * up, or relu(up)."""
    if activation == "relu":
        return F.relu(halves[0])
    gate, up = halves
    return F.silu(gate) * up

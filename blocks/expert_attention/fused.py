"""Routing and experts by Triton kernels: `routed_experts` as in `reference.py`, with the same gradients.

Logits are a product in fp32, which is torch's, and so are the grouped products of the experts; kernels do
what lies between them. Kept for the backward pass are the inputs as they came, gate and up, and per choice
its weight, its expert and two places. Sorted rows are copied again, and what the second product read is
computed again by the kernel that makes the gradients of gate and up.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.expert_attention import reference, route_kernel, rows_kernel
from blocks.expert_attention.route_kernel import Routed
from blocks.kernels.tensors import fits
from blocks.primitives.reference import wide


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
    """Choose experts for each token by its query, run them on x, sum what they return by weight.

    x and query: [batch, sequence, width]; gate_up: [experts, width, 2 * hidden]; down: [experts, hidden,
    width], in one dtype; keys: [experts, width]; balance: [experts]; load: [experts], counted up in place,
    None outside training. Off a GPU, where a model that was planned for one may be moved, the reference runs.
    """
    if not (fits(x) and fits(gate_up)):
        return reference.routed_experts(x, query, gate_up, down, keys, balance, load, active)
    weights, order, place, ends = _Route.apply(  # type: ignore[no-untyped-call]
        products(query, keys), balance, load, query.shape[-1] ** -0.5, active
    )
    y: Tensor = _Experts.apply(x.flatten(0, 1), weights, order, place, ends, gate_up, down)  # type: ignore[no-untyped-call]
    return y.view(x.shape)


def products(query: Tensor, keys: Tensor) -> Tensor:
    """Return the products of queries with keys [tokens, experts], in fp32 whatever the autocast dtype."""
    with torch.autocast(query.device.type, enabled=False):
        return F.linear(wide(query.flatten(0, 1)), wide(keys))


def forward(
    x: Tensor, weights: Tensor, order: Tensor, place: Tensor, ends: Tensor, gate_up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the experts return, summed by token [tokens, width], and gate and up of each row.

    x: [tokens, width]; weights: [tokens, active]; the others of routing as in `Routed`.
    """
    both = F.grouped_mm(rows_kernel.spread(x, place, gate_up.dtype), gate_up, offs=ends)
    out = F.grouped_mm(rows_kernel.swiglu(both, weights, order), down, offs=ends)
    return rows_kernel.total(out, place, out.dtype), both


def backward(
    gradient: Tensor,
    x: Tensor,
    weights: Tensor,
    both: Tensor,
    order: Tensor,
    place: Tensor,
    ends: Tensor,
    gate_up: Tensor,
    down: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, of the weights, of gate_up and of down from that of the sums."""
    outward = rows_kernel.spread(gradient, place, both.dtype)
    inward = F.grouped_mm(outward, down.transpose(-2, -1), offs=ends)
    to_both, to_weights, inner = rows_kernel.swiglu_backward(inward, both, weights, order)
    to_down = F.grouped_mm(inner.t(), outward, offs=ends)
    del inward, inner, outward
    to_rows = F.grouped_mm(to_both, gate_up.transpose(-2, -1), offs=ends)
    to_x = rows_kernel.total(to_rows, place, x.dtype)
    del to_rows
    to_gate_up = F.grouped_mm(rows_kernel.spread(x, place, both.dtype).t(), to_both, offs=ends)
    return to_x, to_weights, to_gate_up, to_down


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, products: Tensor, balance: Tensor, load: Tensor | None, scale: float, active: int
    ) -> tuple[Tensor, ...]:
        routed: Routed = route_kernel.route(products, balance, scale, active, load)
        ctx.scale, ctx.experts = scale, products.shape[1]
        ctx.save_for_backward(routed.weights, routed.indices, routed.totals)
        ctx.mark_non_differentiable(routed.order, routed.place, routed.ends)
        return routed.weights, routed.order, routed.place, routed.ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
        weights, indices, totals = ctx.saved_tensors
        made = route_kernel.route_backward(gradient, weights, indices, totals, ctx.scale, ctx.experts)
        return made, None, None, None, None


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, *others: Tensor) -> Tensor:
        y, both = forward(x, weights, *others)
        ctx.save_for_backward(x, weights, both, *others)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_weights, to_gate_up, to_down = backward(gradient, *ctx.saved_tensors)
        return to_x, to_weights, None, None, None, to_gate_up, to_down

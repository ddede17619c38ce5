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

from blocks.expert_attention import library, reference
from blocks.expert_attention.route_kernel import Routed
from blocks.kernels.tensors import fits
from blocks.kernels.turns import turn
from blocks.primitives.reference import wide
from blocks.primitives.rotary_kernel import rotate_back, rotate_forward


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
    return _routed(products(query, keys), x, gate_up, down, keys, balance, load, active)


def _routed(
    made: Tensor,
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    keys: Tensor,
    balance: Tensor,
    load: Tensor | None,
    active: int,
) -> Tensor:
    """Route by the products of queries with keys [tokens, experts], and run the experts."""
    routed = Routed(*library.expert_route(made, balance, keys.shape[-1] ** -0.5, active))
    if load is not None:
        load += routed.counts
    rows = (routed.order, routed.place, routed.ends)
    y: Tensor = library.experts(x.flatten(0, 1), routed.weights, *rows, gate_up, down)[0]
    return y.view(x.shape)


def products(query: Tensor, keys: Tensor) -> Tensor:
    """Return the products of queries with keys [tokens, experts], in fp32 whatever the autocast dtype."""
    with torch.autocast(query.device.type, enabled=False):
        return F.linear(wide(query.flatten(0, 1)), wide(keys))


def turned_experts(
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
    """Do the same with queries that are rotated by `index` times the angle [width / 2]: keys are, back."""
    weights = (gate_up, down, keys, balance, load)
    if not (fits(x) and fits(gate_up)):
        return reference.turned_experts(x, query, angle, *weights, active=active, index=index)
    made: Tensor = _Turned.apply(query.flatten(0, 1), keys, turn(angle, index))  # type: ignore[no-untyped-call]
    return _routed(made, x, *weights, active=active)


class _Turned(torch.autograd.Function):
    """Products of rotated queries with keys, from keys that are rotated back."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, by: Tensor) -> Tensor:
        ctx.turn, ctx.dtype = by, keys.dtype
        back = rotate_back(_heads(wide(keys)), by).view(keys.shape)
        ctx.save_for_backward(query, back)
        with torch.autocast(query.device.type, enabled=False):
            return F.linear(wide(query), back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, back = ctx.saved_tensors
        to_query = to_keys = None
        with torch.autocast(query.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_query = (gradient @ back).to(query.dtype)
            if ctx.needs_input_grad[1]:
                table = torch.view_as_complex(ctx.turn.view(1, 1, -1, 2))
                turned = rotate_forward(_heads(gradient.t() @ wide(query)), table, None)
                to_keys = turned.view(back.shape).to(ctx.dtype)
        return to_query, to_keys, None


def _heads(keys: Tensor) -> Tensor:
    """Return keys [experts, width] as kernels of rotations read them: each a token of one head."""
    return keys[None, :, None]

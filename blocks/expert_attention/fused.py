"""Routing and experts with Triton kernels: `reference.routed_experts` with the same gradients.

The fp32 product of the logits and the grouped products of the experts are torch's; kernels do the rest.
Saved for the backward pass are the inputs, gate and up, and per choice its weight, its expert and two places.
The backward pass copies sorted rows again, and the kernel for the gradients of gate and up recomputes the
input of the second product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.expert_attention import library, reference, route_kernel
from blocks.expert_attention.pending_rows import add_rows
from blocks.expert_attention.route_kernel import Routed
from blocks.expert_attention.weights_kernel import Rows
from blocks.kernels.rotations import step_rotation
from blocks.kernels.tensors import fits
from blocks.kernels.weight_sums import sum_of, summed
from blocks.primitives.reference import product_dtype, wide
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
    gathered: bool = False,
) -> Tensor:
    """Choose experts for each token by its query, run them on x, return the weighted sum of outputs.

    x, query: [batch, sequence, width]; gate_up: [experts, width, 2 * hidden]; down: [experts, hidden, width],
    of the same dtype; keys: [experts, width]; balance: [experts]; load: [experts], incremented in place, None
    outside of training. With `gathered`, the first product reads its rows from x. On a CPU, to which a model
    planned for a GPU may be moved, the reference runs.
    """
    if not (fits(x) and fits(gate_up)):
        return reference.routed_experts(x, query, gate_up, down, keys, balance, load, active)
    made, x = _queried(x, query, keys, None)
    return _routed(made, x, gate_up, down, keys, balance, load, active, gathered)


def _routed(
    made: Tensor,
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    keys: Tensor,
    balance: Tensor,
    load: Tensor | None,
    active: int,
    gathered: bool,
) -> Tensor:
    """Route by the products of queries and keys [tokens, experts], and run the experts."""
    routed = _route(made, balance, load, keys.shape[-1] ** -0.5, active)
    sums = sum_of(gate_up), sum_of(down)
    rows = (routed.order, routed.place, routed.ends)
    given = x.flatten(0, 1), routed.weights, *rows, gate_up, down, gathered
    y: Tensor = library.experts(*given)[0] if None in sums else _Experts.apply(*given, *sums)  # type: ignore[no-untyped-call]
    return y.view(x.shape)


def _route(made: Tensor, balance: Tensor, load: Tensor | None, scale: float, active: int) -> Routed:
    """Route, and count the load."""
    if not torch.compiler.is_compiling():
        return Routed(*_Route.apply(made, balance, load, scale, active))  # type: ignore[no-untyped-call]
    # an operator that mutates its inputs cannot have a gradient
    routed = Routed(*library.expert_route(made, balance, scale, active))
    if load is not None:
        load += routed.counts
    return routed


class _Route(torch.autograd.Function):
    """`library.expert_route` that also counts the load."""

    @staticmethod
    def forward(
        ctx: Any, made: Tensor, balance: Tensor, load: Tensor | None, scale: float, active: int
    ) -> tuple[Tensor, ...]:
        routed = route_kernel.route(made, balance, scale, active, load)
        ctx.save_for_backward(*routed[:3])
        ctx.scale, ctx.experts = scale, made.shape[1]
        ctx.mark_non_differentiable(*routed[1:])
        ctx.set_materialize_grads(False)
        return tuple(routed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 5
        weights, indices, totals = ctx.saved_tensors
        made = route_kernel.route_backward(gradient, weights, indices, totals, ctx.scale, ctx.experts)
        return made, None, None, None, None


class _Experts(torch.autograd.Function):
    """`library.experts` that accumulates the gradients of gate_up and down over steps."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, ctx.to_gate_up, ctx.to_down = given
        y: Tensor
        y, both = library.experts(*tensors)
        ctx.save_for_backward(*tensors[:7], both)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, order, place, ends, gate_up, down, both = ctx.saved_tensors
        to_x, to_weights, to_both, inner = library.experts_backward_rows(
            gradient, weights, order, place, ends, gate_up, down, both, x.dtype
        )
        active = weights.shape[1]
        if ctx.needs_input_grad[5]:
            add_rows(ctx.to_gate_up, Rows(x, to_both, order, ends), active, left=True)
        if ctx.needs_input_grad[6]:
            add_rows(ctx.to_down, Rows(inner, gradient, order, ends), active, left=False)
        return to_x, to_weights, *(None,) * 8


def products(query: Tensor, keys: Tensor) -> Tensor:
    """Return the products of queries and keys [tokens, experts] in fp32, also under autocast."""
    with torch.autocast(query.device.type, enabled=False):
        return F.linear(wide(query.flatten(0, 1)), wide(keys))


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
    gathered: bool = False,
) -> Tensor:
    """Do the same with queries rotated by `index` times the angle [width / 2]; rotates keys back instead."""
    weights = (gate_up, down, keys, balance, load)
    if not (fits(x) and fits(gate_up)):
        return reference.rotary_experts(x, query, angle, *weights, active=active, index=index)
    made, x = _queried(x, query, keys, step_rotation(angle, index))
    return _routed(made, x, *weights, active=active, gathered=gathered)


def sum_experts(gate_up: Tensor, down: Tensor, *routing: Tensor | None) -> tuple[Tensor | None, ...]:
    """Cast the weights of experts like `reference.cast_experts`, with `WeightSum`s for their gradients."""
    dtype = product_dtype(gate_up)
    return (summed([gate_up], dtype), summed([down], dtype), *routing)


def _queried(x: Tensor, query: Tensor, keys: Tensor, by: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the products of queries and keys [tokens, experts], and x for the experts.

    If x is also the query, the product for the query's gradient adds the gradient of x.
    """
    flat = query.flatten(0, 1)
    # a compiler traces neither storage addresses nor these autograd functions
    eager = not torch.compiler.is_compiling()
    if eager and query.dtype == torch.float32 and _are_one(x, query):
        both: tuple[Tensor, Tensor] = _Products.apply(flat, keys, by, True)  # type: ignore[no-untyped-call]
        return both[0], both[1].view(x.shape)
    if by is None:
        return products(query, keys), x
    return _Products.apply(flat, keys, by, False)[0], x  # type: ignore[no-untyped-call]


def _are_one(x: Tensor, query: Tensor) -> bool:
    """Return whether two tensors are the same; under recomputation they may be two on one storage."""
    if x is query:
        return True
    alike = (x.shape, x.stride(), x.storage_offset(), x.requires_grad) == (
        query.shape,
        query.stride(),
        query.storage_offset(),
        query.requires_grad,
    )
    there = x.untyped_storage()._cdata == query.untyped_storage()._cdata
    return alike and there and x.is_leaf and query.is_leaf


class _Products(torch.autograd.Function):
    """Products of queries and keys; with a turn, keys are rotated back instead of the queries.

    With `passed`, the queries are returned too.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, keys: Tensor, by: Tensor | None, passed: bool
    ) -> tuple[Tensor, Tensor | None]:
        ctx.turn, ctx.dtype = by, keys.dtype
        back = wide(keys) if by is None else rotate_back(_heads(wide(keys)), by).view(keys.shape)
        ctx.save_for_backward(query, back)
        ctx.set_materialize_grads(False)
        with torch.autocast(query.device.type, enabled=False):
            return F.linear(wide(query), back), query.view_as(query) if passed else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, to_query: Tensor | None) -> tuple[Tensor | None, ...]:
        query, back = ctx.saved_tensors
        if gradient is None:
            return to_query, None, None, None
        to_keys = None
        with torch.autocast(query.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                made = gradient @ back if to_query is None else torch.addmm(to_query, gradient, back)
                to_query = made.to(query.dtype)
            if ctx.needs_input_grad[1]:
                to_keys = gradient.t() @ wide(query)
                if ctx.turn is not None:
                    table = torch.view_as_complex(ctx.turn.view(1, 1, -1, 2))
                    to_keys = rotate_forward(_heads(to_keys), table, None).view(back.shape)
                to_keys = to_keys.to(ctx.dtype)
        return to_query, to_keys, None, None


def _heads(keys: Tensor) -> Tensor:
    """Return keys [experts, width] as tokens with one head, for the rotary kernels."""
    return keys[None, :, None]

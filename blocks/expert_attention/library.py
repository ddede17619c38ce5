"""The Triton kernels of routing and experts as torch operators, with fake kernels, gradients and FLOPs.

FLOPs are those of the experts' products, and twice as many backward; recomputation is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.expert_attention import gather_kernel, route_kernel, rows_kernel, weights_kernel

_NAME = "attention_composer"
_Routed = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
_Four = tuple[Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op(f"{_NAME}::expert_route", mutates_args=())
def expert_route(products: Tensor, balance: Tensor, scale: float, active: int) -> _Routed:
    """Choose `active` experts per token by products [tokens, experts] * scale + balance [experts].

    Returns the fields of `Routed` in order. Only the weights have a gradient, and only for the products.
    """
    return tuple(route_kernel.route(products, balance, scale, active))  # type: ignore[return-value]


@torch.library.custom_op(f"{_NAME}::expert_route_backward", mutates_args=())
def expert_route_backward(
    gradient: Tensor, weights: Tensor, indices: Tensor, totals: Tensor, scale: float, experts: int
) -> Tensor:
    """Return the gradient of the products [tokens, experts] from the gradient of the weights."""
    return route_kernel.route_backward(gradient, weights, indices, totals, scale, experts)


@torch.library.custom_op(f"{_NAME}::experts", mutates_args=())
def experts(
    x: Tensor,
    weights: Tensor,
    order: Tensor,
    place: Tensor,
    ends: Tensor,
    gate_up: Tensor,
    down: Tensor,
    gathered: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the chosen experts on x [tokens, width] and return the weighted sum of outputs.

    Also returns gate and up of each row [tokens * active, 2 * hidden], without a gradient. Both are in the
    dtype of gate_up [experts, width, 2 * hidden] and down [experts, hidden, width]. With `gathered`, the
    gathering kernel runs the first product, else torch.
    """
    if gathered:
        both, inner = gather_kernel.gate_up(x, weights, order, ends, gate_up)
    else:
        both = F.grouped_mm(rows_kernel.spread(x, place, gate_up.dtype), gate_up, offs=ends)
        inner = rows_kernel.swiglu(both, weights, order)
    out = F.grouped_mm(inner, down, offs=ends)
    return rows_kernel.total(out, place, out.dtype), both


@torch.library.custom_op(f"{_NAME}::experts_backward", mutates_args=())
def experts_backward(
    gradient: Tensor,
    x: Tensor,
    weights: Tensor,
    order: Tensor,
    place: Tensor,
    ends: Tensor,
    gate_up: Tensor,
    down: Tensor,
    both: Tensor,
) -> _Four:
    """Return the gradients of x, the weights, gate_up and down."""
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


@torch.library.custom_op(f"{_NAME}::expert_weights", mutates_args=("total",))
def _add_weights(
    total: Tensor,
    left: list[Tensor],
    right: list[Tensor],
    order: list[Tensor],
    ends: list[Tensor],
    active: int,
    gather_left: bool,
    add: bool,
) -> None:
    steps = [weights_kernel.Rows(*each) for each in zip(left, right, order, ends, strict=True)]
    weights_kernel.add_products(total, steps, active, gather_left, add)


def expert_weights(
    total: Tensor | None, steps: Sequence[weights_kernel.Rows], active: int, gather_left: bool
) -> Tensor:
    """Return the sum of `weights_kernel.add_products` as a new tensor, or add it to `total` in place."""
    made = total
    if made is None:
        first = steps[0]
        shape = (len(first.ends), first.left.shape[1], first.right.shape[1])
        made = torch.empty(shape, dtype=torch.float32, device=first.left.device)
    factors = ([*each] for each in zip(*steps, strict=True))
    _add_weights(made, *factors, active, gather_left, total is not None)
    return made


@expert_route.register_fake
def _(products: Tensor, balance: Tensor, scale: float, active: int) -> _Routed:
    tokens, count = products.shape

    def made(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return products.new_empty(shape, dtype=dtype)

    weights, totals = made(tokens, active, dtype=torch.float32), made(tokens, dtype=torch.float32)
    chosen, place = made(tokens, active), made(tokens, active)
    return weights, chosen, totals, made(tokens * active), place, made(count), made(count)


@expert_route_backward.register_fake
def _(
    gradient: Tensor, weights: Tensor, indices: Tensor, totals: Tensor, scale: float, experts: int
) -> Tensor:
    return weights.new_empty((weights.shape[0], experts))


@experts.register_fake
def _(x: Tensor, weights: Tensor, order: Tensor, *others: Any, **_: Any) -> tuple[Tensor, Tensor]:
    gate_up = others[2]
    return gate_up.new_empty(x.shape), gate_up.new_empty((order.shape[0], gate_up.shape[2]))


@experts_backward.register_fake
def _(gradient: Tensor, x: Tensor, weights: Tensor, *others: Tensor) -> _Four:
    gate_up, down = others[3:5]
    return (
        x.new_empty(x.shape),
        weights.new_empty(weights.shape),
        gate_up.new_empty(gate_up.shape),
        down.new_empty(down.shape),
    )


def _keep_route(ctx: Any, inputs: tuple[Any, ...], output: _Routed) -> None:
    products, _, ctx.scale, _ = inputs
    ctx.experts = products.shape[1]
    ctx.save_for_backward(*output[:3])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate_route(ctx: Any, gradient: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    return expert_route_backward(gradient, *ctx.saved_tensors, ctx.scale, ctx.experts), None, None, None


def _keep_experts(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:7], output[1])
    ctx.mark_non_differentiable(output[1])
    # gate and up have no gradient; do not materialize zeros
    ctx.set_materialize_grads(False)


def _differentiate_experts(ctx: Any, gradient: Tensor, of_both: Tensor) -> tuple[Tensor | None, ...]:
    to_x, to_weights, to_gate_up, to_down = experts_backward(gradient, *ctx.saved_tensors)
    return to_x, to_weights, None, None, None, to_gate_up, to_down, None


expert_route.register_autograd(_differentiate_route, setup_context=_keep_route)
experts.register_autograd(_differentiate_experts, setup_context=_keep_experts)


def _flops(weights: Sequence[int], down: Sequence[int]) -> int:
    """Return the FLOPs of three products of width x hidden per choice."""
    return 6 * prod(weights) * prod(down[1:])


@register_flop_formula(torch.ops.attention_composer.experts)
def _(
    x: Any, weights: Sequence[int], order: Any, place: Any, ends: Any, gate_up: Any, *others: Any, **_: Any
) -> int:
    return _flops(weights, others[0])


@register_flop_formula(torch.ops.attention_composer.experts_backward)
def _(gradient: Any, x: Any, weights: Sequence[int], *others: Any, **_: Any) -> int:
    return 2 * _flops(weights, others[4])


@register_flop_formula(torch.ops.attention_composer.expert_weights)
def _(total: Sequence[int], left: Any, right: Any, order: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
    return 2 * sum(map(prod, order)) * prod(total[1:])


def experts_backward_rows(
    gradient: Tensor,
    weights: Tensor,
    order: Tensor,
    place: Tensor,
    ends: Tensor,
    gate_up: Tensor,
    down: Tensor,
    both: Tensor,
    dtype: torch.dtype,
) -> _Four:
    """Return the gradients of x, in `dtype`, and of the weights, and factors of the experts' gradients.

    These are the gradient of gate and up [rows, 2 * hidden], whose other factor is x, and the input of the
    second product [rows, hidden], whose other factor is the gradient of the sum.
    """
    inward = F.grouped_mm(rows_kernel.spread(gradient, place, both.dtype), down.transpose(-2, -1), offs=ends)
    to_both, to_weights, inner = rows_kernel.swiglu_backward(inward, both, weights, order)
    to_x = rows_kernel.total(F.grouped_mm(to_both, gate_up.transpose(-2, -1), offs=ends), place, dtype)
    return to_x, to_weights, to_both, inner

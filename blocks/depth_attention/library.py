"""Depth attention as operators of torch: functions of tensors, which graphs, tracers and counters can hold.

`depth_attend` over keys and values that somebody holds is differentiable; `depth_pull` is the gradient of one
slot from all that read it. Where slots are written in place, `fused.py` calls the same kernels directly.
Importing this module registers the operators with their fake kernels and their FLOPs: two products forward,
four backward, with what is computed again left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.depth_attention import kernel
from blocks.depth_attention.kernel import Push

_NAME = "attention_composer"


@torch.library.custom_op(f"{_NAME}::depth_attend", mutates_args=())
def depth_attend(
    query: Tensor, keys: Tensor, values: Tensor, reads: int, turn: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attend each token's query [batch, sequence, heads, head_dim] over its first `reads` slots.

    With a `turn` [head_dim], cosine and sine of each pair in fp32, queries are rotated by it before. Keys and
    values are [slots, batch, sequence, kv_heads, head_dim]. Returns the output, exactly 0 where nothing is
    read, and the log-sum-exp of scores [batch, sequence, heads] in fp32, which has no gradient.
    """
    if not reads:
        return torch.zeros(query.shape, dtype=query.dtype, device=query.device), _numbers(query, -torch.inf)
    return kernel.attend_forward(query, keys.contiguous(), values.contiguous(), reads, turn)


@torch.library.custom_op(f"{_NAME}::depth_attend_backward", mutates_args=())
def depth_attend_backward(
    gradient: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    log_sum: Tensor,
    reads: int,
    turn: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, keys and values; those of slots that were not read are 0."""
    sums = [torch.zeros(each.shape, dtype=torch.float32, device=each.device) for each in (keys, values)]
    if not reads:
        to_query = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    else:
        slots = (keys.contiguous(), values.contiguous())
        to_query, _ = kernel.attend_backward(
            query, *slots, out, log_sum, gradient, reads, push=Push(sums[0], sums[1], 0), turn=turn
        )
    # new tensors even where nothing is cast, as the schema says
    return to_query, sums[0].to(keys.dtype), sums[1].to(values.dtype)


@torch.library.custom_op(f"{_NAME}::depth_pull", mutates_args=())
def depth_pull(
    key: Tensor,
    value: Tensor,
    queries: Sequence[Tensor],
    gradients: Sequence[Tensor],
    log_sums: Sequence[Tensor],
    deltas: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of one slot's key and value [batch, sequence, kv_heads, head_dim].

    Each read that saw the slot gives its query, the gradient of its output, the log-sum-exp of its scores and
    delta = sum(gradient * output) over head_dim. All share the dtype of the key but the last two, in fp32.
    """
    reads = [
        [kernel.readable(each) for each in read]
        for read in zip(queries, gradients, log_sums, deltas, strict=True)
    ]
    apart = queries[0].shape[2] * queries[0].shape[3]
    rows = [[*(each.data_ptr() for each in read), 1, apart, 0, 0] for read in reads]
    table = torch.tensor(rows, dtype=torch.int64, device=key.device)
    given = (key.contiguous(), value.contiguous(), table)
    return kernel.pull(*given, len(rows), 0, queries[0].shape[2], key.dtype)


@depth_attend.register_fake
def _(
    query: Tensor, keys: Tensor, values: Tensor, reads: int, turn: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(query.shape[:3], dtype=torch.float32)


@depth_attend_backward.register_fake
def _(
    gradient: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    log_sum: Tensor,
    reads: int,
    turn: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), keys.new_empty(keys.shape), values.new_empty(values.shape)


@depth_pull.register_fake
def _(key: Tensor, value: Tensor, *reads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, keys, values, ctx.reads, ctx.turn = inputs
    ctx.save_for_backward(query, keys, values, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, gradient: Tensor, of_log_sum: Tensor) -> tuple[Tensor | None, ...]:
    return (*depth_attend_backward(gradient, *ctx.saved_tensors, ctx.reads, ctx.turn), None, None)


depth_attend.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.attention_composer.depth_attend)
def _(query: Sequence[int], keys: Any, values: Any, reads: int, *turn: Any, **_: Any) -> int:
    return 4 * prod(query) * reads


@register_flop_formula(torch.ops.attention_composer.depth_attend_backward)
def _(
    gradient: Sequence[int],
    query: Any,
    keys: Any,
    values: Any,
    out: Any,
    log_sum: Any,
    reads: int,
    *turn: Any,
    **_: Any,
) -> int:
    return 8 * prod(gradient) * reads


@register_flop_formula(torch.ops.attention_composer.depth_pull)
def _(key: Any, value: Any, queries: Sequence[Sequence[int]], *others: Any, **_: Any) -> int:
    return 4 * sum(map(prod, queries))


def _numbers(query: Tensor, value: float) -> Tensor:
    return torch.full(query.shape[:3], value, dtype=torch.float32, device=query.device)

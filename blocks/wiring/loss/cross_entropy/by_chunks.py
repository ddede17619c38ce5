"""The head and the cross-entropy by chunks of tokens, without materializing all logits.

If gradients are required, the forward pass computes them for each chunk (arXiv 2410.10989), so that no logits
are saved or recomputed. The backward pass only scales the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import product_dtype, project
from blocks.wiring.loss.cross_entropy.chunks import chunk_tokens
from blocks.wiring.loss.cross_entropy.reference import IGNORED

Sums = Callable[..., tuple[Tensor, Tensor | None, Tensor | None]]
"""The type of `sums`."""

Linear = Callable[[Tensor, Tensor], Tensor]
"""The type of a function that does the same as `F.linear`."""


def head_loss(
    x: Tensor, targets: Tensor | None, weight: Tensor, way: Sums | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Return the mean fp32 loss over the targets [batch, sequence] that are not -100; 0 if all are.

    x: [batch, sequence, width]; weight: [vocab, width]. The second result is None. Without targets, the first
    is None and the second the logits [batch, sequence, vocab]. Products are in the autocast dtype; the
    softmax and the accumulated gradient of the weight are at least in fp32.
    """
    if targets is None:
        return None, project(x, weight, weight.shape[:1])
    rows, flat, way = x.flatten(0, 1), targets.flatten(), way or sums
    wanted = torch.is_grad_enabled() and (x.requires_grad, weight.requires_grad)
    if wanted and any(wanted):
        loss: Tensor = _HeadLoss.apply(rows, weight, flat, product_dtype(x), way)  # type: ignore[no-untyped-call]
        return loss, None
    total, _, _ = way(rows, weight, flat, product_dtype(x), (False, False))
    return total / counted(flat), None


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, way: Sums
    ) -> Tensor:
        total, to_rows, to_weight = way(rows, weight, targets, dtype, ctx.needs_input_grad[:2])
        number = counted(targets)
        ctx.dtypes = rows.dtype, weight.dtype
        ctx.save_for_backward(to_rows, to_weight, number)
        return total / number

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_gradients()
        to_rows, to_weight, number = ctx.saved_tensors
        # gradients so far are those of the sum: in fp16 gradients of the mean could underflow
        scale = gradient / number
        return (
            scaled(to_rows, scale, ctx.dtypes[0]),
            scaled(to_weight, scale, ctx.dtypes[1]),
            None,
            None,
            None,
        )


def refuse_gradients() -> None:
    """Raise RuntimeError if second derivatives are requested (`create_graph=True`)."""
    if torch.is_grad_enabled():
        # the incoming gradient may not require grad, so that autograd would not raise an error itself
        raise RuntimeError("gradients of gradients (create_graph=True): the loss by chunks has none")


def sums(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    wanted: tuple[bool, ...],
    share: float = 1.0,
    to_weight: Tensor | None = None,
    linear: Linear = F.linear,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the sum of the losses of rows [tokens, width], and the gradients that are `wanted`.

    Gradients are those of `share` times the sum. The gradient of the weight is added to `to_weight` if given.
    """
    wide = torch.promote_types(dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=rows.device)
    to_rows = torch.empty_like(rows, dtype=dtype) if wanted[0] else None
    if to_weight is None and wanted[1]:
        to_weight = torch.zeros_like(weight, dtype=wide)
    size = chunk_tokens(weight.shape[0])
    # autocast would cache a cast made here without its autograd history
    with torch.autocast(rows.device.type, enabled=False):
        cast = weight.to(dtype)
        for start in range(0, len(rows), size):
            part, target = rows[start : start + size].to(dtype), targets[start : start + size]
            made = None if to_rows is None else to_rows[start : start + size]
            total += _chunk(part, cast, target, made, to_weight, share, linear)
    return total, to_rows, to_weight


def _chunk(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    to_rows: Tensor | None,
    to_weight: Tensor | None,
    share: float,
    linear: Linear,
) -> Tensor:
    """Return the sum of the losses of a chunk; write the rows' gradient, add to the weight's gradient."""
    ignored = (targets == IGNORED).unsqueeze(1)
    picks = targets.unsqueeze(1).masked_fill(ignored, 0)
    logits = linear(rows, weight)
    logs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    picked = logs.gather(1, picks)
    total = -picked.masked_fill(ignored, 0).sum()
    if to_rows is None and to_weight is None:
        return total
    # softmax minus the one-hot target, in place of the logits
    by_logits = torch.exp(logs, out=logits)
    del logs
    by_logits.scatter_(1, picks, picked.expm1().to(by_logits.dtype))
    if share != 1:
        by_logits *= share
    if to_rows is not None:
        to_rows.copy_(linear(by_logits, weight.T)).masked_fill_(ignored, 0)
    if to_weight is not None:
        _add_product(to_weight, by_logits.T, rows.masked_fill(ignored, 0))
    return total


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        torch.addmm(total, a, b, out=total)
    else:
        total += a @ b


def scaled(gradient: Tensor | None, scale: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return a gradient times a number as a new tensor, since backward may run again."""
    if gradient is None:
        return None
    return gradient * scale if gradient.dtype == dtype else gradient.to(dtype).mul_(scale)


def counted(targets: Tensor) -> Tensor:
    """Return the number of scored targets, at least 1."""
    return (targets != IGNORED).sum().clamp(min=1)

"""Single-neuron experts; weights are gathered for some tokens at a time, forward and backward.

x: [B, S, width]; indices, weights, sums: [B, S, heads, active]; up, down: [experts, width].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.primitives.reference import wide
from blocks.product_key_experts.operations import TOKENS


def read(x: Tensor, indices: Tensor, up: Tensor) -> Tensor:
    """Return up[expert] . x for each token's experts [B, S, heads, active], at least in fp32."""
    made: Tensor = _Read.apply(x, indices, up)  # type: ignore[no-untyped-call]
    return made


def write(sums: Tensor, weights: Tensor, indices: Tensor, down: Tensor) -> Tensor:
    """Return the sum over experts of weight * gelu(sum) * down[expert], in the dtype of down."""
    made: Tensor = _Write.apply(sums, weights, indices, down)  # type: ignore[no-untyped-call]
    return made


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, indices: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(x, indices, up)
        dtype = torch.promote_types(up.dtype, torch.float32)
        sums = torch.empty(indices.shape, dtype=dtype, device=x.device)
        flat, chosen, made = x.flatten(0, 1), _by_token(indices), _by_token(sums)
        with torch.autocast(x.device.type, enabled=False):
            for part in _parts(len(flat)):
                rows = _rows(up, chosen[part])
                made[part] = torch.bmm(flat[part].to(dtype).unsqueeze(1), rows.mT).squeeze(1)
                del rows
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, indices, up = ctx.saved_tensors
        of_x, of_up = torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.zeros_like(up)
        flat, made = x.flatten(0, 1), of_x.flatten(0, 1)
        chosen, given = _by_token(indices), _by_token(gradient)
        with torch.autocast(x.device.type, enabled=False):
            for part in _parts(len(flat)):
                each = given[part].unsqueeze(1)
                rows = _rows(up, chosen[part])
                made[part] = torch.bmm(each, rows).squeeze(1)
                del rows
                _add(of_up, chosen[part], torch.bmm(each.mT, flat[part].to(each.dtype).unsqueeze(1)))
        return of_x, None, of_up


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, weights: Tensor, indices: Tensor, down: Tensor) -> Tensor:
        ctx.save_for_backward(sums, weights, indices, down)
        y = torch.empty(*sums.shape[:2], down.shape[1], dtype=down.dtype, device=down.device)
        made, chosen = y.flatten(0, 1), _by_token(indices)
        before, share = _by_token(sums), _by_token(weights)
        with torch.autocast(down.device.type, enabled=False):
            for part in _parts(len(made)):
                hidden = F.gelu(before[part]).mul_(share[part]).unsqueeze(1)
                rows = _rows(down, chosen[part])
                made[part] = torch.bmm(hidden, rows).squeeze(1)
                del rows
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sums, weights, indices, down = ctx.saved_tensors
        of_sums, of_weights = torch.empty_like(sums), torch.empty_like(weights)
        of_down, given, chosen = torch.zeros_like(down), gradient.flatten(0, 1), _by_token(indices)
        before, share = _by_token(sums), _by_token(weights)
        of_before, of_share = _by_token(of_sums), _by_token(of_weights)
        with torch.autocast(down.device.type, enabled=False):
            for part in _parts(len(given)):
                back = given[part].to(before.dtype).unsqueeze(1)
                rows = _rows(down, chosen[part])
                of_hidden = torch.bmm(back, rows.mT).squeeze(1)
                del rows
                hidden = F.gelu(before[part])
                of_share[part] = of_hidden * hidden
                of_before[part] = torch.ops.aten.gelu_backward(of_hidden.mul_(share[part]), before[part])
                hidden.mul_(share[part])
                _add(of_down, chosen[part], torch.bmm(hidden.unsqueeze(2), back))
        return of_sums, of_weights, None, of_down


def _rows(weight: Tensor, chosen: Tensor) -> Tensor:
    """Return the rows of the chosen experts [tokens, used, width], at least in fp32."""
    # several times as fast on a CPU as indexing
    return wide(weight.index_select(0, chosen.flatten())).view(*chosen.shape, -1)


def _add(gradient: Tensor, chosen: Tensor, rows: Tensor) -> None:
    """Add rows [tokens, used, width] to the rows of the chosen experts [tokens, used]."""
    gradient.index_add_(0, chosen.flatten(), rows.flatten(0, 1).to(gradient.dtype))


def _parts(tokens: int) -> Iterator[slice]:
    return (slice(start, start + TOKENS) for start in range(0, tokens, TOKENS))


def _by_token(x: Tensor) -> Tensor:
    """Return x [B, S, heads, active] as [B * S, heads * active]."""
    return x.flatten(2).flatten(0, 1)

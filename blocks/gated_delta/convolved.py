"""The short convolution with a backward pass that recomputes the sums, so that only the input is saved."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.primitives.reference import wide


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Return silu(sum over j of weight[:, -1 - j] * x[t - j]) in the dtype of x.

    x: [B, S, ...]; weight: [channels, size]. Sums are computed at least in fp32.
    """
    made: Tensor = _Convolve.apply(x, weight)  # type: ignore[no-untyped-call]
    return made


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        sum_of_taps = sums(x.flatten(2), wide(weight).T.contiguous())
        return F.silu(sum_of_taps, inplace=True).to(x.dtype).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        flat, length, columns = x.flatten(2), x.shape[1], wide(weight).T.contiguous()
        slope = sums(flat, columns)
        sigmoid = slope.sigmoid()
        slope.addcmul_(slope, sigmoid, value=-1).add_(1).mul_(sigmoid).mul_(gradient.flatten(2))
        del sigmoid
        places = range(min(len(columns), length))
        of_weight = torch.zeros_like(weight)
        for back in places:
            of_weight[:, -1 - back] = (slope[:, back:] * flat[:, : length - back]).sum((0, 1))
        of_x = slope * columns[-1]
        for back in places[1:]:
            of_x[:, : length - back].addcmul_(slope[:, back:], columns[-1 - back])
        return of_x.to(x.dtype).view(x.shape), of_weight


def sums(x: Tensor, columns: Tensor) -> Tensor:
    """Return the sums before silu, at least in fp32; x: [B, S, channels], columns: [size, channels]."""
    length = x.shape[1]
    sum_of_taps = x * columns[-1]
    for back in range(1, min(len(columns), length)):
        sum_of_taps[:, back:].addcmul_(x[:, : length - back], columns[-1 - back])
    return sum_of_taps

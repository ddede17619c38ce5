"""Plain PyTorch for modulation by the step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def step_position(
    t_in: Tensor,
    t_in_bias: Tensor,
    t_out: Tensor,
    t_out_bias: Tensor,
    dt_in: Tensor,
    dt_in_bias: Tensor,
    dt_out: Tensor,
    dt_out_bias: Tensor,
    steps: int,
    index: int,
) -> Tensor:
    """Return the code [width] of a step; *_in: [width, size], *_out: [width, width], biases: [width]."""
    with torch.autocast(t_in.device.type, enabled=False):
        of_t = _perceptron(_sines(index / steps, t_in), t_in, t_in_bias, t_out, t_out_bias)
        return of_t + _perceptron(_sines(1 / steps, dt_in), dt_in, dt_in_bias, dt_out, dt_out_bias)


def _perceptron(x: Tensor, first: Tensor, bias: Tensor, last: Tensor, last_bias: Tensor) -> Tensor:
    return last @ F.silu(first @ x + bias) + last_bias


def _sines(value: float, weight: Tensor) -> Tensor:
    """Return cosines, then sines, of a number at frequencies from 1 to 1/10000, padded with 0 if odd.

    `weight` [width, size] determines the size.
    """
    size = weight.shape[1]
    exact = torch.promote_types(weight.dtype, torch.float32)
    pair = torch.arange(size // 2, dtype=exact, device=weight.device)
    angle = value * 10000.0 ** (-pair / max(size // 2, 1))
    return F.pad(torch.cat((angle.cos(), angle.sin())), (0, size % 2)).to(weight.dtype)


def modulate(x: Tensor, code: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x [batch, sequence, width] times (weight silu(code) + bias), in the dtype of x."""
    with torch.autocast(x.device.type, enabled=False):
        scale = weight @ F.silu(code) + bias
    return x * scale.to(x.dtype)

"""Plain PyTorch for operations that many blocks share.

Tensors are [batch, sequence, ...]; the last dimension of `x` is the width, or it is [..., heads, head_dim].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.kernels.weight_sums import stacked

EPS = 1e-6
LAYER_NORM_EPS = 1e-5


def wide(x: Tensor) -> Tensor:
    """Return x in fp32, or unchanged if its dtype is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Return x / rms(x) * gain over the last dimension."""
    return F.rms_norm(x, gain.shape, gain, EPS)


def rms_norm_plain(x: Tensor, gain: Tensor) -> Tensor:
    """Return the same, without torch's fused function."""
    full = wide(x)
    normed = full * torch.rsqrt(full.square().mean(-1, keepdim=True) + EPS)
    return (normed * gain).to(x.dtype)


def layer_norm(x: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return (x - mean(x)) / std(x) * gain, plus `shift` if given, over the last dimension."""
    return F.layer_norm(x, gain.shape, gain, shift, LAYER_NORM_EPS).to(x.dtype)


def add_norm(
    a: Tensor, b: Tensor, gain: Tensor, narrow: bool, shared: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Return (a + b) / rms(a + b) * gain, and a + b if `shared`; a, b: [batch, sequence, width].

    With `narrow` the norm is in the autocast dtype.
    """
    total = a + b
    normed = precomputed_norm(total, gain, narrow)
    return (normed, total) if shared else normed


def add_before_norm(a: Tensor, b: Tensor, gain: Tensor, narrow: bool, index: int, last: int) -> Tensor:
    """Return a + b; `precomputed_norm` computes the norm."""
    return a + b


def precomputed_norm(x: Tensor, gain: Tensor, narrow: bool) -> Tensor:
    """Return x / rms(x) * gain, with `narrow` in the autocast dtype."""
    normed = rms_norm(x, gain)
    return normed.to(product_dtype(normed)) if narrow else normed


def gelu(x: Tensor) -> Tensor:
    """Return x times the standard normal CDF of x."""
    return F.gelu(x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up."""
    return F.silu(gate) * up


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of x in a product: the autocast dtype, or its own if autocast is disabled."""
    kind = x.device.type
    casts = x.dtype != torch.float64 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if casts else x.dtype


def project(x: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x @ weight.T split into `shape`; x may be split into heads. weight: [prod(shape), fan_in]."""
    y: Tensor = F.linear(x.flatten(2), weight)
    return y.view(*y.shape[:2], *shape)


def project_biased(x: Tensor, weight: Tensor, bias: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the same plus a bias [prod(shape)]."""
    y: Tensor = F.linear(x.flatten(2), weight, bias)
    return y.view(*y.shape[:2], *shape)


def alignment(weight: Tensor) -> int:
    """Return the multiple of columns at which each output of a joined product starts, on this device.

    Attention on a GPU copies 16 bytes at a time, and Triton specializes on strides that are multiples of 16.
    """
    return 16 if weight.is_cuda else 1


def join(*weights: Tensor) -> tuple[Tensor]:
    """Concatenate the weights [n_i, fan_in] to [sum n_i, fan_in], cast to the autocast dtype.

    Each is padded with zero rows to a multiple of `alignment`. Biases [n_i] are treated alike.
    """
    return (stacked(weights, product_dtype(weights[0]), alignment(weights[0])),)


def join_biased(*weights: Tensor) -> tuple[Tensor, Tensor]:
    """Apply `join` to the weights, the first half, and to their biases, the second half."""
    count = len(weights) // 2
    return (*join(*weights[:count]), *join(*weights[count:]))


def project_joined(x: Tensor, weight: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Return one output per shape, computed by one product with the joined weight."""
    return parted(F.linear(x.flatten(2), weight), shapes, alignment(weight))


def project_biased_joined(
    x: Tensor, weight: Tensor, bias: Tensor, shapes: Sequence[Sequence[int]]
) -> tuple[Tensor, ...]:
    """Return the same plus the joined bias."""
    return parted(F.linear(x.flatten(2), weight, bias), shapes, alignment(weight))


def parted(y: Tensor, shapes: Sequence[Sequence[int]], multiple: int) -> tuple[Tensor, ...]:
    """Return the outputs of a joined product, which start at multiples of `multiple`, each in its shape."""
    sizes = [prod(shape) for shape in shapes]
    parts = torch.split(y, [size + -size % multiple for size in sizes], -1)
    return tuple(
        part[..., :size].view(*y.shape[:2], *shape)
        for part, size, shape in zip(parts, sizes, shapes, strict=True)
    )


def sequence_table(tokens: Tensor, head_dim: int, base: float, scale: float = 1.0) -> Tensor:
    """Return complex rotations [sequence, 1, head_dim / 2] for the positions of tokens [batch, sequence]."""
    position = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32) / scale
    return _turn(position[:, None, None] * step_table(tokens, head_dim, base))


def step_table(tokens: Tensor, head_dim: int, base: float) -> Tensor:
    """Return the angle of one step [head_dim / 2], on the device of the tokens."""
    pair = torch.arange(head_dim // 2, device=tokens.device, dtype=torch.float32)
    return base ** (-2 * pair / head_dim)


def _turn(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x [..., sequence, heads, head_dim] by the token's row of the table."""
    # one complex product replaces four real ones, two sums and a copy
    full = wide(x)
    # complex views need even strides and offsets; a compiler cannot read the offset
    if torch.compiler.is_compiling() or any(
        step % 2 for step in (*full.stride()[:-1], full.storage_offset())
    ):
        full = full.clone(memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(torch.unflatten(full, -1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


def rotate_part(x: Tensor, table: Tensor, rotated: int) -> Tensor:
    """Rotate only the first `rotated` elements of each head of x [..., sequence, heads, head_dim]."""
    part, rest = torch.split(x, [rotated, x.shape[-1] - rotated], -1)
    return torch.cat((rotate(part, table), rest), -1)


def rotate_at(x: Tensor, table: Tensor, places: Tensor, rotated: int) -> Tensor:
    """Apply `rotate_part` to selected tokens x [batch, chosen, heads, head_dim].

    places: the tokens' indices [batch, chosen] in the flattened batch of sequences as long as the table. The
    table may have a batch dimension.
    """
    rows = table.flatten(0, 1)[places] if table.ndim > 3 else table[places % len(table)]
    return rotate_part(x, rows, rotated)


def norm_rotate(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    """Normalize each head of x [..., heads, head_dim] with a gain [head_dim], then rotate it."""
    return rotate(rms_norm(x, gain), table)


def rotate_step(x: Tensor, angle: Tensor, index: int) -> Tensor:
    """Rotate every token of x [..., head_dim] by `index` times the angle [head_dim / 2]."""
    return rotate(x, _turn(index * angle))


def add_step_bias(x: Tensor, bias: Tensor, index: int) -> Tensor:
    """Add row `index` of bias [steps, width] to every token."""
    return x + bias[index]


def rms_norm_step(x: Tensor, gains: Tensor, index: int) -> Tensor:
    """Return x / rms(x) * gains[index] over the last dimension; gains: [steps, last dimension of x]."""
    return rms_norm(x, gains[index])


def layer_norm_step(x: Tensor, gains: Tensor, shifts: Tensor | None = None, *, index: int) -> Tensor:
    """Return LayerNorm(x) with gains[index] and shifts[index]; both: [steps, last dimension of x]."""
    return layer_norm(x, gains[index], None if shifts is None else shifts[index])


def by_step(weight: Tensor, downs: Tensor, ups: Tensor, *bias: Tensor) -> tuple[Tensor, ...]:
    """Return the weights of `project_adapted`, those of adapters apart for each step.

    weight: [n, fan_in], downs: [steps * rank, fan_in], ups: [steps * n, rank], bias: [n].
    """
    steps = len(ups) // len(weight)
    return weight, downs.view(steps, -1, downs.shape[1]), ups.view(steps, *weight.shape[:1], -1), *bias


def project_adapted(
    x: Tensor,
    weight: Tensor,
    downs: Tensor,
    ups: Tensor,
    *bias: Tensor,
    shape: Sequence[int],
    index: int,
    linear: Callable[..., Tensor] = F.linear,
) -> Tensor:
    """Return x @ (weight + ups[index] @ downs[index]).T + bias, in `shape`.

    weight: [n, fan_in], downs: [steps, rank, fan_in], ups: [steps, n, rank], bias: [n]. `linear` multiplies.
    """
    x, down, up = x.flatten(2), downs[index], ups[index]
    few = x.shape[:2].numel() * sum(weight.shape) < weight.numel()
    if few and not torch.is_grad_enabled():
        # as in generation: B (A x) takes fewer operations than B A
        y = linear(x, weight, *bias) + linear(linear(x, down), up)
    else:
        with torch.autocast(x.device.type, enabled=False):
            weight = torch.addmm(weight, up, down)
        y = linear(x, weight, *bias)
    return y.view(*y.shape[:2], *shape)


def scale_step(x: Tensor, scales: Tensor, index: int) -> Tensor:
    """Return x times scales[index]; scales: [steps]."""
    return x * scales[index]


def add(*terms: Tensor) -> Tensor:
    """Return the sum of the terms."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def zero(tokens: Tensor) -> Tensor:
    """Return the scalar 0 in fp32, on the device of the tokens."""
    return torch.zeros((), device=tokens.device)


def add_weighted(total: Tensor, *scalars: Tensor, weights: Sequence[float]) -> Tensor:
    """Return a scalar plus the weighted sum of others."""
    for scalar, weight in zip(scalars, weights, strict=True):
        total = total + scalar * weight
    return total

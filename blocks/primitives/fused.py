"""Functions of `reference.py` with Triton kernels; outputs and gradients are the same.

On a CPU, to which a model planned for a GPU may be moved, the references run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.joined_gradients import GradientSlice, JoinedGradient, gradient_slice
from blocks.kernels.tensors import fits
from blocks.kernels.weight_sums import WeightSum, sum_of, summed
from blocks.primitives import library, norm_kernel, reference, rotary_kernel


def add_norm(
    a: Tensor, b: Tensor, gain: Tensor, narrow: bool, shared: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Return (a + b) / rms(a + b) * gain, and a + b if `shared`; a, b: [batch, sequence, width].

    With `narrow` the norm is in the autocast dtype.
    """
    if not fits(a, b, gain):
        return reference.add_norm(a, b, gain, narrow, shared)
    total = torch.promote_types(a.dtype, b.dtype)
    dtype = reference.product_dtype(a if a.dtype == total else b) if narrow else total
    shares = sum_of(gain)
    made: tuple[Tensor, Tensor]
    if shares is None:
        made = library.add_norm(a, b, gain, dtype)
    else:
        made = _AddNorm.apply(a, b, gain, dtype, shares)  # type: ignore[no-untyped-call]
    return made if shared else made[0]


_AHEAD = "_attention_composer_ahead"


class _Ahead(NamedTuple):
    """The precomputed norm of a tensor, attached to it, and the gain."""

    normed: Tensor
    gain: Tensor


def add_before_norm(a: Tensor, b: Tensor, gain: Tensor, narrow: bool, index: int, last: int) -> Tensor:
    """Return a + b with its norm attached for `precomputed_norm`; without it at the last step."""
    if index == last or not fits(a, b, gain):
        return reference.add_before_norm(a, b, gain, narrow, index, last)
    normed, total = add_norm(a, b, gain, narrow, shared=True)
    return attach_norm(total, normed, gain)


def attach_norm(total: Tensor, normed: Tensor, gain: Tensor) -> Tensor:
    """Attach the norm of a tensor to it, for `precomputed_norm` with the same gain; return the tensor."""
    setattr(total, _AHEAD, _Ahead(normed, gain))
    return total


def precomputed_norm(x: Tensor, gain: Tensor, narrow: bool) -> Tensor:
    """Return x / rms(x) * gain, or the norm attached to x; with `narrow` in the autocast dtype."""
    ahead: _Ahead | None = vars(x).pop(_AHEAD, None)
    if ahead is None or not _is_same(ahead.gain, gain):
        return reference.precomputed_norm(x, gain, narrow)
    return ahead.normed


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two views are of the same weight."""
    same = one.untyped_storage()._cdata == other.untyped_storage()._cdata
    return same and one.storage_offset() == other.storage_offset()


def sum_gain(gain: Tensor) -> tuple[Tensor]:
    """Prepare a gain, with a `WeightSum` for its gradient."""
    return (summed([gain], gain.dtype),)


class _AddNorm(torch.autograd.Function):
    """`library.add_norm` that accumulates partial sums of the gain's gradient over steps."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, gain: Tensor, dtype: torch.dtype, shares: WeightSum
    ) -> tuple[Tensor, Tensor]:
        made: tuple[Tensor, Tensor] = library.add_norm(a, b, gain, dtype)
        ctx.save_for_backward(made[1], gain)
        ctx.dtypes, ctx.shares = (a.dtype, b.dtype), shares
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_norm: Tensor | None, of_total: Tensor | None) -> tuple[Tensor | None, ...]:
        so_far = shares_of(ctx.shares)
        given = (of_norm, of_total, *ctx.saved_tensors, ctx.dtypes, so_far)
        to_a, to_b, _ = norm_kernel.add_norm_backward_shares(*given)
        if ctx.needs_input_grad[2]:
            put_shares(ctx.shares, so_far, torch.float32)
        return to_a, to_b, None, None, None


def shares_of(total: WeightSum | None) -> dict[int, Tensor]:
    """Return the partial sums of a gradient so far, by their number, for kernels that add to them."""
    return (total.so_far() if total else None) or {}


def put_shares(total: WeightSum | None, shares: dict[int, Tensor], dtype: torch.dtype) -> Tensor | None:
    """Give partial sums to a `WeightSum` and return None; without one return the gradient that they make."""
    if total is None:
        return summed_shares(shares).to(dtype)
    total.put(shares, summed_shares)
    return None


def summed_shares(shares: dict[int, Tensor]) -> Tensor:
    """Return the sum of the partial sums of all programs."""
    return torch.cat([*shares.values()]).sum(0) if len(shares) > 1 else next(iter(shares.values())).sum(0)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, head_dim] by each token's rotation."""
    if not (fits(x) and table.dtype == torch.complex64):
        return reference.rotate(x, table)
    place = gradient_slice(x)
    if place is None:
        return library.rotate(x, table)  # type: ignore[no-any-return]
    return _Rotate.run(x, table, None, place)


class _Rotate(torch.autograd.Function):
    """`library.rotate` and `library.norm_rotate` that write the gradient of x into its `GradientSlice`."""

    @classmethod
    def run(cls, x: Tensor, table: Tensor, gain: Tensor | None, place: GradientSlice) -> Tensor:
        made: Tensor = cls.apply(x, table, gain, place)  # type: ignore[no-untyped-call]
        return made

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, gain: Tensor | None, place: GradientSlice) -> Tensor:
        # saved in the operators' order: under recomputation the operator may run instead of this function
        ctx.save_for_backward(*((table,) if gain is None else (x, table, gain)))
        ctx.place, ctx.dtype = place, x.dtype
        return rotary_kernel.rotate_forward(x, table, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        x, table, gain = kept if len(kept) > 1 else (None, *kept, None)
        to_x, to_gain = rotary_kernel.rotate_backward(gradient, table, x, gain, ctx.place.take(ctx.dtype))
        return to_x, None, to_gain, None


def norm_rotate(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    """Normalize each head of x [batch, sequence, heads, head_dim] with a gain [head_dim], then rotate it."""
    if not (fits(x, gain) and table.dtype == torch.complex64):
        return reference.norm_rotate(x, table, gain)
    place = gradient_slice(x)
    if place is None:
        return library.norm_rotate(x, table, gain)  # type: ignore[no-any-return]
    return _Rotate.run(x, table, gain, place)


def sum_weight(*weights: Tensor) -> tuple[Tensor]:
    """Join the weights [n_i, fan_in] of a projection like `join`, with a `WeightSum` for their gradients."""
    return (summed(weights, reference.product_dtype(weights[0]), reference.alignment(weights[0])),)


def project(x: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x @ weight.T split into `shape`; adds the gradient of the weight to its `WeightSum`, if any."""
    total = sum_of(weight)
    y = F.linear(x.flatten(2), weight) if total is None else _linear(x, weight, total, None)
    return y.view(*y.shape[:2], *shape)


def project_joined(x: Tensor, weight: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Return one output per shape, computed by one product with the joined weight.

    Operations that support it write the gradients of the outputs into one tensor, for one backward product.
    """
    total, multiple = sum_of(weight), reference.alignment(weight)
    split = partial(reference.parted, shapes=shapes, multiple=multiple)
    if total is None:
        return split(F.linear(x.flatten(2), weight))
    if any(prod(shape) % multiple for shape in shapes):
        # the padding between the outputs must stay zero
        return split(_linear(x, weight, total, None))
    joined = JoinedGradient((*x.shape[:2], len(weight)), weight.dtype, weight.device, split)
    parts: tuple[Tensor, ...] = _linear(x, weight, total, joined)
    joined.attach(parts)
    return parts


def _linear(x: Tensor, weight: Tensor, total: WeightSum, joined: JoinedGradient | None) -> Any:
    """Return x @ weight.T, split if `joined`; the gradient of the weight is added to its `WeightSum`."""
    return _Linear.apply(x.flatten(2).to(weight.dtype), weight, total, joined)  # type: ignore[no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, total: WeightSum, joined: JoinedGradient | None
    ) -> Tensor | tuple[Tensor, ...]:
        ctx.save_for_backward(x, weight)
        ctx.total, ctx.joined = total, joined
        ctx.set_materialize_grads(False)
        y = F.linear(x, weight)
        return y if joined is None else (*joined.split(y),)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        gradient = gradients[0] if ctx.joined is None else ctx.joined.join(gradients)
        if gradient is None:
            return (None,) * 4
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_x = gradient @ weight
            if ctx.needs_input_grad[1]:
                rows, given = gradient.flatten(0, -2).t(), x.flatten(0, -2)
                if torch.is_grad_enabled():
                    # second derivatives need a product that autograd records
                    to_weight = rows @ given
                else:
                    ctx.total.add_product(rows, given)
        return to_x, to_weight, None, None

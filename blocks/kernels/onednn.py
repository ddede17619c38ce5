"""Matrix products in fp32 on a CPU by oneDNN, which torch otherwise uses for narrower dtypes only.

MKL, torch's library for fp32, does without AVX-512 on AMD's processors; oneDNN does not. Results are as
exact, but summed in another order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import flop_registry, register_flop_formula

LEAST = 2**21
"""Products with fewer multiplications are not faster: oneDNN takes longer to start."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias by oneDNN where that is faster, otherwise by `F.linear`.

    x: [..., rows, fan_in], weight: [n, fan_in], bias: [n].
    """
    if not _fits(x, weight):
        return F.linear(x, weight, bias)
    rows = x.flatten(0, -2)
    if torch.compiler.is_compiling():
        y: Tensor = product(rows, weight, bias)
    else:
        y = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], len(weight))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def faster() -> bool:
    """Return whether oneDNN is faster than MKL on this processor, and enabled."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):  # type: ignore[no-untyped-call]
        return False
    # a release of torch that cannot describe the processor keeps its own product
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_f")) and str(known.get("cpu_name")).startswith("AMD")


def _fits(x: Tensor, weight: Tensor) -> bool:
    if not (x.is_cpu and weight.is_cpu and x.dtype == weight.dtype == torch.float32):
        return False
    # transforms such as vmap, derivatives in forward mode and fake tensors know `F.linear` alone
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    if x.numel() * len(weight) < LEAST or torch.is_autocast_enabled("cpu") or not faster():
        return False
    return torch.compiler.is_compiling() or (type(x) is Tensor and type(weight) in (Tensor, nn.Parameter))


class _Linear(torch.autograd.Function):
    """`product` as autograd's own function, which takes less time than an operator in Python."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # second derivatives need products that autograd records
        return _gradients(ctx, gradient, product if torch.is_grad_enabled() else _product)


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return made


@torch.library.custom_op("attention_composer::product", mutates_args=())
def product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return a @ b.T + bias by oneDNN; a: [n, k], b: [m, k], bias: [m], in fp32."""
    return _product(a, b, bias)


@product.register_fake
def _(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    # `len` would make a size that varies a constant, and compile again for each
    return a.new_empty(a.shape[0], b.shape[0])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx: Any, gradient: Tensor, multiply: Any = product) -> tuple[Tensor | None, ...]:
    a, b = ctx.saved_tensors
    to_a = to_b = to_bias = None
    # first: its product copies a transposed factor, which is then gone before the memory of `to_a` is taken
    if ctx.needs_input_grad[1]:
        # copies the narrower one; also, long rows of a result take less time than many
        wide = gradient.shape[1] > a.shape[1]
        to_b = multiply(a.t(), gradient.t(), None).t() if wide else multiply(gradient.t(), a.t(), None)
    if ctx.needs_input_grad[0]:
        to_a = multiply(gradient, b.t(), None)
    if ctx.needs_input_grad[2]:
        to_bias = gradient.sum(0)
    return to_a, to_b, to_bias


product.register_autograd(_gradients, setup_context=_keep)


def _flops(a: Any, b: Any, *rest: Any, **named: Any) -> int:
    """[n, k] x [m, k] is 2 n k m."""
    return int(2 * a[0] * a[1] * b[0])


for _packet in (torch.ops.attention_composer.product, getattr(torch.ops.mkldnn, "_linear_pointwise", None)):
    if _packet is not None and _packet not in flop_registry:
        register_flop_formula(_packet)(_flops)

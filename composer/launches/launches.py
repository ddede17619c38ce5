"""Records kernel launches on a GPU, with the bytes and FLOPs of each, from a run on fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from composer.launches.fla_products import PRODUCTS

aten = torch.ops.aten

Phase = Literal["forward", "backward"]


@dataclass(frozen=True)
class Launch:
    """One kernel launch: name, bytes read and written, FLOPs, and whether products are in fp32.

    `kernel` is the name of PyTorch's operator; that of our own Triton kernels begins with their folder.
    """

    phase: Phase
    kernel: str
    bytes: float
    flops: float = 0.0
    fp32: bool = False


@dataclass(frozen=True)
class TritonLaunch:
    """One launch of a Triton kernel: its arguments by name, and the number of programs.

    `compile` compiles it for these arguments and returns Triton's compiled kernel.
    """

    compile: Callable[[], Any]
    name: str
    given: Mapping[str, Any]
    programs: int
    bytes: float


@dataclass
class Launches:
    """The launches so far, and the current phase; `watch` is called with each launch of a Triton kernel."""

    made: list[Launch] = field(default_factory=list)
    phase: Phase = "forward"

    watch: Callable[[TritonLaunch], None] | None = None

    def add(self, kernel: str, size: float, flops: float = 0.0, fp32: bool = False) -> None:
        """Record one launch."""
        self.made.append(Launch(self.phase, kernel, size, flops, fp32))


@contextmanager
def counted(watch: Callable[[TritonLaunch], None] | None = None) -> Iterator[Launches]:
    """Count the launches in the context, on the tensors of `fake_gpu`. An ATen operator is one launch."""
    launches, original = Launches(watch=watch), _kernel_class().run  # type: ignore[attr-defined]

    def run(kernel: Any, *arguments: Any, grid: Any = None, warmup: bool = False, **flags: Any) -> None:
        given = dict(zip(kernel.arg_names, arguments, strict=False)) | flags
        name = f"{kernel.fn.__module__.split('.')[-2]}.{kernel.fn.__name__.lstrip('_')}"
        grid = grid(given) if callable(grid) else grid
        size = _READS.get(name, _all)(given)
        launches.add(name, size, _PRODUCTS[name](given) if name in _PRODUCTS else 0.0)
        if launches.watch is not None:
            compile = partial(original, kernel, grid=grid, warmup=True, **given)
            launches.watch(TritonLaunch(compile, name, given, prod(grid), size))

    norm = patch.object(F, "rms_norm", _norm(launches))
    untuned = patch.object(_tuned_class(), "run", _first_configuration)
    with patch.object(_kernel_class(), "run", run), untuned, norm, _Counter(launches):
        yield launches


def nbytes(value: Any) -> int:
    """Return the bytes of all tensors in a value."""
    return sum(each.numel() * each.element_size() for each in tree_leaves(value) if isinstance(each, Tensor))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records ATen operators; of custom operators, the launches of their real implementation."""

    def __init__(self, launches: Launches) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.name().split(".")[0] in OPDEFS:
            with self:
                return OPDEFS[func.name().split(".")[0]]._init_fn(*args, **kwargs)
        packet = func.overloadpacket
        if packet is aten._grouped_mm and args[0].dtype == torch.float32:
            # PyTorch's fallback loops over the groups and reads their ends on the host
            raise DynamicOutputShapeException(func)
        # fake tensors of torch 2.11 cannot add a product of another dtype
        out = kwargs["out"] if func is aten.addmm.dtype_out else func(*args, **kwargs)
        if func.namespace == "aten" and not func.is_view and packet.__name__ not in _NO_LAUNCH:
            name = shown_name(packet.__name__)
            flops = _FLOPS.get(packet, lambda *args, **kwargs: 0.0)(*args, **kwargs, out_val=out)
            fp32 = flops > 0 and _in_fp32(args)
            self.found.add(f"{name}, fp32" if fp32 else name, nbytes((args, kwargs, out)), flops, fp32)
        return out


_SHOWN = {
    "_scaled_dot_product_flash_attention_for_cpu": "scaled_dot_product_attention",
    "_to_copy": "to",
    "__rshift__": "bitwise_right_shift",
    "nll_loss_forward": "nll_loss",
    "embedding_dense": "embedding",
}


def shown_name(operator: str) -> str:
    """Return the name under which users of PyTorch know an ATen operator, or its backward pass."""
    name, backward, _ = operator.partition("_backward")
    return _SHOWN.get(name, name.removeprefix("_")) + (" backward" if backward else "")


_NO_LAUNCH = ("empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view", "promote_types")
"""Operators that launch no kernel, besides views."""


def _grouped_flops(a: Tensor, b: Tensor, *_: Any, **__: Any) -> float:
    # two matrices: groups split the reduced dimension; otherwise each row is multiplied by one matrix
    return 2.0 * a.shape[0] * a.shape[1] * b.shape[-1]


def _product_flops(*args: Any, **_: Any) -> float:
    # PyTorch's FLOP formulas lack the overloads that return another dtype
    a, b = [each for each in args if isinstance(each, Tensor)][-2:]
    return 2.0 * a.numel() * b.shape[-1]


def _attention_flops(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, causal: bool = False, **_: Any
) -> float:
    products = 2.0 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
    return products / 2 if causal else products


def _attention_backward_flops(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any, **__: Any) -> float:
    # the scores are recomputed, and each product of the forward pass needs two
    causal = next(each for each in args if isinstance(each, bool))
    return 2.5 * _attention_flops(q, k, v, 0.0, causal)


_FLOPS: Mapping[Any, Callable[..., float]] = {
    **flop_registry,
    **dict.fromkeys((aten.mm, aten.addmm, aten.bmm, aten.baddbmm), _product_flops),
    aten._grouped_mm: _grouped_flops,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def _in_fp32(args: Any) -> bool:
    return all(each.dtype == torch.float32 for each in tree_leaves(args) if isinstance(each, Tensor))


def _kernel_class() -> type:
    """Return the class of Triton's kernels in this process."""
    from triton import knobs
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    return InterpretedFunction if knobs.runtime.interpret else JITFunction  # type: ignore[no-any-return]


def _tuned_class() -> type:
    """Return the class of Triton's kernels that are tuned when they are first launched."""
    from triton.runtime.autotuner import Autotuner

    return Autotuner  # type: ignore[no-any-return]


def _first_configuration(tuned: Any, *arguments: Any, **named: Any) -> Any:
    """Launch a tuned kernel without measuring its configurations."""
    return tuned.fn.run(*arguments, **named, **tuned.configs[0].all_kwargs())


def _all(given: Mapping[str, Any]) -> float:
    return nbytes([*given.values()])


def _first_slots(given: Mapping[str, Any]) -> float:
    """Return the bytes of a kernel of depth attention, which reads only the first slots of a cache."""
    slots = {name: each for name, each in given.items() if name in ("keys", "values")}
    unread = sum(nbytes(each) * (1 - given["reads"] / len(each)) for each in slots.values())
    size: float = _shares(given) - unread
    return size


def _later_reads(given: Mapping[str, Any]) -> float:
    """Return the bytes of the kernel that reads queries and gradients of later steps through a table."""
    heads = given["KV_HEADS"] * given["GROUP"]
    row = heads * (2 * given["DIM"] * given["key"].element_size() + 2 * 4)
    size: float = nbytes([*given.values()]) + (given["rows"] - given["slot"]) * given["tokens"] * row
    return size


def _again(given: Mapping[str, Any], sums: str) -> float:
    """Return the bytes of the sums that a kernel also reads, as it adds to them."""
    return nbytes(given[sums]) if given.get("ADD") else 0.0


def _sums(given: Mapping[str, Any]) -> float:
    """Return the bytes of the kernel that accumulates products."""
    return _all(given) + _again(given, "total")


def _shares(given: Mapping[str, Any]) -> float:
    """Return the bytes of a kernel that sums the gradient of a gain."""
    return _all(given) + _again(given, "shares")


def _added(given: Mapping[str, Any]) -> float:
    """Return the bytes of a kernel of residual mixes, which also reads gradients and sums that it adds to."""
    again = given["ADD"] * nbytes([given.get("to_slots"), given.get("to_value")])
    again += given.get("MORE", False) * nbytes(given.get("shares"))
    # programs of other values read the gradient again, from the cache at best
    again += (given.get("values", 1) - 1) * nbytes(given.get("gradient"))
    size: float = nbytes([*given.values()]) + again
    return size


def _sum_flops(given: Mapping[str, Any]) -> float:
    rows = sum(given[f"order_{step}"].numel() for step in range(given["STEPS"]))
    flops: float = 2.0 * rows * given["LEFT"] * given["RIGHT"]
    return flops


def _gate_up_flops(given: Mapping[str, Any]) -> float:
    flops: float = 4.0 * given["order"].numel() * given["WIDTH"] * given["HIDDEN"]
    return flops


_PRODUCTS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "expert_attention.add_products": _sum_flops,
    "expert_attention.gate_up": _gate_up_flops,
    **PRODUCTS,
}
"""Kernels of matrix products, and their FLOPs."""

_READS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "depth_attention.forward": _first_slots,
    "depth_attention.backward": _first_slots,
    "depth_attention.pull": _later_reads,
    "expert_attention.add_products": _sums,
    "mix_kernels.attend_backward": _added,
    "mix_kernels.norm_latest_backward": _added,
    "mix_kernels.rectify_backward": _added,
    "mix_kernels.weigh_backward": _added,
    "primitives.add_norm_backward": _shares,
}
"""Kernels that read only part of their arguments, or further memory through a table of addresses."""


def _norm(launches: Launches) -> Callable[..., Tensor]:
    """Return RMSNorm as on a GPU: one kernel in the forward pass, two in the backward pass."""

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
            ctx.save_for_backward(x, gain)
            launches.add("rms_norm", 2 * nbytes(x))
            return torch.empty_like(x)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
            x, gain = ctx.saved_tensors
            launches.add("rms_norm backward", 3 * nbytes(x))
            launches.add("rms_norm backward, gain", 2 * nbytes(x))
            return torch.empty_like(x), torch.empty_like(gain)

    return lambda x, shape, weight=None, eps=None: Norm.apply(x, weight)  # type: ignore[no-untyped-call]

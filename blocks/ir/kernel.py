"""How an operation runs: its kernels, and which targets they support. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class Target:
    """The device and precision that a plan is made for.

    Attributes:
        device: the type of a torch device: cpu, cuda.
        dtype: the dtype of matrix products: float32, bfloat16, float16.
        here: whether this machine has the device, so that custom kernels are tested before they are used.
        portable: whether the code is to run on other machines too, as exported files do; kernels that depend
            on the processor do not fit.
    """

    device: str = "cpu"
    dtype: str = "float32"
    here: bool = False
    portable: bool = False


def _fits(operation: Any, target: Target) -> str:
    return ""


def _installed() -> str:
    return ""


def _as_it_is(operation: Any) -> Any:
    return operation


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to run an operation.

    Attributes:
        function: `package.module:name`, called with inputs, weights (or the tensors that `prepare` returned)
            and the operation's arguments; imported only when a module is emitted.
        why: the reason to choose it, for the plan.
        unfit: returns why it cannot run an operation on a target, or "".
        prepare: `package.module:name` of a function applied to the weights once per forward pass, or "".
        prepared: the number of tensors that `prepare` returns.
        casts: the number of leading weights that `prepare` casts to the dtype of matrix products.
        sums: the number of leading weights whose gradients of all uses are accumulated in fp32, except under
            torch.compile.
        specialize: returns the operation with the costs it has under this kernel.
        dtypes: the dtypes it supports; empty for all.
        unused_inputs: positions of inputs it does not read; a value that nothing else reads is not computed.
        check: `package.module:name` of the self-test of a custom kernel, or "". Called with an operation
            (None: a default one) and a target, it compares one tile with the reference and returns what is
            wrong, or "".
        missing: returns why a package that it is part of cannot be used, with the extra to install, or "".
        traceable: whether torch.compile can trace it, which needs shapes that do not depend on data. Assumed
            false for operations that cannot be recomputed or take a loop index.
        compiled: `package.module:name` of the function to use under torch.compile if that cannot trace this
            one, or "".
        by_autograd: `package.module:name` of a function that does the same and leaves gradients to autograd,
            or "" if this one does. Exported models call it. Operations on depth slots need it all together.
    """

    name: str
    function: str
    why: str
    unfit: Callable[[Any, Target], str] = _fits
    prepare: str = ""
    prepared: int = 0
    casts: int = 0
    sums: int = 0
    specialize: Callable[[Any], Any] = _as_it_is
    dtypes: tuple[str, ...] = ()
    unused_inputs: tuple[int, ...] = ()
    check: str = ""
    missing: Callable[[], str] = _installed
    traceable: bool = True
    compiled: str = ""
    by_autograd: str = ""


def with_fields(**values: Any) -> Callable[[Any], Any]:
    """Return a function that specializes an operation: it gives it these values of its fields."""
    return partial(replace, **values)


class Implementation:
    """How an operation runs. Only `kernels` has no default."""

    kernels: ClassVar[tuple[Kernel, ...]] = ()
    """Best first; the last is the plain-PyTorch reference and fits everything."""

    checked: ClassVar[tuple[Kernel, ...]] = ()
    """Kernels with a self-test, where `kernels` is a property; `composer doctor` tests them."""

    worth_fusing: ClassVar[int | None] = 1
    """The number of leading kernels for which fusing other operations into this one pays; None for all."""

    def cast_output(self) -> Self:
        """Return the operation for a use where a single matrix product reads its first output.

        It may return that output in the dtype to which autocast would cast it for the product.
        """
        return self

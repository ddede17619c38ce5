"""How an operation runs: its kernels, and the targets they fit. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan is made for.

    Attributes:
        device: what runs it, as torch calls the kind: cpu, cuda.
        dtype: what products are made in: float32, bfloat16, float16.
        here: whether that device is at hand, so that kernels are tried before they are used.
    """

    device: str = "cpu"
    dtype: str = "float32"
    here: bool = False


def _fits(operation: Any, target: Target) -> str:
    return ""


def _as_it_is(operation: Any) -> Any:
    return operation


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to run an operation.

    Attributes:
        function: `package.module:name`, called with inputs, weights (or what `prepare` made of them) and
            the operation's arguments; imported only when a module is emitted.
        why: what speaks for it, in words for the plan.
        unfit: returns why it cannot run an operation on a target, or "".
        prepare: `package.module:name` of what is done to the weights once per forward pass, or "".
        prepared: how many tensors `prepare` returns.
        casts: how many weights, the first ones, `prepare` casts to the precision of products.
        sums: how many weights, the first ones, have their gradients of all uses added up in fp32 as they are
            made, where torch does not compile the operation.
        specialize: returns the operation with the costs it has when this kernel runs it.
        dtypes: what products it can make; all where none is named.
        unused_inputs: positions of the inputs that it does without; what nothing else reads is not made.
        check: `package.module:name` of its self-test, which a kernel of our own has, or "". Called with an
            operation (None: one of its own choosing) and a target, it runs the kernel on one tile against
            the reference there and returns what is wrong, or "".
        traceable: whether torch.compile can trace it, which needs shapes that do not depend on data. Taken to
            be false for operations that cannot be recomputed or take a loop index.
        compiled: `package.module:name` of what runs in its place where torch compiles, which cannot trace it,
            or "".
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
    traceable: bool = True
    compiled: str = ""


class Implementation:
    """How an operation runs. Only `kernels` has no default."""

    kernels: ClassVar[tuple[Kernel, ...]] = ()
    """Best first; the last is the plain-PyTorch reference and fits everything."""

    paying: ClassVar[int | None] = 1
    """How many kernels, the first ones, are worth fusing other operations into this one; None, all are."""

    def cast_output(self) -> Self:
        """Return the operation for a place where one product alone reads its first output.

        It may then return that in the precision of products, which the product would have cast it to.
        """
        return self

"""Residual sums that gate the update they add, alone or with the norm that follows. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar, Literal

from blocks.ir.costs import CostContext, SavedTensors
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.operation import LoopIndex, Operation, Value, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.fused_operations import AddBeforeNorm, AddNorm, ResidualSum, unfit
from blocks.primitives.operations import Project, Sum

Gate = Literal["scalar", "channel", "logit", "token"]
"""The factor of an update: a number; a number per channel; or a number times the sigmoid of a token's logit,
which is an input (`logit`) or a projection of the stream (`token`)."""

_FOLDER = "blocks.wiring.residual.gate"


def _off_triton(operation: Gated, target: Target) -> str:
    return unfit(operation, target) or ("its logit is made elsewhere" if operation.gate == "logit" else "")


def _makes_logit(operation: Gated, target: Target) -> str:
    return unfit(operation, target) or ("" if operation.gate == "logit" else "its logit is made here")


def _kernels(name: str, why: str, prepared: int) -> tuple[Kernel, ...]:
    """Return the kernels of a sum, whose weights are prepared as a number of tensors."""
    plain = Kernel(
        name,
        f"{_FOLDER}.reference:{name}",
        "not fused: the update times its gate, then as without one",
        specialize=with_fields(fused=False),
    )
    return (
        Kernel(
            f"triton_{name}",
            f"{_FOLDER}.fused:{name}",
            f"{why} by one kernel, each row read once",
            _off_triton,
            prepare=f"{_FOLDER}.fused:prepare_{'sum' if prepared == 1 else 'norm'}",
            prepared=prepared,
            sums=prepared + 1,
            specialize=with_fields(fused=True),
            check=f"{_FOLDER}.check:check",
            traceable=False,
        ),
        # on a GPU, so that it is fused until it has absorbed the projection too
        replace(plain, name=f"{name}_of_logit", unfit=_makes_logit),
        plain,
    )


@dataclass(frozen=True)
class Gated(Operation):
    """A residual sum of a and a gated b: (a, b), with `logit` (a, logit, b).

    Weights are those of the sum, then the numbers of the gate, then with `token` its projection [1, width].
    """

    shape: Shape
    gate: Gate = field(kw_only=True)
    fused: bool = field(default=False, kw_only=True)

    worth_fusing: ClassVar[int | None] = 2
    passes_on = 0
    decoding = LOCAL

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, *[(1,)] * (self.gate == "logit"), self.shape)
        return super().types((inputs[0], inputs[-1]))

    def weight_shapes(self) -> tuple[Shape, ...]:
        numbers = self.shape if self.gate == "channel" else (1,)
        projection = ((1, *self.shape),) if self.gate == "token" else ()
        return (*super().weight_shapes(), numbers, *projection)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "gate": self.gate}

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the projection of the stream to the logit."""
        projects = producer == Project(prod(self.shape), ((1,),)) and not shared
        return replace(self, gate="token") if self.gate == "logit" and position == 1 and projects else None

    def fused_inputs(self, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        """Return a and b if the logit is a projection of a."""
        if self.gate != "token":
            return inputs
        return (inputs[0], inputs[2]) if inputs[0] == inputs[1] else None

    def saved(self, at: CostContext) -> SavedTensors:
        """Also save the update, and the stream if it makes the logit.

        Plain PyTorch also saves two numbers per token with a logit, a cast stream, and cast weights.
        """
        saved = super().saved(at) or SavedTensors()
        inputs = {"logit": (2,), "token": (0, 1)}.get(self.gate, (1,))
        if not self.fused:
            tokens = 2 * at.compute_bytes if self.gate in ("logit", "token") else 0
            stream = at.compute_bytes * prod(self.shape) if self.gate == "token" and at.widened else 0
            once = saved.once + at.cast_bytes(prod(self.weight_shapes()[-1]))
            saved = saved._replace(extra=saved.extra + tokens + stream, once=once)
        return saved._replace(inputs=(*saved.inputs, *inputs))


@dataclass(frozen=True)
class GatedSum(Gated, ResidualSum):
    """a + gate * b, with the inputs of `Gated`."""

    kernels = _kernels("gated_sum", "gate and sum", 1)

    def before_norm(self, narrow: bool, index: LoopIndex, last: int) -> Operation | None:
        """Return the same sum with the norm that begins the next step."""
        return GatedAddBeforeNorm(self.shape, narrow, index, last, gate=self.gate)


@dataclass(frozen=True)
class GatedAddNorm(Gated, AddNorm):
    """`AddNorm` of a and gate * b, with the inputs of `Gated`."""

    kernels = _kernels("gated_add_norm", "gate, sum and norm", 2)


@dataclass(frozen=True)
class GatedAddBeforeNorm(Gated, AddBeforeNorm):
    """`AddBeforeNorm` of a and gate * b, with the inputs of `Gated`."""

    kernels = _kernels("gated_add_before_norm", "gate, sum and the norm of the next step", 2)


def gated(total: Operation, gate: Gate) -> Operation:
    """Return a sum of two, or that with a norm, that also gates its second term."""
    if isinstance(total, AddNorm):
        return GatedAddNorm(total.shape, total.shared, gate=gate)
    assert isinstance(total, Sum)
    return GatedSum(total.shape, gate=gate)

"""Choose for every operation the best kernel that fits the target, and say why."""

from __future__ import annotations

from typing import Literal, NamedTuple

from blocks.ir.graph import Choice, Graph, Loop
from blocks.ir.kernel import Kernel, Target
from blocks.ir.operation import Operation
from blocks.ir.walk import graphs, operations
from blocks.primitives.operations import Input
from composer.graph.passes.self_test import self_test

Kernels = Literal["auto", "reference", "fused"]
"""The best that fits; plain PyTorch; or the best, and an error where a fused kernel does not fit."""


class Unfused(NamedTuple):
    """A fused kernel that an operation cannot use: the operation, its block, and the reason."""

    operation: str
    block: str
    kernel: str
    why: str


def choose_kernels(graph: Graph, target: Target, kernels: Kernels = "auto") -> Graph:
    """Choose a kernel for every operation: the first that fits, or with `reference` plain PyTorch.

    On a target that is at hand a kernel fits only if its self-test passes. The operation takes the form it
    has under its kernel, which its costs follow, and the inputs that kernel reads. With `fused`, `unfused`
    tells what is to be refused.
    """
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            choose_kernels(operation.body, target, kernels)
        elif not isinstance(operation, Input):
            choice = _choose(operation, target, kernels)
            graph.replace(node, op=choice.kernel.specialize(operation), choice=choice)
            if choice.kernel.unused_inputs:
                graph.leave(node, choice.kernel.unused_inputs)
    return graph


def unfused(graph: Graph, target: Target) -> list[Unfused]:
    """Return the reasons why operations of a graph cannot use their fused kernels, once for each block."""
    reasons: dict[Unfused, None] = {}
    for body, _ in graphs(graph):
        for _, operation, node in operations(body):
            own = [kernel for kernel in operation.kernels if kernel.check]
            if own and not node.kernel.check:
                block = next((name for name in node.blocks if name), "")
                reason = unfit(own[0], operation, target)
                reasons[Unfused(operation.describe(), block, own[0].name, reason)] = None
    return [*reasons]


def unfit(kernel: Kernel, operation: Operation, target: Target) -> str:
    """Return why a kernel cannot run an operation on a target, or ""."""
    lacking = kernel.dtypes and target.dtype not in kernel.dtypes
    unlike = f"it has no {target.dtype}" if lacking else ""
    reasons = kernel.unfit(operation, target) or unlike or kernel.missing()
    return reasons or self_test(kernel, operation, target)


def first_fit(operation: Operation, target: Target) -> Kernel:
    """Return the first kernel that can run an operation on a target."""
    return next(kernel for kernel in operation.kernels if not unfit(kernel, operation, target))


def _choose(operation: Operation, target: Target, kernels: Kernels) -> Choice:
    if kernels == "reference":
        kernel = operation.kernels[-1]
        return Choice(kernel, kernel.why)
    refused: list[str] = []
    for kernel in operation.kernels:
        reason = unfit(kernel, operation, target)
        if not reason:
            return Choice(kernel, "; ".join([kernel.why, *refused]))
        refused.append(f"not {kernel.name}: {reason}")
    raise AssertionError(f"{operation.describe()} has no kernel that fits everything")

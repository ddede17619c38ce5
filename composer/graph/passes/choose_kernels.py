"""Choose for every operation the best kernel that fits the target, and say why."""

from __future__ import annotations

from typing import Literal, NamedTuple

from blocks.core.graph import Graph, Loop
from blocks.core.operation import Kernel, Operation, Target
from blocks.core.operations import Input
from composer.graph.walk import operations

Kernels = Literal["auto", "reference"]


class Choice(NamedTuple):
    """A kernel and the reason it was chosen."""

    kernel: Kernel
    why: str


def choose_kernels(graph: Graph, target: Target, kernels: Kernels = "auto") -> Graph:
    """Set `kernel` on every operation: the first that fits, or with `reference` plain PyTorch.

    The operation takes the form it has under its kernel, which its costs follow.
    """
    for _, operation, data in operations(graph):
        if isinstance(operation, Loop):
            choose_kernels(operation.body, target, kernels)
        elif not isinstance(operation, Input):
            data["kernel"] = _choose(operation, target, kernels)
            data["op"] = data["kernel"].kernel.form(operation)
    return graph


def _choose(operation: Operation, target: Target, kernels: Kernels) -> Choice:
    if kernels == "reference":
        kernel = operation.kernels[-1]
        return Choice(kernel, kernel.why)
    refused: list[str] = []
    for kernel in operation.kernels:
        reason = kernel.unfit(operation, target)
        if not reason:
            return Choice(kernel, "; ".join([kernel.why, *refused]))
        refused.append(f"not {kernel.name}: {reason}")
    raise AssertionError(f"{operation.describe()} has no kernel that fits everything")

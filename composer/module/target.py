"""The target (device and dtype) that a model runs on, and its kernels there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blocks.ir.graph import Graph
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.primitives.operations import Input


def target_of(weight: Tensor) -> Target:
    """Return the target of matrix products with a weight: its device, and its dtype or that of autocast."""
    kind, dtype = weight.device.type, weight.dtype
    if dtype == torch.float32 and kind != "meta" and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return Target(kind, str(dtype).removeprefix("torch."), here=True)


def functions(graph: Graph) -> list[tuple[str, str, dict[str, Any]]]:
    """Return all of a graph's kernels that emitted code depends on: functions, preparation, outputs."""
    return [
        (data.kernel.prepare, data.kernel.function, operation.arguments())
        for body, _ in graphs(graph)
        for _, operation, data in operations(body)
        if not isinstance(operation, Input) and data.choice
    ]

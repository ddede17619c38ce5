"""What a model runs on at this moment, and its kernels for that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blocks.ir.graph import Graph
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.primitives.operations import Input


def target_of(weight: Tensor) -> Target:
    """Return the target of products with a weight where it is: of its dtype, or as autocast casts them."""
    kind, dtype = weight.device.type, weight.dtype
    if dtype == torch.float32 and kind != "meta" and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return Target(kind, str(dtype).removeprefix("torch."), here=True)


def functions(graph: Graph) -> list[tuple[str, str, dict[str, Any]]]:
    """Return what kernels of a graph are prepared by, call, and give: what emitted code depends on."""
    return [
        (data.kernel.prepare, data.kernel.function, operation.arguments())
        for body, _ in graphs(graph)
        for _, operation, data in operations(body)
        if not isinstance(operation, Input) and data.choice
    ]

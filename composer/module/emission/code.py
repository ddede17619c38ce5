"""The code of one graph as a module: as emitted, and where torch.compile is wanted with compiled regions."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from blocks.ir.graph import Graph
from blocks.ir.operation import Value
from blocks.ir.walk import Place
from composer.module.emission.emit import emit
from composer.module.emission.regions import with_regions

TorchCompile = Literal["auto", "on", "off"]
"""Whether torch is asked to compile what lies between kernels of our own."""

Compiled = Literal["no", "tried", "required"]
"""Whether regions are compiled: not, where that works, or else it is an error."""


class Code:
    """Calls the code that computes `outputs`; compiled regions run where gradients are recorded."""

    def __init__(
        self, graph: Graph, place: Place, outputs: list[Value], name: str, compiled: Compiled = "no"
    ) -> None:
        self.plain = emit(graph, place, outputs, name)
        self.regions: nn.Module | None = None
        if compiled != "no":
            self.regions = with_regions(emit(graph, place, outputs, name), compiled == "required")

    def __call__(self, *arguments: Any) -> Any:
        """Return the outputs: one, or a tuple."""
        code = self.regions if self.regions is not None and torch.is_grad_enabled() else self.plain
        return code(*arguments)


def readable(code: Code) -> str:
    """Return the code as it would be written by hand."""
    lines = (line.split(";  ")[0].rstrip() for line in code.plain.code.strip().splitlines())
    return "".join(f"{line}\n" for line in lines)


def without_code(state: dict[str, Any]) -> dict[str, Any]:
    """Return a module's state without emitted code; it is emitted anew, where torch would trace it."""
    return {name: value for name, value in state.items() if not isinstance(value, Code)}

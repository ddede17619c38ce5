"""The emitted code of one graph as a module, optionally with regions compiled by torch.compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Value
from blocks.ir.walk import Place
from composer.graph.passes.active_steps import Variant, variants
from composer.module.emission.emit import emit
from composer.module.emission.printed import printed
from composer.module.emission.regions import with_regions

TorchCompile = Literal["auto", "on", "off"]
"""Whether torch.compile is run on the code between custom kernels."""

Compiled = Literal["no", "tried", "required"]
"""Whether regions are compiled: no; if possible; or with an error if it fails."""


class Code:
    """Calls the code that computes `outputs`; compiled regions run where gradients are recorded."""

    def __init__(
        self,
        graph: Graph,
        place: Place,
        outputs: list[Value],
        name: str,
        compiled: Compiled = "no",
        signature: Graph | None = None,
    ) -> None:
        """`signature` is the graph whose parameters the code takes, if it runs only some of the nodes."""
        self.plain = emit(graph, place, outputs, name, signature)
        self.regions: nn.Module | None = None
        if compiled != "no":
            self.regions = with_regions(emit(graph, place, outputs, name, signature), compiled == "required")

    def __call__(self, *arguments: Any) -> Any:
        """Return the outputs: one, or a tuple."""
        code = self.regions if self.regions is not None and torch.is_grad_enabled() else self.plain
        return code(*arguments)

    def sources(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield (name, source) of the code, as readable source."""
        yield name, printed(self.plain)


class StepCode:
    """Calls the code of one step of a loop whose steps run different nodes."""

    def __init__(self, bodies: list[Variant], loop: Loop, place: Place, compiled: Compiled) -> None:
        """`place` is that of the loop's body. Code of tied steps takes all weights, other code its own."""
        self.variants = bodies
        self.codes = [
            Code(
                each.body,
                place,
                each.body.outputs,
                "Step",
                compiled,
                signature=loop.body if loop.tied else each.body,
            )
            for each in bodies
        ]
        self._number = len(loop.body.inputs) + len(place.loops) - 1  # position of the step's number
        self._of_step = {
            step: code for each, code in zip(bodies, self.codes, strict=True) for step in each.steps
        }

    def __call__(self, *arguments: Any) -> Any:
        """Return the outputs of the step whose number is among the arguments: one, or a tuple."""
        return self._of_step[arguments[self._number]](*arguments)

    def sources(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield (name, source) of each code, with the steps that run it in the name."""
        for each, code in zip(self.variants, self.codes, strict=True):
            yield from code.sources(f"{name} steps {', '.join(map(str, each.steps))}")


def step_code(loop: Loop, place: Place, compiled: Compiled) -> Code | StepCode:
    """Return a module that runs one step of a loop; `place` is the place of its body."""
    bodies = variants(loop)
    if len(bodies) == 1:
        return Code(bodies[0].body, place, bodies[0].body.outputs, "Step", compiled, signature=loop.body)
    return StepCode(bodies, loop, place, compiled)


def without_code(state: dict[str, Any]) -> dict[str, Any]:
    """Return a module's state without emitted code, which is emitted again when unpickled."""
    return {name: value for name, value in state.items() if not isinstance(value, Code | StepCode)}

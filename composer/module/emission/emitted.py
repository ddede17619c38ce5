"""The emitted code of a model for one choice of numbers of steps, so that it can be restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blocks.ir.graph import Graph, Loop, Node
from blocks.primitives.operations import Input
from composer.module.emission.part import Part
from composer.module.emission.stage import Stage


@dataclass(frozen=True)
class Emitted:
    """A plan, the code of the model and its loss, and the code of each stage and part."""

    plan: Any
    code: Any
    loss: Any
    stages: tuple[tuple[Stage, Any, Any, Any, Any], ...]
    parts: tuple[tuple[Part, Any, Any], ...]

    @classmethod
    def of(cls, model: Any) -> Emitted:
        """Return the code that a model currently runs."""
        modules = [*model.modules()]
        stages = tuple(
            (each, each.loop, each.place, each.code, each.bodies)
            for each in modules
            if isinstance(each, Stage)
        )
        parts = tuple((each, each._code, each._graph) for each in modules if isinstance(each, Part))
        return cls(model.plan, model.code, model._loss, stages, parts)

    def put_back(self, model: Any) -> None:
        """Restore this code."""
        model.plan, model.code, model._loss = self.plan, self.code, self.loss
        for stage, loop, place, code, bodies in self.stages:
            stage.loop, stage.place, stage.code, stage.bodies = loop, place, code, bodies
        for part, part_code, graph in self.parts:
            part._code, part._graph = part_code, graph


def same_code(one: Graph, two: Graph) -> bool:
    """Return whether two graphs have the same code, which does not depend on the trip counts of loops."""
    outside = ((each.inputs, each.outputs, each.carried, each.weights) for each in (one, two))
    if next(outside) != next(outside) or [*one] != [*two]:
        return False
    return all(_same(one.node(name), two.node(name)) for name in one)


def _same(one: Node, two: Node) -> bool:
    if one.active is not None:
        # which steps are active depends on the number of steps
        return False
    if isinstance(one.op, Loop) and isinstance(two.op, Loop):
        return (one.inputs, len(one.types)) == (two.inputs, len(two.types))
    if isinstance(one.op, Input) and isinstance(two.op, Input):
        # a depth cache may have more slots
        return [(each.kind, each.element) for each in one.types] == [
            (each.kind, each.element) for each in two.types
        ]
    return one == two

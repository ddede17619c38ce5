"""Switches a model between numbers of steps; the code emitted for each is cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from blocks.ir.walk import Place
from composer.costs.counting.plan import Plan, make_plan
from composer.graph.other_steps import check_weights
from composer.language.schema.row_steps import CallSteps, RowSteps, row_steps
from composer.language.schema.steps import recurrent_place, with_steps
from composer.module.core import ModelCore
from composer.module.emission.emitted import Emitted, same_code
from composer.module.emission.stage import Stage, take_graphs

T = TypeVar("T")
_Key = tuple[tuple[str, int, bool], ...]
_SECOND: _Key = (("second pass", 1, False),)
"""Suffix of the key of a second pass with these numbers of steps."""


class StepSwitch:
    """The current numbers of steps of a model, and the emitted code for others.

    Attributes:
        steps: numbers of steps by the places of stages; other stages run those of the spec.
    """

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self._emitted: dict[_Key, Emitted] = {}

    def forget(self) -> None:
        """Drop the code for other numbers of steps; it is emitted again when needed."""
        self._emitted = {}

    def set_aside(self) -> dict[_Key, Emitted]:
        """Drop the code for other numbers of steps and return it for `take_back`."""
        emitted, self._emitted = self._emitted, {}
        return emitted

    def take_back(self, emitted: dict[_Key, Emitted]) -> None:
        """Restore the code that `set_aside` returned."""
        self._emitted = emitted

    def __getstate__(self) -> dict[str, object]:
        return {"steps": self.steps, "_emitted": {}}

    def call(self, model: ModelCore, steps: CallSteps, run: Callable[..., T], *given: Tensor) -> T:
        """Call `run` with other numbers of steps, checked as by the method `run`, then restore these."""
        before = self.steps
        named = steps if isinstance(steps, Mapping) else {recurrent_place(model.spec): steps}
        self.run(model, {**before, **{place: row_steps(each, place) for place, each in named.items()}})
        try:
            return run(*given)
        finally:
            self.run(model, before)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def run(self, model: ModelCore, steps: dict[str, int]) -> None:
        """Make a model run other numbers of steps.

        Raises:
            ValueError: a place is not that of a recurrent stage, a number is below 1, or a weight has an
                entry for each step.
        """
        if step_key(steps) != step_key(self.steps):
            self._put(model, step_key(self.steps), step_key(steps), lambda: _plan(model, steps))
        self.steps = steps

    def second(self, model: ModelCore, run: Callable[[], T]) -> T:
        """Call `run` while the model is emitted as the second pass over a batch."""
        plan, graph, now = model.plan, model.graph.second, step_key(self.steps)
        assert graph is not None, "the model makes one pass"
        self._put(model, now, now + _SECOND, lambda: replace(plan, graph=graph))
        try:
            return run()
        finally:
            self._put(model, now + _SECOND, now, lambda: plan)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _put(self, model: ModelCore, before: _Key, key: _Key, plan: Callable[[], Plan]) -> None:
        if key in self._emitted:
            self._emitted[key].put_back(model)
            return
        made = plan()
        self._emitted.setdefault(before, Emitted.of(model))
        _emit(model, made)
        self._emitted[key] = Emitted.of(model)


def step_key(steps: dict[str, int]) -> _Key:
    """Return the key of the code for these numbers of steps."""
    return tuple(
        sorted((place, int(number), isinstance(number, RowSteps)) for place, number in steps.items())
    )


def _plan(model: ModelCore, steps: dict[str, int]) -> Plan:
    """Return the plan for these numbers of steps, with the same operations recomputed."""
    now = model.plan
    spec = with_steps(model.spec, steps) if steps else model.spec
    plan = make_plan(spec, now.target, now.kernels, now.recomputed)
    check_weights(now.graph, plan.graph)
    return plan.on(now.target, apart=now.apart)


def _emit(model: ModelCore, plan: Plan) -> None:
    """Emit the code of a plan where it differs from that of the model's own plan."""
    stages = [each for each in model.modules() if isinstance(each, Stage)]
    bodies = [each.loop.body for each in stages]
    graph, model.plan = model.graph, plan
    take_graphs(model, model.graph, Place())
    if not same_code(graph, model.graph):
        model.emit()
    for stage, body in zip(stages, bodies, strict=True):
        if not same_code(body, stage.loop.body):
            stage.emit(stage.compiled, stage.called)

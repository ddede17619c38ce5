"""The base of a composed model: its plan, its emitted code, and how both are replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import lightning
from torch import Tensor, nn

from blocks.ir.graph import Graph
from blocks.ir.kernel import Target
from composer.costs.counting.plan import Plan
from composer.language.schema.row_steps import CallSteps
from composer.language.schema.spec import Spec
from composer.module.emission.code import Code, Compiled
from composer.module.randomness import Randomness

T = TypeVar("T")


class TapProvider(Protocol):
    """Provides the graph with taps while values are recorded."""

    def graph(self, plan: Plan) -> Graph:
        """Return a plan's graph with taps."""
        ...


class Switch(Protocol):
    """Makes a model run other numbers of steps: see `StepSwitch`."""

    steps: dict[str, int]

    def call(self, model: Any, steps: CallSteps, run: Callable[..., T], *given: Tensor) -> T:
        """Call `run` with other numbers of steps, and restore the current ones."""
        ...

    def second(self, model: Any, run: Callable[[], T]) -> T:
        """Call `run` while the model is emitted as the second pass over a batch."""
        ...

    def run(self, model: Any, steps: dict[str, int]) -> None:
        """Make a model run other numbers of steps."""
        ...

    def forget(self) -> None:
        """Drop the code for other numbers of steps; it is emitted again when needed."""
        ...

    def set_aside(self) -> Any:
        """Drop the code for other numbers of steps and return it for `take_back`."""
        ...

    def take_back(self, emitted: Any) -> None:
        """Restore the code that `set_aside` returned."""
        ...


class ModelCore(lightning.LightningModule):
    """A model that runs the code of a plan.

    Attributes:
        spec: what the model was compiled from.
        plan: the plan its code was emitted from.
        target: the device and dtype its kernels were chosen for; None if not known yet.
        stages: the stages, in order.
        randomness: the state that random numbers are derived from.
        code: the model's own code, outside of stages.
    """

    spec: Spec
    plan: Plan
    target: Target | None
    stages: nn.ModuleList
    randomness: Randomness
    code: Code
    _loss: Code
    _switch: Switch
    _taps: TapProvider | None = None

    @property
    def graph(self) -> Graph:
        """The graph the code was emitted from: the plan's, with taps while values are recorded."""
        return self.plan.graph if self._taps is None else self._taps.graph(self.plan)

    @property
    def _compiled(self) -> Compiled:
        raise NotImplementedError

    def emit(self) -> None:
        """Emit the code outside of stages."""
        raise NotImplementedError

    def emit_again(self) -> None:
        """Emit all code for the graph as it is now."""
        raise NotImplementedError

    def _choose_for_now(self) -> None:
        raise NotImplementedError

    def _keys(self, tokens: Tensor) -> list[Tensor | bool]:
        raise NotImplementedError

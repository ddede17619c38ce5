"""Recording values of a model while it runs, and replacing them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from blocks.ir.graph import Graph
from composer.costs.counting.plan import Plan
from composer.graph.compile import compile_graph
from composer.graph.taps.insert import Taps
from composer.graph.taps.names import Named, value_names
from composer.graph.taps.operation import Step, register
from composer.module.core import ModelCore
from composer.module.emission.emitted import Emitted

StepKey = int | tuple[int, ...]
"""A step: its number, or for a value in nested stages one number for each, outermost first."""

Replacement = Tensor | Callable[[Tensor, StepKey | None], Tensor]
"""A tensor, or a function (value, step) -> tensor; the step is None outside of stages."""

Replacements = Mapping[str | tuple[str, StepKey], Replacement]
"""Replacements by name or by (name, step)."""


class Recording:
    """The values of the last pass of a model: `recording[name]`, or `recording[name, step]`.

    Attributes:
        names: the names of the recorded values.
    """

    def __init__(
        self,
        model: ModelCore,
        names: Iterable[str],
        steps: Collection[StepKey] | None = None,
        replace: Replacements | None = None,
        internal: Collection[str] = (),
    ) -> None:
        """`internal` names further values to record, which need not be tensors."""
        self._model = model
        known = value_names(model.spec)
        self.names: tuple[str, ...] = tuple(dict.fromkeys(_matching(names, known)))
        self._known, self._wanted = known, {*self.names, *internal}
        self._steps = None if steps is None else {_step(each) for each in steps}
        self._replace = {_key(key, known): value for key, value in (replace or {}).items()}
        replaced = frozenset(name for name, _ in self._replace)
        self._tokens = next(iter(known))
        if self._tokens in replaced:
            raise ValueError(
                f"replace: expected no {self._tokens!r}; call the model with other tokens instead"
            )
        self._values: dict[str, dict[Step, Any]] = {}
        self._taps = Taps(register(self), replaced | self._wanted, replaced)
        self._graphs: WeakKeyDictionary[Plan, Graph] = WeakKeyDictionary()

    def graph(self, plan: Plan) -> Graph:
        """Return a plan's graph with taps."""
        if plan not in self._graphs:
            # a value inside a fused operation can be replaced only if it is computed separately
            kernels = "auto" if plan.kernels == "fused" and self._taps.replaced else plan.kernels
            self._graphs[plan] = compile_graph(
                plan.spec, plan.target, kernels, plan.recomputed, plan.apart, self._taps
            )
        return self._graphs[plan]

    def take(self, name: str, step: Step, value: Any) -> Any:
        """Record a value at a step; return it or its replacement."""
        if name == self._tokens:
            self._begin()
        for key in ((name, step), (name, None)):
            if key in self._replace:
                value = _replaced(self._replace[key], name, step, value)
                break
        if name in self._wanted and self._is_wanted(step):
            self._values.setdefault(name, {})[step] = value
        return value

    def steps(self, name: str) -> list[StepKey]:
        """Return the steps at which a value was recorded in the last pass; none outside of stages."""
        return [_step_key(step) for step in self._recorded(name) if step]

    def __getitem__(self, key: str | tuple[str, StepKey]) -> Tensor:
        """Return a value of the last pass; for a name in a stage all steps, stacked in dimension 0.

        Raises:
            ValueError: it was not recorded, or its steps have different shapes.
        """
        if isinstance(key, str):
            by_step = self._recorded(key)
            if () in by_step:
                return by_step[()]  # type: ignore[no-any-return]
            if len({each.shape for each in by_step.values()}) > 1:
                raise ValueError(
                    f"{key}: its shape differs from step to step; ask for one, as in r[{key!r}, 0]"
                )
            return torch.stack([*by_step.values()])
        name, step = key
        by_step = self._recorded(name)
        if _step(step) not in by_step:
            recorded = ", ".join(str(_step_key(each)) for each in by_step if each) or "none"
            raise ValueError(f"{name}: expected one of the recorded steps ({recorded}), got {step}")
        return by_step[_step(step)]  # type: ignore[no-any-return]

    def all_steps(self, name: str) -> Mapping[Step, Any]:
        """Return a value at every step at which it was recorded in the last pass, tensor or not."""
        return self._recorded(name)

    def _recorded(self, name: str) -> dict[Step, Any]:
        if name not in self._wanted:
            raise ValueError(f"{name}: it is not recorded{_hint(name, self._wanted)}")
        if not self._values:
            raise ValueError(f"{name}: nothing is recorded before the model is called")
        if name not in self._values:
            raise ValueError(f"{name}: the last pass did not make it at any recorded step")
        return self._values[name]

    def _is_wanted(self, step: Step) -> bool:
        return self._steps is None or not step or step in self._steps or step[-1:] in self._steps

    def _begin(self) -> None:
        """Drop the values of the last pass.

        Raises:
            RuntimeError: the pass would run code compiled by torch.compile, which does not record values.
        """
        if torch.is_grad_enabled() and self._model._compiled != "no":
            raise RuntimeError(
                "record: expected a pass under torch.no_grad(), or a model with torch_compile='off': "
                "torch compiles this model's code where gradients are recorded"
            )
        self._values = {}


@contextmanager
def record(
    model: nn.Module,
    names: str | Iterable[str],
    steps: Collection[StepKey] | None = None,
    replace: Replacements | None = None,
    internal: Collection[str] = (),
) -> Iterator[Recording]:
    """Record values of a model while it is called in the context: see `composer.record`."""
    if not isinstance(model, ModelCore):
        wrapped = " (record the model that torch.compile was given, and call that)"
        raise ValueError(
            f"record: expected a composed model, got {type(model).__name__}"
            f"{wrapped if hasattr(model, '_orig_mod') else ''}"
        )
    refuse_recording(model, "record")
    made = Recording(model, [names] if isinstance(names, str) else names, steps, replace, internal)
    plan, before, others = model.plan, Emitted.of(model), model._switch.set_aside()
    try:
        model._taps = made
        model.emit_again()
        yield made
    finally:
        model._taps = None
        if model.plan is plan:
            before.put_back(model)
            model._switch.take_back(others)
        else:
            # the model was moved, or its numbers of steps were set
            model._switch.set_aside()
            model.emit_again()


def refuse_recording(model: ModelCore, what: str) -> None:
    """Raise an error if values are being recorded; `what` names the feature that does not support it.

    Raises:
        ValueError: they are.
    """
    if model._taps is not None:
        raise ValueError(f"{what}: not inside of composer.record, which is recording this model")


def _matching(patterns: Iterable[str], known: Mapping[str, Named]) -> Iterator[str]:
    """Yield the known names that match patterns, in their order."""
    patterns = [*patterns]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"{pattern}: expected a value of the model{_hint(pattern, known)}")
    return (name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns))


def _key(key: str | tuple[str, StepKey], known: Mapping[str, Named]) -> tuple[str, Step | None]:
    name, step = (key, None) if isinstance(key, str) else key
    if name not in known:
        raise ValueError(f"replace: {name}: expected a value of the model{_hint(name, known)}")
    if step is not None and len(_step(step)) != known[name].stages:
        raise ValueError(
            f"replace: {name}: expected a step of {known[name].stages} numbers, "
            f"one for each stage, got {step}"
        )
    return name, None if step is None else _step(step)


def _hint(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, [*known], 1)
    return f" (did you mean {close[0]}?)" if close else "; composer.value_names(model) lists them"


def _step(step: StepKey) -> Step:
    return (step,) if isinstance(step, int) else tuple(step)


def _step_key(step: Sequence[int]) -> StepKey:
    return step[0] if len(step) == 1 else tuple(step)


def _replaced(replacement: Replacement, name: str, step: Step, value: Tensor) -> Tensor:
    made = (
        replacement
        if isinstance(replacement, Tensor)
        else replacement(value, _step_key(step) if step else None)
    )
    at = f" at step {_step_key(step)}" if step else ""
    if not isinstance(made, Tensor):
        raise ValueError(f"replace: {name}{at}: expected a tensor, got {type(made).__name__}")
    if (made.shape, made.dtype, made.device) != (value.shape, value.dtype, value.device):
        raise ValueError(f"replace: {name}{at}: expected {_text(value)}, got {_text(made)}")
    return made


def _text(tensor: Tensor) -> str:
    return f"{[*tensor.shape]} of {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"

"""The model that is inspected, with the held-out sequences it is shown, and passes that measures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import LoopIndex, Value
from blocks.ir.walk import operations
from composer.graph.passes.lowered import lowered
from composer.graph.taps.names import STATE_IN, local_names, value_names
from composer.inspect.base.left_out import LeftOut
from composer.inspect.base.score import Score, Targets, kl, score
from composer.language.schema.spec import Spec
from composer.module.model import ComposedModel
from composer.module.record import Recording, Replacements, record
from composer.training.evaluate import autocast


@dataclass(frozen=True)
class Place:
    """An operation in the graph of a model as lowered.

    Attributes:
        name: its name in its graph; with `path` in front the start of the names of its outputs.
        graph: the graph that it is in.
        loops: the loops around it, outermost first, with the names of their nodes.
        around: the graphs that these are in.
    """

    name: str
    path: str
    graph: Graph
    loops: tuple[tuple[str, Loop], ...] = ()
    around: tuple[Graph, ...] = ()

    @property
    def tied(self) -> bool:
        """Whether all its executions share one set of weights."""
        return all(loop.tied for _, loop in self.loops)

    def named(self, value: Value) -> str:
        """Return the full name of a value of its graph."""
        return f"{self.path}{local_names(value.node, self.graph.node(value.node).types)[value.output]}"

    def maker(self, value: Value) -> str:
        """Return the full name of a value of its graph as it is called where it is made, outside of loops."""
        graphs, names = [*self.around, self.graph], [name for name, _ in self.loops]
        while names and value.node in graphs[-1].inputs:
            position = graphs.pop().inputs.index(value.node)
            value = graphs[-1].node(names.pop()).inputs[position]
        path = "".join(f"{name}." for name in names)
        return Place(value.node, path, graphs[-1]).named(value)

    def weight(self, name: str, layers: tuple[int, ...]) -> str:
        """Return the full name of a weight of its graph; `layers` are the numbers of untied steps around."""
        numbers, parts = iter(layers), []
        for node, loop in self.loops:
            parts.append(f"{node}.step." if loop.tied else f"{node}.layers.{next(numbers)}.")
        return f"{''.join(parts)}{name}"


@dataclass(frozen=True)
class LensScore:
    """What the lens says of one state: its scores, and its divergence from that of the state before."""

    score: Score
    kl: float | None


class Subject:
    """A model with what it is shown.

    Attributes:
        tokens: [batch, sequence].
        targets: what is scored.
        stage: the place of the stage whose steps are looked at: of the recurrent ones, else of all, the one
            with the most steps.
        steps: how many steps it has.
    """

    def __init__(
        self, name: str, model: ComposedModel, tokens: Tensor, targets: Tensor, group: Tensor
    ) -> None:
        self.name, self.model = name, model.eval()
        self.spec: Spec = model.spec
        self.tokens = tokens.to(model.device)
        data: Any = self.spec.train.data if self.spec.train else None
        names: Mapping[int, str] = (data.group_names if data else None) or {}
        group = group.to(model.device)
        present = {*group.tolist()}
        self.targets = Targets(
            targets.to(model.device),
            group,
            {number: name for number, name in names.items() if number in present},
        )
        number = max(
            range(len(self.spec.stages)), key=lambda n: (self.spec.stages[n].tied, self.spec.stages[n].trips)
        )
        self.stage, self.recurrent = f"stages.{number}", self.spec.stages[number].tied
        self.steps = self.spec.stages[number].trips

    @cached_property
    def graph(self) -> Graph:
        """The graph of the model as lowered."""
        return lowered(self.spec)

    def places(self, *kinds: type) -> list[Place]:
        """Return where operations of some kinds stand, in the order in which they run."""
        return [*_places(Place("", "", self.graph), kinds)]

    @contextmanager
    def recorded(
        self, *names: str, replace: Replacements | None = None, internal: tuple[str, ...] = ()
    ) -> Iterator[Recording]:
        """Record values of passes, which run without gradients and in the precision of the spec."""
        with (
            torch.no_grad(),
            autocast(self.model),
            record(self.model, names, replace=replace, internal=internal) as recording,
        ):
            yield recording

    def run(self, steps: Mapping[str, int] | None = None) -> Tensor:
        """Return the logits of a pass, [batch, sequence, vocab]."""
        with torch.no_grad(), autocast(self.model):
            return self.model(self.tokens, steps=steps)  # type: ignore[no-any-return]

    def check_state(self) -> None:
        """Check that the steps of the stage hand on a state.

        Raises:
            LeftOut: they do not, since what they read is mixed from the outputs of all earlier steps.
        """
        if self.stage not in value_names(self.spec):
            raise LeftOut(
                f"The steps of {self.stage} hand on no state: each reads all earlier outputs, mixed."
            )

    @cached_property
    def states(self) -> Tensor:
        """The state before the first step of the stage and after each: [steps + 1, batch, sequence, ...]."""
        self.check_state()
        inside = f"{self.stage}.{STATE_IN}"
        with self.recorded(self.stage, inside) as recording:
            self.model(self.tokens)
        return torch.cat([recording[inside, 0].unsqueeze(0), recording[self.stage]])

    def lens(self) -> Iterator[Tensor]:
        """Yield the logits as if each state of `states` were the last, one after the other."""
        shown = [self.states[0]]
        with self.recorded(replace={(self.stage, self.steps - 1): lambda value, step: shown[0]}):
            for state in self.states[:-1]:
                shown[0] = state
                yield self.model(self.tokens)
        yield self.run()

    @cached_property
    def said(self) -> list[LensScore]:
        """What the lens says, state by state; logits of large vocabularies are not kept."""
        made: list[LensScore] = []
        before: Tensor | None = None
        for logits in self.lens():
            moved = None if before is None else kl(logits, before)[self.targets.scored].double().mean().item()
            made.append(LensScore(score(logits, self.targets), moved))
            before = logits
        return made

    @property
    def step_names(self) -> list[str]:
        """What the states are called: `in` before the first step, then the steps from 1 on."""
        return ["in", *map(str, range(1, self.steps + 1))]


def at_step(index: LoopIndex, steps: Mapping[str, int], trips: Mapping[str, int]) -> int:
    """Return an index where the loops around are at some steps, of as many as there are."""
    grown = sum(stride * steps[loop] for loop, stride in index.strides)
    return index.base + grown + sum(each.at(steps[each.loop], trips[each.loop]) for each in index.counts)


def _places(at: Place, kinds: tuple[type, ...]) -> Iterator[Place]:
    for name, operation, _ in operations(at.graph):
        if isinstance(operation, Loop):
            loops, around = (*at.loops, (name, operation)), (*at.around, at.graph)
            yield from _places(Place("", f"{at.path}{name}.", operation.body, loops, around), kinds)
        elif isinstance(operation, kinds):
            yield Place(name, at.path, at.graph, at.loops, at.around)

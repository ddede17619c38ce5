"""Recomputation in the backward pass of one execution of a body, and when recomputed values are freed."""

from __future__ import annotations

from blocks.ir.numbers import total
from blocks.ir.operation import Value
from composer.costs.memory.ledger import Ledger
from composer.costs.memory.memory_model import Body
from composer.costs.memory.operation_memory import Batch, Step, Trips


class Reruns:
    """Recomputes marked operations, each once, and holds outputs until the last reader has them."""

    def __init__(self, body: Body, ledger: Ledger, batch: Batch, trips: Trips, where: str) -> None:
        self._body, self._ledger = body, ledger
        self._batch, self._trips, self._where = batch, trips, where
        self._inside: dict[str, float] = {}  # bytes that operations keep inside, by their nodes
        self._values: dict[Value, float] = {}
        self._takers = {value: set(takers) for value, takers in body.takers.items()}

    def remake(self, value: Value) -> None:
        """Recompute a value, unless it was saved or is alive."""
        if maker := self._maker(value):
            self.run(maker)

    def run(self, step: Step) -> None:
        """Recompute an operation after those it reads from; iterative, because chains are long."""
        waiting = [(step, iter(step.sources))] if step.node not in self._inside else []
        while waiting:
            now, sources = waiting[-1]
            value = next(sources, None)
            if value is None:
                waiting.pop()
                self._run(now)
            elif (maker := self._maker(value)) and maker.node not in self._inside:
                waiting.append((maker, iter(maker.sources)))

    def done(self, number: int) -> None:
        """Free what only the backward pass of a step, which is over, still needed."""
        self._ledger.add("recomputed", -self._inside.pop(self._body.steps[number].node, 0))
        for value in self._body.drops.get(number, ()):
            self._take(value, number)

    def _run(self, step: Step) -> None:
        needs = step.at(self._batch, self._trips)
        self._ledger.moment(("recomputing ", self._where, step.node), needs.workspace.forward)
        self._inside[step.node] = needs.inside
        made = {value: self._body.remade[value] for value in step.made_again if self._takers[value]}
        self._values.update(made)
        self._ledger.add("recomputed", needs.inside + total(made.values()))
        for value in step.sources:
            self._take(value, step.node)

    def _take(self, value: Value, taker: int | str) -> None:
        """Free a recomputed value once all its readers have taken it."""
        if (takers := self._takers.get(value)) is None:
            return
        takers.discard(taker)
        if not takers:
            self._ledger.add("recomputed", -self._values.pop(value, 0))

    def _maker(self, value: Value) -> Step | None:
        """Return the operation that recomputes a value; None if the value is saved."""
        maker = self._body.makers.get(value.node)
        return maker if maker and maker.again and value not in self._body.kept else None

"""The peak of training memory, found by replaying the tensors alive during one training step.

The forward pass is walked in order, then the backward pass in reverse, with every byte that is alive:
weights and optimizer states, gradients as they appear, saved tensors, other live values and gradients, depth
slots, and the workspace of each operation. Loops are not unrolled: the bytes saved by the trips before a
given one have a closed form, and the bytes alive at an operation are convex in the trip, so the peak is at
the first, the last or the last but one trip. All of it is arithmetic that does not compare sizes, so it can
be traced.
"""

from __future__ import annotations

from collections.abc import Iterator

from blocks.ir.graph import Graph, Loop
from blocks.ir.numbers import largest, smallest, total
from blocks.ir.operation import Value
from blocks.kernels.slots import DepthCache, SlotWrite
from composer.costs.memory.corners import corners, during, words
from composer.costs.memory.gradients import Added, Given, Gradient, Gradients, Made, Turn, added_to
from composer.costs.memory.ledger import Account, Ledger, Moment
from composer.costs.memory.memory_model import Body, bodies_of
from composer.costs.memory.operation_memory import Batch, Step, Trips, value_bytes
from composer.costs.memory.reruns import Reruns
from composer.costs.memory.saved_tensors import bytes_of
from composer.costs.memory.update import update_of
from composer.costs.memory.widening import widen
from composer.language.schema.spec import Train

Words = tuple[str, ...]


def peak(graph: Graph, batch: Batch, train: Train | None = None) -> float:
    """Return the peak of bytes alive in a training step on one micro-batch, after the first step.

    `train` gives the optimizer, by default AdamW.
    """
    ledger = Ledger()
    _Replay(graph, batch, ledger, train).run()
    return largest(*ledger.totals)


def moments(graph: Graph, batch: Batch, train: Train | None = None) -> list[Moment]:
    """Return the candidate moments for the peak in order."""
    account = Account()
    _Replay(graph, batch, account, train).run()
    return account.moments


class _Replay:
    def __init__(self, graph: Graph, batch: Batch, ledger: Ledger, train: Train | None) -> None:
        self.batch, self.ledger = batch, ledger
        self.roots = bodies_of(graph, batch)
        self.update = update_of(graph, train, batch.size.weight)

    def run(self) -> None:
        """Replay one step, from its start to the optimizer update."""
        root, ledger = self.roots[0], self.ledger
        graph = root.graph
        ledger.add("weights", root.weights)
        ledger.add("optimizer", self.update.states)
        ledger.add("average", self.update.average)
        ledger.add("prepared", root.prepared)
        # tokens and targets
        ledger.add(
            "activations",
            self.batch.tokens * total(bytes_of(graph, Value(n), root.sizes) for n in graph.inputs),
        )
        names = ("", "second pass: ")
        for body, where in zip(self.roots, names, strict=False):
            self._forward(body, {}, where)
        ledger.add("in_flight", -self._handed(root))
        # the backward pass of the last pass comes first; weights are counted with the first pass
        last = len(self.roots) - 1
        for number in range(last, -1, -1):
            body, turn = self.roots[number], Turn(smallest(2, last - number), int(number == 0), 0, {})
            self._backward(body, {}, names[number], turn, {body.graph.outputs[-1]: Gradient(0)})
        if self.batch.size.compute < self.batch.size.weight:
            widen(root, ledger)
        ledger.moment(("update of the weights",), self.update.workspace)

    def _handed(self, body: Body) -> float:
        """Return the bytes that a pass keeps only for the next pass."""
        handed = body.graph.trained[:-1]
        sizes = (bytes_of(body.graph, value, body.sizes) for value in handed if value not in body.kept)
        return self.batch.tokens * total(sizes)

    # bytes saved by trips

    def _kept(self, body: Body, trips: Trips) -> float:
        """Return the bytes saved by one execution of a body, averaged over trips."""
        kept = body.constant
        for step in body.steps:
            if step.varies and step.inside:
                kept = kept + step.at(self.batch, trips).inside
        for inner in body.inner.values():
            kept = kept + self._trips(inner, inner.trips, trips)
        return kept

    def _trips(self, body: Body, count: int, trips: Trips) -> float:
        """Return the bytes saved by the first `count` trips of a loop, without the input of the first."""
        return count * self._kept(body, {**trips, body.index: count}) + (count - 1) * body.keeps_state

    # forward

    def _forward(self, body: Body, trips: Trips, where: str) -> None:
        ledger = self.ledger
        for step in body.steps:
            operation = step.operation
            if isinstance(operation, Loop):
                self._forward_loop(body.inner[step.node], step, trips, where)
            elif isinstance(operation, DepthCache):
                ledger.add("depth_slots", self._slots(operation, self.batch.size.compute))
            else:
                needs = step.at(self.batch, trips)
                ledger.moment(("forward of ", where, step.node), needs.workspace.forward)
                if step.inside:
                    ledger.add("activations", needs.inside)
            kept, in_flight = step.made
            ledger.add("activations", kept)
            ledger.add("in_flight", in_flight - step.dies)

    def _forward_loop(self, body: Body, step: Step, trips: Trips, where: str) -> None:
        """Replay the last trip, which has the most bytes alive, then add what all trips save."""
        ledger, before, last = self.ledger, self.ledger.state(), body.trips - 1
        slots = 0 if body.frozen else body.slots  # those of a step without gradients are freed with it
        ledger.add("activations", self._trips(body, last, trips) + body.keeps_state)
        ledger.add("in_flight", smallest(1, last) * body.states_in_flight + last * body.collected_in_flight)
        ledger.add("depth_slots", last * slots)
        self._forward(body, during(trips, body, last), f"{where}{words(step, last)}: ")
        ledger.restore(before)
        ledger.add("activations", self._trips(body, body.trips, trips))
        ledger.add("depth_slots", body.trips * slots)

    # backward

    def _backward(self, body: Body, trips: Trips, where: str, turn: Turn, gradients: Gradients) -> None:
        """Replay a body in reverse, from the gradients of its outputs to those of its inputs."""
        ledger = self.ledger
        seen = dict.fromkeys(body.used_after, 0)
        for step in body.steps:
            if isinstance(step.operation, DepthCache):
                turn.slots[step.node] = self._slots(step.operation, 4)
        again = Reruns(body, ledger, self.batch, trips, where)
        for number in reversed(range(len(body.steps))):
            step, made = body.steps[number], Made()
            for value in step.reads:
                again.remake(value)
            if isinstance(step.operation, Loop):
                self._backward_loop(body, step, trips, where, turn, gradients)
            elif isinstance(step.operation, SlotWrite) or any(value in gradients for value in step.outputs):
                if step.again:
                    early = self._early(step, trips, gradients)
                    ledger.add("in_flight", early)
                    again.run(step)
                    ledger.add("in_flight", -early)
                made = self._backward_step(body, step, trips, where, turn, gradients, seen)
            if step.inside:
                ledger.add("activations", -step.at(self.batch, trips).inside)
            again.done(number)
            states = turn.given * body.frees_state.get(number, 0)
            ledger.add("activations", -body.frees.get(number, 0) - states)
            # autograd frees what an operation saved before it passes gradients on
            self._pass_on(body, made, gradients, ("backward of ", where, step.node))

    def _early(self, step: Step, trips: Trips, gradients: Gradients) -> float:
        """Return the growth of gradients before a recomputed step runs again."""
        early = step.at(self.batch, trips).workspace.early
        given = (gradients[value] for value in step.outputs if value in gradients)
        return early - total(each.bytes for each in given if each.values == 1) if early else 0.0

    def _backward_step(
        self,
        body: Body,
        step: Step,
        trips: Trips,
        where: str,
        turn: Turn,
        gradients: Gradients,
        seen: dict[str, int],
    ) -> Made:
        """Replay one operation; return the gradients of its inputs."""
        ledger, what, workspace = (
            self.ledger,
            ("backward of ", where, step.node),
            step.at(self.batch, trips).workspace,
        )
        for name in step.slots:
            ledger.add("depth_slots", turn.slots.pop(name, 0))
        given = [gradients.pop(value) for value in step.outputs if value in gradients]
        # what the workspace counts as gone in the end stays where the gradients of other values lie there too
        shared = 0 if workspace.until_end else total(each.bytes for each in given if each.values > 1)
        ledger.moment(what, workspace.backward + shared)
        added = Added()
        if step.weights:
            new = turn.first * total(size for name, size in step.weights if name not in seen)
            added = added_to(step, turn, seen)
            ledger.moment((*what, ", weights"), workspace.weights + shared + new + added.beside)
            ledger.add("gradients", new)
        ledger.add("prepared", -turn.last * step.prepared)
        made = list(self._made(body, step, given))
        for each in given:
            self._drop(each)
        return Made(made, turn.last * step.late, added.copied)

    def _pass_on(self, body: Body, made: Made, gradients: Gradients, what: Words) -> None:
        if made.copied is not None:
            self.ledger.moment((*what, ", adding up weights"), made.copied)
        for value, each in made.gradients:
            self._arrive(body, gradients, value, each, what)
        if self.batch.size.compute < self.batch.size.weight:
            self.ledger.add("gradients", made.late)
            self.ledger.moment((*what, ", weights widened"), made.late)

    def _made(self, body: Body, step: Step, given: list[Gradient]) -> Iterator[tuple[Value, Gradient]]:
        """Yield the gradients of a step's inputs while they are alive."""
        kind = step.operation.gradients
        if kind == "joint":
            shared = self._new(total(size for _, size in step.wants), len(step.wants))
            yield from ((value, shared) for value, _ in step.wants)
            return
        for value, size in step.wants:
            if kind == "passed" and body.sizes[value] == body.sizes[step.outputs[0]]:
                given[0].values += 1
                yield value, given[0]
            else:
                yield value, self._new(size)

    def _new(self, size: float, values: int = 1) -> Gradient:
        self.ledger.add("in_flight", size)
        return Gradient(size, values)

    def _drop(self, gradient: Gradient) -> None:
        gradient.values -= 1
        if not gradient.values:
            self.ledger.add("in_flight", -gradient.bytes)

    def _arrive(self, body: Body, gradients: Gradients, value: Value, new: Gradient, what: Words) -> None:
        """Accumulate a gradient of a value: in place, unless its storage is shared with other gradients."""
        old = gradients.setdefault(value, new)
        if old is new:
            return
        if old.values == 1:
            self.ledger.moment((*what, ", adding up"), 0)
        else:
            gradients[value] = self._new(self.batch.tokens * value_bytes(body.graph, value, body.sizes))
            self.ledger.moment((*what, ", adding up"), 0)
            self._drop(old)
        self._drop(new)

    def _backward_loop(
        self, body: Body, step: Step, trips: Trips, where: str, turn: Turn, gradients: Gradients
    ) -> None:
        """Replay the trips that may contain the peak, then add what all trips leave."""
        ledger, inner = self.ledger, body.inner[step.node]
        given = [gradients.pop(value, None) for value in step.outputs]
        if inner.frozen:
            for gradient in filter(None, given):
                self._drop(gradient)
            return
        slots = self._untouched(body, step, inner, turn)
        everything = self._trips(inner, inner.trips, trips)
        for number, trip in enumerate(corners(inner, step)):
            before, done = ledger.state(), inner.trips - 1 - trip
            ledger.add("activations", self._trips(inner, trip + 1, trips) - everything)
            enter = self._enter if number else self._start
            passed = enter(inner, step, given, done, turn, slots)
            self._collected(inner, given, done, passed, ("backward of ", where, step.node))
            there = Turn(
                smallest(2, turn.uses * inner.trips + done) if inner.tied else turn.uses,
                turn.last * (1 - smallest(1, trip) if inner.tied else 1),
                smallest(1, trip),
                {} if number else dict(slots),
            )
            text = f"{where}{words(step, trip)}: "
            self._backward(inner, during(trips, inner, trip), text, there, passed)
            ledger.restore(before)
        ledger.add("activations", -everything)
        self._leave(inner, turn, slots)
        for name in step.slots:
            turn.slots.pop(name, None)
        for each in given:
            if each is not None:
                self._drop(each)
        for value, size in step.wants:
            self._arrive(body, gradients, value, self._new(size), ("backward of ", where, step.node))

    def _start(self, inner: Body, step: Step, given: Given, *_: object) -> Gradients:
        """Return the gradients with which the last trip starts."""
        outputs = zip(inner.graph.outputs[: inner.graph.carried], given, strict=False)
        return {value: Gradient(each.bytes, each.values) for value, each in outputs if each is not None}

    def _collected(self, inner: Body, given: Given, done: int, gradients: Gradients, what: Words) -> None:
        """Add the gradients of one trip's collected values; those of finished trips are freed."""
        for (value, size), each in zip(inner.collected, given[inner.graph.carried :], strict=True):
            if each is not None:
                own = each.values == 1
                self.ledger.add("in_flight", -done * size if own else 0)
                self._arrive(inner, gradients, value, Gradient(size if own else 0), what)

    def _enter(
        self, inner: Body, step: Step, given: Given, done: int, turn: Turn, slots: dict[str, float]
    ) -> Gradients:
        """Add what the finished trips left; return the gradients with which the next one starts.

        With no finished trip, which can be a corner as well, nothing is added.
        """
        ledger, graph, some = self.ledger, inner.graph, smallest(1, done)
        ledger.add("gradients", turn.first * (some if inner.tied else done) * inner.gradients)
        gone = 0 if inner.tied else turn.last * done
        ledger.add("gradients", gone * inner.late)
        ledger.add("prepared", -gone * inner.prepared)
        ledger.add("depth_slots", done * inner.slot_gradients + some * total(slots.values()))
        by_output = dict(zip(graph.outputs[: graph.carried], given, strict=False))
        for value, size in inner.states:
            start = by_output[value]
            if start is None or start.values > 1:
                # a gradient given from outside, if any, stays beside
                ledger.add("in_flight", some * size)
        names = dict(zip(step.inputs[graph.carried :], graph.inputs[graph.carried :], strict=True))
        captured = {
            Value(names[value]): self._new(some * size) for value, size in step.wants[len(inner.states) :]
        }
        return {value: Gradient(size) for value, size in inner.states} | captured

    def _leave(self, inner: Body, turn: Turn, slots: dict[str, float]) -> None:
        """Add what all trips leave."""
        copies = 1 if inner.tied else inner.trips
        self.ledger.add("gradients", copies * (turn.first * inner.gradients + turn.last * inner.late))
        self.ledger.add("prepared", -turn.last * copies * inner.prepared)
        self.ledger.add("depth_slots", inner.trips * inner.slot_gradients + total(slots.values()))

    # depth slots

    def _slots(self, slots: DepthCache, size: int) -> float:
        return size * self.batch.tokens * slots.elements()

    def _untouched(self, body: Body, step: Step, inner: Body, turn: Turn) -> dict[str, float]:
        """Return the bytes of gradients of slots that this loop touches first, by its inputs."""
        return {
            name: turn.slots[value.node]
            for value, name in zip(step.inputs, inner.graph.inputs, strict=True)
            if value.node in turn.slots and body.graph.type_of(value).kind == "depth_cache"
        }

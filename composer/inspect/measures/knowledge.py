"""Knowledge across depth: what is lost without an expert, a step or a slot, and at which difficulty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blocks.depth_attention.operations import WriteKV
from blocks.expert_attention.operations import Experts
from composer.graph.taps.names import STATE_IN
from composer.inspect.base.left_out import LeftOut
from composer.inspect.base.measure import Measure, Result, Tell
from composer.inspect.base.routing import loads, routings
from composer.inspect.base.score import Score, score
from composer.inspect.base.subject import Place, Subject
from composer.inspect.base.views import Choice, Heat, Note, View
from composer.module.emission.lookup import held_tensor

MOST = 24
"""Most experts that are taken away one after the other, the busiest first."""


@dataclass(frozen=True)
class Ablation:
    """What is taken away in turn: names, and what scores the model without each."""

    kind: str
    names: list[str]
    run: Callable[[int], Tensor]


def run(subject: Subject, tell: Tell) -> Result:
    """Score the model without each step, slot and expert."""
    whole = score(subject.run(), subject.targets)
    kinds, notes = [], []
    for make in (_steps, _slots, _experts):
        try:
            kinds += make(subject)
        except LeftOut as reason:
            notes.append(str(reason))
    total, done = sum(len(each.names) for each in kinds), 0
    values: dict[str, Any] = {"accuracy": whole.accuracy, "loss": whole.loss, "left out": notes}
    views: dict[str, View] = {}
    for each in kinds:
        lost = []
        for number in range(len(each.names)):
            lost.append(score(each.run(number), subject.targets))
            done += 1
            tell(done, total)
        values[each.kind] = {
            name: {"accuracy": score.accuracy, "loss": score.loss}
            for name, score in zip(each.names, lost, strict=True)
        }
        views[each.kind] = _heat(each, whole, lost)
    return Result(values, [Choice("Without", views), *map(Note, notes)])


def _heat(each: Ablation, whole: Score, lost: list[Score]) -> View:
    groups = [*whole.accuracy]
    cells = [[whole.accuracy[group] - score.accuracy[group] for group in groups] for score in lost]
    kind = each.kind.removesuffix("s")
    return Heat(
        f"Accuracy lost without one {kind}", kind, "difficulty", each.names, groups, cells, share=True
    )


def _steps(subject: Subject) -> list[Ablation]:
    subject.check_state()
    stage, inside = subject.stage, f"{subject.stage}.{STATE_IN}"

    def without(step: int) -> Tensor:
        with subject.recorded(
            inside, replace={(stage, step): lambda value, at: replaced[inside, step]}
        ) as replaced:
            return subject.model(subject.tokens)  # type: ignore[no-any-return]

    return [Ablation("steps", [str(step + 1) for step in range(subject.steps)], without)]


def _slots(subject: Subject) -> list[Ablation]:
    places = [place for place in subject.places(WriteKV) if place.loops]
    if not places:
        raise LeftOut("No slots: the model has no depth attention.")
    alone = [place for place in places if _own_value(place) and len(place.loops) == 1]
    if not alone:
        raise LeftOut("No slots: their values are those of sequence attention too, or stages are nested.")
    made = []
    for place in alone:
        name = place.named(place.graph.node(place.name).inputs[1])
        own = f" of {place.path}{place.name.rpartition('.')[0]}" if len(alone) > 1 else ""

        def without(step: int, name: str = name) -> Tensor:
            with subject.recorded(replace={(name, step): lambda value, at: _mean(value)}):
                return subject.model(subject.tokens)  # type: ignore[no-any-return]

        made.append(Ablation(f"slots{own}", [str(n + 1) for n in range(place.loops[0][1].trips)], without))
    return made


def _own_value(place: Place) -> bool:
    value = place.graph.node(place.name).inputs[1]
    return place.graph.readers(value) == [place.name]


def _mean(value: Tensor) -> Tensor:
    """Return the mean over all tokens in the place of each token's value."""
    return value.mean((0, 1), keepdim=True).expand_as(value).contiguous()


def _experts(subject: Subject) -> list[Ablation]:
    try:
        routing_of = {each.place.name: each for each in routings(subject) if each.tied}
    except LeftOut as reason:
        raise LeftOut(f"No experts: {reason}") from None
    places = [place for place in subject.places(Experts) if place.tied]
    if not places:
        raise LeftOut("No experts: layers have experts of their own, and each is used at one layer only.")
    made = []
    for place in places:
        node = place.graph.node(place.name)
        routing = routing_of[node.inputs[1].node]
        load = loads(routing.chosen, routing.experts).mean(0)
        busiest = sorted(load.argsort(descending=True)[: MOST // len(places)].tolist())
        down = held_tensor(subject.model, place.weight(node.weights[1], ()))
        own = f" of {routing.name}" if len(places) > 1 else ""

        def without(number: int, down: Tensor = down, busiest: list[int] = busiest) -> Tensor:
            with silenced(down, busiest[number]):
                return subject.run()

        made.append(Ablation(f"experts{own}", [str(expert + 1) for expert in busiest], without))
    return made


@contextmanager
def silenced(down: Tensor, expert: int) -> Iterator[None]:
    """Let one of the experts whose second weights are `down` [experts, ..] return zero."""
    kept = down[expert].detach().clone()
    with torch.no_grad():
        down[expert] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            down[expert] = kept


MEASURE = Measure(
    "knowledge",
    60,
    "Knowledge",
    "What is lost without a step, a slot or an expert",
    (
        "A cell is how much accuracy falls, in percent of the targets of that difficulty, when one part "
        "is taken away. The loss is in the JSON.",
        "Without a step: the state passes by it unchanged; what the step writes for later ones, such as "
        "its slot, stays. Without a slot: the value that depth attention wrote at that step is the same "
        "for every token, the mean over all of them; its key stays. Without an expert: it returns zero "
        f"at every step; routing and weights stay. Of many experts the {MOST} busiest are taken away.",
    ),
    run,
)

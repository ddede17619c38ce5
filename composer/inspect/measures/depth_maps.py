"""Depth attention: which earlier steps a step reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blocks.depth_attention.operations import Attend
from blocks.depth_attention.reference import attended, distances, slots_read
from blocks.depth_attention.windowed import BiasedAttend, WindowedAttend
from blocks.kernels.slot_memory import SlotMemory
from composer.inspect.base.left_out import LeftOut
from composer.inspect.base.measure import Measure, Result, Tell
from composer.inspect.base.score import ALL
from composer.inspect.base.subject import Place, Subject, at_step
from composer.inspect.base.views import Choice, Heat, Rows, View


@dataclass(frozen=True)
class Map:
    """The weights of one use of depth attention.

    Attributes:
        readers: the step of each reading.
        weights: [readers, batch, sequence, heads, slots]; slots that are not read have none.
    """

    readers: list[str]
    weights: Tensor


def run(subject: Subject, tell: Tell) -> Result:
    """Compute the weights of every read from its query and the slots."""
    places = subject.places(Attend)
    if not places:
        raise LeftOut("The model has no depth attention.")
    values: dict[str, Any] = {}
    views: list[View] = []
    for done, place in enumerate(places):
        weights_map = depth_map(subject, place)
        values[f"{place.path}{place.name}"], shown = _values_and_views(subject, place, weights_map)
        views += shown
        tell(done + 1, len(places))
    return Result(values, views)


def depth_map(subject: Subject, place: Place) -> Map:
    """Return what a depth attention weighs slots by, at every step."""
    operation, node = place.graph.node(place.name).op, place.graph.node(place.name)
    assert isinstance(operation, Attend)
    query, memory = place.named(node.inputs[0]), place.maker(node.inputs[2])
    with subject.recorded(query, internal=(memory,)) as recording:
        subject.model(subject.tokens)
    memories = recording.all_steps(memory)
    trips = {loop.index: loop.trips for _, loop in place.loops}
    rows, readers = [], []
    for step, asked in recording.all_steps(query).items():
        kept = next(each for at, each in memories.items() if step[: len(at)] == at)
        reads = at_step(operation.reads, dict(zip(trips, step, strict=True)), trips)
        rows.append(_weights(subject, place, operation, asked, kept, reads, step))
        readers.append(".".join(str(number + 1) for number in step))
    return Map(readers, torch.stack(rows))


def _weights(
    subject: Subject,
    place: Place,
    operation: Attend,
    query: Tensor,
    memory: SlotMemory,
    reads: int,
    step: tuple[int, ...],
) -> Tensor:
    """Return the weights of one read: [batch, sequence, heads, slots]."""
    heads, slots = query.shape[2], len(memory.keys)
    made = query.new_zeros(slots, *query.shape[:2], heads, dtype=torch.float32)
    if not reads:
        return made.movedim(0, -1)
    part, far = slice(reads), None
    if isinstance(operation, WindowedAttend):
        part = slots_read(reads, operation.window, operation.stride)
        if isinstance(operation, BiasedAttend):
            untied = tuple(at for at, (_, loop) in zip(step, place.loops, strict=True) if not loop.tied)
            name = place.weight(place.graph.node(place.name).weights[0], untied)
            bias = subject.model.state_dict()[name]
            far = distances(bias, part, heads // operation.kv_heads)
    _, weights = attended(query, memory.keys[part], memory.values[part], far)
    made[part] = weights.flatten(3)
    return made.movedim(0, -1)


def _values_and_views(subject: Subject, place: Place, weights_map: Map) -> tuple[dict[str, Any], list[View]]:
    slots = weights_map.weights.shape[-1]
    names = _slot_names(place, slots)
    scored = subject.targets.masks()
    # of each group: [readers, heads, slots]
    means = {group: weights_map.weights[:, mask].mean(1) for group, mask in scored.items()}
    maps = {"all heads" if group == ALL else f"all heads, {group}": m.mean(1) for group, m in means.items()}
    maps |= {f"head {number + 1}": each for number, each in enumerate(means[ALL].unbind(1))}
    heats: dict[str, View] = {
        name: Heat(
            f"{place.path}{place.name.rpartition('.')[0]}: {name}",
            "read at step",
            "written at",
            weights_map.readers,
            names,
            [[value if value > 0 else None for value in row] for row in each.tolist()],
            share=True,
            top=1.0,
        )
        for name, each in maps.items()
    }
    entropy = _entropy(weights_map.weights[:, scored[ALL]]).mean(1)  # [readers, heads]
    rows = [
        [reader, *(f"{value:.2f}" for value in each)]
        for reader, each in zip(weights_map.readers, entropy.exp().tolist(), strict=True)
    ]
    values = {
        "readers": weights_map.readers,
        "slots": names,
        "weights": {group: each.movedim(1, 0).tolist() for group, each in means.items()},
        "slots read": entropy.exp().tolist(),
    }
    return values, [
        Choice("Weights", heats),
        Rows(["slots read at step", *(f"head {n + 1}" for n in range(entropy.shape[1]))], rows),
    ]


def _entropy(weights: Tensor) -> Tensor:
    made: Tensor = -torch.special.xlogy(weights, weights).sum(-1)
    return made


def _slot_names(place: Place, slots: int) -> list[str]:
    """Name slots by the step that writes them; those written before are called `in`."""
    steps = 1
    for _, loop in place.loops:
        steps *= loop.trips
    if len(place.loops) == 1 and 0 <= slots - steps <= 1:
        return ["in"] * (slots - steps) + [str(step + 1) for step in range(steps)]
    return [f"#{slot + 1}" for slot in range(slots)]


MEASURE = Measure(
    "depth_attention",
    30,
    "Depth attention",
    "Which steps read which",
    (
        "Each token reads its own slots, one written at each step. A row is the step that reads, a "
        "column the slot by the step that wrote it (`in`: the input of the stage), a cell the mean "
        "attention weight over all scored targets; rows add up to 100 %, and what is not read is empty. "
        "The weights are computed from the recorded queries and slots by the reference.",
        "Slots read, in the table: the exponential of the entropy of a token's weights, averaged in the "
        "exponent over the targets. 1 means that one slot is read. The maps of single heads by difficulty "
        "are in the JSON.",
    ),
    run,
)

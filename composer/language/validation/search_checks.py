"""Checks of a search against its candidates: metrics, rungs, devices for time."""

from __future__ import annotations

from collections.abc import Iterator

from blocks.base.invalid import independent
from composer.data.base.config import DataConfig
from composer.language.schema.caps import Caps
from composer.language.schema.search import FlopRungs, Objective, SearchConfig
from composer.language.schema.spec import Train
from composer.language.validation.partial import partial
from composer.language.validation.validate import build
from composer.measures.registry import MEASURES
from composer.settings.errors import Fault, shown
from composer.settings.tree import Node, fault_at


def read_search(tree: Node) -> tuple[SearchConfig, list[Fault]]:
    """Read the `search` section of a space; with faults, only what is valid in it is known."""
    node = tree.child("search")
    if node is None:
        expected = "a space, which has a `search:` section"
        fault = tree.fault("search", expected, "nothing", "the key is missing")
        return partial(SearchConfig, {}), [fault]
    if node.live:
        return partial(SearchConfig, {}), [node.fault("search", "plain values", "a choice or ${..}")]
    search = build(SearchConfig, node, "search")
    if isinstance(search, SearchConfig):
        return search, []
    return partial(SearchConfig, node.plain if isinstance(node.value, dict) else {}), search


def against_search(search: SearchConfig, tree: Node, train: Train | None, caps: Caps) -> Iterator[Fault]:
    """Yield what the search of the space `tree` asks for that no training of a candidate can give.

    `train` and `caps` are the candidate's; both may be valid in part only.
    """
    if train is None:
        yield fault_at(tree, ("train",), "training, since a search trains", "nothing", "add train:")
        return
    checks = [_rungs(search, tree, train, caps)]
    for place, objective in _objectives(tree):
        checks += [_device(objective, place, tree, caps), _metric(objective, place, tree, train)]
    yield from independent(*checks)


def metric_fault(objective: Objective, data: DataConfig) -> tuple[str, str, str] | None:
    """Say what is wrong with an objective that training on `data` does not measure: expected, got, hint."""
    name = objective.metric
    if name in MEASURES or name in ("loss", "accuracy"):
        return None
    measured = data.metrics
    if name in measured:
        return None
    # imports all blocks, options and tasks, whose words it knows
    from composer.language.validation.hints import hint_for_metric

    expected = f"a cost, or a metric that the task {data.task} measures"
    return expected, shown(name), hint_for_metric(name, measured, MEASURES)


def _objectives(tree: Node) -> Iterator[tuple[tuple[str | int, ...], Objective]]:
    """Yield the objectives that are valid by themselves, with their paths."""
    section = tree.child("search")
    listed = section.child("objectives") if section else None
    for i, node in enumerate(listed.value if listed and isinstance(listed.value, list) else []):
        objective = build(Objective, node)
        if isinstance(objective, Objective):
            yield ("search", "objectives", i), objective


def _rungs(search: SearchConfig, tree: Node, train: Train, caps: Caps) -> Iterator[Fault]:
    marks = search.marks
    if not marks:
        return
    if isinstance(search.rungs, FlopRungs):
        cap = caps.limit("train_flops")
        # what ends at the cap is not looked at before it
        far, most = cap is not None and marks[-1] >= cap, f"below caps.train_flops ({cap})"
    else:
        far, most = marks[-1] > train.tokens, f"up to train.tokens ({train.tokens})"
    if far:
        yield fault_at(tree, ("search", "rungs"), f"rungs {most}", shown(marks[-1]))


def _device(objective: Objective, place: tuple[str | int, ...], tree: Node, caps: Caps) -> Iterator[Fault]:
    name = objective.metric
    if name in MEASURES and MEASURES[name].on_device and getattr(caps, name) is None:
        hint = f"add caps.{name}: {{device: h100}}, or another device"
        yield fault_at(tree, place, f"a device to estimate {name} for", "none", hint)


def _metric(objective: Objective, place: tuple[str | int, ...], tree: Node, train: Train) -> Iterator[Fault]:
    if isinstance(train.data, DataConfig) and (fault := metric_fault(objective, train.data)):
        yield fault_at(tree, (*place, objective.direction), *fault)

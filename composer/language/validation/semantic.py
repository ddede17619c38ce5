"""Checks beyond types: names, blocks against the width, data against the model, batches.

The checks read the resolved tree as well as the spec, so that a fault elsewhere hides none of these.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, TypeVar

from blocks.base.config import BlockConfig, Config, Problem
from blocks.base.invalid import Unknown, independent
from blocks.base.wiring import WiringConfig
from blocks.ir.numbers import largest
from blocks.wiring.documents import Documents
from composer.data.base.config import DataConfig
from composer.data.base.errors import DataError
from composer.language.schema.caps import Caps
from composer.language.schema.levels import Sublayer, stage_options
from composer.language.schema.spec import Model, Parallel, Spec, Stage, Train, used
from composer.language.schema.steps import MOST_STEPS, all_stages, combinations, path_of, trained_numbers
from composer.language.validation.train_checks import train_faults
from composer.language.validation.uneven_steps import uneven_steps
from composer.language.validation.unread_fields import unread_fields
from composer.language.validation.wiring_checks import wiring_problems
from composer.measures.limits import MemoryLimits
from composer.measures.registry import MEASURES
from composer.settings.errors import Fault, close, shown
from composer.settings.tree import Node, fault_at, join

C = TypeVar("C", bound=Config)

_PLACES = 1000
# the replay of memory looks at three trips of each loop
_PER_NEST = 3
# costs look at each
_COMBINATIONS = 1024
_HINTS = 20


class Parts(NamedTuple):
    """The sections of a spec; of those that are not valid, what is valid in them."""

    model: Model
    blocks: Mapping[str, BlockConfig]
    stages: tuple[Stage, ...]
    caps: Caps
    train: Train | None


def semantic(tree: Node, spec: Spec | None, broken: Collection[str] = ()) -> list[Fault]:
    """Check the tree of `spec`, or, where it makes no spec, whatever in it is sound.

    `broken` are paths that could not be resolved, of which nothing is known.
    """
    parts = (
        valid_parts(tree, broken)
        if spec is None
        else Parts(spec.model, spec.blocks, spec.stages, spec.caps, spec.train)
    )
    unknown = list(undefined(tree))
    checks = [
        *_steps(parts, tree),
        *_blocks(parts, tree),
        *_sources(parts, tree),
        *_wiring(parts, tree),
        *_train(parts, tree),
        *_caps(parts.caps, tree),
        _documents(parts, tree),
    ]
    return [*unknown, *_unused(tree, unknown), *independent(*checks)]


def uses(stages: Node | None, path: str = "stages") -> Iterator[tuple[str, Node]]:
    """Yield each name of a block in a tree of stages, with its path; the stages need not be valid."""
    for i, stage in enumerate(_items(stages)):
        yield from _uses(stage, join(path, i))


def undefined(tree: Node) -> Iterator[Fault]:
    """Find the names in stages that no block has."""
    section = tree.child("blocks")
    if section is None or not isinstance(section.value, dict):
        return
    blocks = section.value
    types = {name: kind.plain if (kind := block.child("type")) else None for name, block in blocks.items()}
    more = f" and {len(blocks) - _HINTS} more" if len(blocks) > _HINTS else ""
    known = f"one of {', '.join(islice(blocks, _HINTS))}{more}" if blocks else "a block; there are none"
    unknown = [(path, node) for path, node in uses(tree.child("stages")) if node.value not in blocks]
    for number, (path, node) in enumerate(unknown):
        from composer.language.validation.hints import hint_for_block

        hint = hint_for_block(node.value, types) if number < _HINTS else ""
        yield node.fault(path, known, shown(node.value), hint)


def unused(block: str) -> str:
    """Say that a block is used nowhere."""
    return f"block {block!r} is defined but never used"


def _unused(tree: Node, unknown: Iterable[Fault]) -> Iterator[Fault]:
    """Find the blocks that no stage uses, where that can be decided; a misspelt use is one fault, not two."""
    if not _readable(tree.child("stages")):
        return
    used = {node.value for _, node in uses(tree.child("stages"))}
    hints = " ".join(fault.hint for fault in unknown)
    for name, block in _mapping(tree.child("blocks")).items():
        if name not in used and not re.search(rf"\b{re.escape(name)}\b", hints):
            path = join("blocks", name)
            yield block.fault(path, unused(name), "", key=True)


def _readable(stages: Node | None) -> bool:
    """Whether all names of blocks in stages can be read: a step that is none might have held any."""
    if stages is None or not isinstance(stages.value, list):
        return False
    for stage in stages.value:
        step = stage.child("step")
        if step is None or not isinstance(step.value, list):
            return False
        for entry in step.value:
            branches = entry.child("parallel")
            if branches is not None:
                if not all(isinstance(name.value, str) for name in _items(branches) or [branches]):
                    return False
            elif (name := entry.child("use")) is not None:
                if not isinstance(name.value, str):
                    return False
            elif not isinstance(entry.value, str) and not _readable(Node([entry], entry.place)):
                return False
    return True


def _uses(stage: Node, path: str) -> Iterator[tuple[str, Node]]:
    for i, entry in enumerate(_items(stage.child("step"))):
        here = join(path, "step", i)
        if isinstance(entry.value, str):
            yield here, entry
        elif (name := entry.child("use")) is not None:
            if isinstance(name.value, str):
                yield join(here, "use"), name
        elif branches := entry.child("parallel"):
            names = enumerate(_items(branches))
            yield from ((join(here, "parallel", j), name) for j, name in names if isinstance(name.value, str))
        else:
            yield from _uses(entry, here)


def _steps(parts: Parts, tree: Node) -> Iterator[Iterator[Fault]]:
    for i, stage in enumerate(parts.stages):
        yield _step(stage, i, tree)
    yield _all_places(parts.stages, tree)
    yield _all_combinations(parts.stages, tree)
    yield _fixed_numbers(parts, tree)
    yield uneven_steps(parts.model, parts.stages, tree)


def _step(stage: Stage, i: int, tree: Node) -> Iterator[Fault]:
    steps = _most_steps(stage)
    if steps > MOST_STEPS:
        expected = f"at most {MOST_STEPS} steps, nested ones multiplied"
        yield fault_at(tree, ("stages", i), expected, shown(steps))


def _all_combinations(stages: Sequence[Stage], tree: Node) -> Iterator[Fault]:
    count = combinations(stages)
    if count > _COMBINATIONS:
        expected = f"at most {_COMBINATIONS} combinations of numbers of steps in training"
        yield fault_at(tree, ("stages",), expected, str(count), "choose narrower distributions")


def _fixed_numbers(parts: Parts, tree: Node) -> Iterator[Fault]:
    """Find stages that training would run with other numbers of steps than their weights are made for."""
    for place, stage in all_stages(parts.stages).items():
        others = [n for n in trained_numbers(stage) if n != stage.trips]
        if others and (holder := next(_held_per_step(stage, parts), "")):
            hint = f"{holder}: it has weights for each step, so the number of steps is fixed"
            path, got = (*path_of(place), "recur", "train"), f"{place} with {others[0]}"
            yield fault_at(tree, path, "numbers of steps that the stage can run", got, hint)


def _held_per_step(stage: Stage, parts: Parts) -> Iterator[str]:
    """Yield the options and blocks with weights for each step of a stage; those of a nested recur are not."""
    options = stage_options(parts.model, stage).values()
    yield from (
        option.key for option in options if isinstance(option, WiringConfig) and option.weights_per_step
    )
    waiting: list[Sublayer | Stage] = [*stage.step]
    while waiting:
        entry = waiting.pop(0)
        if isinstance(entry, Stage):
            waiting += entry.step if not entry.tied else ()
        else:
            known = (name for name in used(entry) if name in parts.blocks)
            yield from (f"block {name}" for name in known if parts.blocks[name].weights_per_step())


def _all_places(stages: Iterable[Stage], tree: Node) -> Iterator[Fault]:
    places = sum(map(_places, stages))
    if places > _PLACES:
        expected = f"at most {_PLACES} places of blocks, those in a nested stage counted {_PER_NEST} times"
        yield fault_at(tree, ("stages",), expected, str(places), "repeat layers by stack: or recur:")


def _places(entry: Sublayer | Stage) -> int:
    """Count the places where blocks stand, as often as costs look at them."""
    match entry:
        case Stage():
            return sum(_places(each) * (_PER_NEST if isinstance(each, Stage) else 1) for each in entry.step)
        case Parallel():
            return len(entry.parallel)
        case _:
            return 1


def _most_steps(stage: Stage) -> int:
    if stage.recur is None and stage.stack is None:
        raise Unknown
    inner = (_most_steps(entry) for entry in stage.step if isinstance(entry, Stage))
    return largest(stage.trips, *trained_numbers(stage)) * largest(1, *inner)


def _blocks(parts: Parts, tree: Node) -> Iterator[Iterator[Fault]]:
    for name, block in parts.blocks.items():
        yield _problems(block.problems(parts.model.width), ("blocks", name), tree)


def _sources(parts: Parts, tree: Node) -> Iterator[Iterator[Fault]]:
    for name, block in parts.blocks.items():
        for field, source in block.sources().items():
            yield _source(parts, tree, name, field, source)


def _source(parts: Parts, tree: Node, name: str, field: str, source: str) -> Iterator[Fault]:
    """Check a block whose values another block reads: that it is there, fits, and runs before it."""
    path = ("blocks", name)
    if source not in parts.blocks:
        if source not in _mapping(tree.child("blocks")):
            expected = f"one of {', '.join(parts.blocks)}"
            yield fault_at(tree, (*path, field), expected, shown(source), close(source, [*parts.blocks]))
        return
    yield from _problems(
        parts.blocks[name].source_problems(field, parts.blocks[source], parts.model.width), path, tree
    )
    if not all(_runs_first(source, name, stage) for stage in parts.stages):
        expected = f"a block that runs before {name} in each step that {name} is in"
        yield fault_at(tree, (*path, field), expected, shown(source))


def _runs_first(source: str, reader: str, stage: Stage) -> bool:
    ran = False
    for entry in stage.step:
        if isinstance(entry, Stage):
            if not _runs_first(source, reader, entry):
                return False
            continue
        for name in used(entry):
            if name == reader and not ran:
                return False
            ran = ran or name == source
    return True


def _wiring(parts: Parts, tree: Node) -> Iterator[Iterator[Fault]]:
    for path, problems in (
        *wiring_problems(parts.model, parts.stages, parts.blocks),
        *unread_fields(parts.model, parts.stages, parts.blocks),
    ):
        yield _problems(problems, path, tree)


def _train(parts: Parts, tree: Node) -> Iterator[Iterator[Fault]]:
    train = parts.train
    if train is not None:
        if isinstance(train.data, DataConfig):
            yield _problems(train.data.problems(parts.model), ("train", "data"), tree)
        yield from train_faults(train, tree)


def _documents(parts: Parts, tree: Node) -> Iterator[Fault]:
    """Find a token that begins documents and is not the one that the data has between them."""
    option = parts.model.option(Documents)
    start, path = option.start(), ("model", option.key)
    if start is not None and start >= parts.model.vocab:
        expected = f"a token id below model.vocab ({parts.model.vocab})"
        yield fault_at(tree, path, expected, shown(option.plain()))
    if start is None or parts.train is None or not isinstance(parts.train.data, DataConfig):
        return
    try:
        end = parts.train.data.document_end()
    except DataError:
        return  # a spec is also checked where its data is not
    if end != start:
        expected = "joined" if end is None else f"{{apart: {end}}}"
        separator = "no token" if end is None else f"token {end}"
        hint = f"task {parts.train.data.task} has {separator} between documents"
        yield fault_at(tree, path, expected, shown(option.plain()), hint)


def _caps(caps: Caps, tree: Node) -> Iterator[Iterator[Fault]]:
    trained = not _absent(tree.child("train"))
    yield _trained(caps, trained, tree)
    yield _memory_batch(caps, trained, tree)


def _trained(caps: Caps, trained: bool, tree: Node) -> Iterator[Fault]:
    for name, measure in MEASURES.items():
        if measure.training == "needed" and not trained and getattr(caps, name) is not None:
            limit = caps.limit(name) or caps.limit(name, "soft")
            yield fault_at(tree, ("caps", name), "no such cap without train", shown(limit))


def _memory_batch(caps: Caps, trained: bool, tree: Node) -> Iterator[Fault]:
    memory = caps.train_memory
    if trained and isinstance(memory, MemoryLimits) and memory.batch_tokens is not None:
        path, got = ("caps", "train_memory", "batch_tokens"), shown(memory.batch_tokens)
        yield fault_at(tree, path, "no such key, since train sets the micro-batch", got)


def _problems(problems: Iterable[Problem], path: tuple[str | int, ...], tree: Node) -> Iterator[Fault]:
    for problem in problems:
        yield _problem(tree, path, problem)


def _problem(tree: Node, path: tuple[str | int, ...], problem: Problem) -> Fault:
    steps = problem.key.split(".") if problem.key else []
    fault = fault_at(tree, (*path, *steps), problem.expected, shown(problem.got), problem.hint)
    return replace(fault, unread=problem.unread)


def valid_parts(tree: Node, broken: Collection[str] = ()) -> Parts:
    """Make the sections of a resolved tree of what is valid in them; see `semantic`."""
    from blocks.find import block_type
    from composer.language.validation.partial import partial, partial_at

    blocks = {}
    for name, node in _mapping(tree.child("blocks")).items():
        tag = node.child("type")
        config = block_type(tag.value) if tag and isinstance(tag.value, str) else None
        block = partial_at(config, node, join("blocks", name), broken) if config else None
        if block is not None:
            blocks[name] = block
    stages = [
        partial_at(Stage, stage, join("stages", i), broken)
        for i, stage in enumerate(_items(tree.child("stages")))
    ]
    return Parts(
        model=_part(Model, tree, "model", broken) or partial(Model, {}),
        blocks=blocks,
        stages=tuple(stage for stage in stages if stage is not None),
        caps=_part(Caps, tree, "caps", broken) or Caps(),
        train=_part(Train, tree, "train", broken),
    )


def _part(config: type[C], tree: Node, name: str, broken: Collection[str]) -> C | None:
    from composer.language.validation.partial import partial_at

    node = tree.child(name)
    return None if node is None else partial_at(config, node, name, broken)


def _items(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []


def _mapping(node: Node | None) -> Mapping[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _absent(node: Node | None) -> bool:
    return node is None or node.value is None

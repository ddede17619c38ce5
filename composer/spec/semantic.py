"""What types cannot say: names, blocks against the width, data against the model, batches.

The checks read the resolved tree as well as the spec, so that a fault elsewhere hides none of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from blocks.core.config import BlockConfig, Config, Problem
from blocks.core.numbers import largest
from composer.spec.caps import Caps, MemoryLimits
from composer.spec.errors import Fault, close, shown
from composer.spec.models import Model, Spec, Stage, Train
from composer.spec.tree import Node, fault_at, join

C = TypeVar("C", bound=Config)

_STEPS = 1_000_000


@dataclass(frozen=True)
class _Parts:
    """The sections of a spec that are valid by themselves."""

    model: Model | None
    blocks: Mapping[str, BlockConfig]
    stages: tuple[Stage | None, ...]
    caps: Caps | None
    train: Train | None


def semantic(tree: Node, spec: Spec | None) -> list[Fault]:
    """Check the tree of `spec`, or, where it makes no spec, whatever parts of it are sound."""
    parts = (
        _parts(tree) if spec is None else _Parts(spec.model, spec.blocks, spec.stages, spec.caps, spec.train)
    )
    faults = [*undefined(tree), *_steps(parts, tree), *_blocks(parts, tree), *_train(parts, tree)]
    if parts.stages and None not in parts.stages:
        faults += _unused(tree)
    if parts.caps:
        faults += _caps(parts.caps, tree)
    return faults


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
    known = f"one of {', '.join(blocks)}" if blocks else "a block; there are none"
    for path, node in uses(tree.child("stages")):
        if node.value not in blocks:
            yield node.fault(path, known, shown(node.value), close(node.value, blocks))


def _unused(tree: Node) -> Iterator[Fault]:
    used = {node.value for _, node in uses(tree.child("stages"))}
    for name, block in _mapping(tree.child("blocks")).items():
        if name not in used:
            path = join("blocks", name)
            yield block.fault(path, "a block that some stage uses", "an unused one", key=True)


def _uses(stage: Node, path: str) -> Iterator[tuple[str, Node]]:
    for i, entry in enumerate(_items(stage.child("step"))):
        here = join(path, "step", i)
        if isinstance(entry.value, str):
            yield here, entry
        elif branches := entry.child("parallel"):
            names = enumerate(_items(branches))
            yield from ((join(here, "parallel", j), name) for j, name in names if isinstance(name.value, str))
        else:
            yield from _uses(entry, here)


def _steps(parts: _Parts, tree: Node) -> Iterator[Fault]:
    expected = f"at most {_STEPS} steps, nested ones multiplied"
    for i, stage in enumerate(parts.stages):
        if stage is not None and (steps := _most_steps(stage)) > _STEPS:
            yield fault_at(tree, ("stages", i), expected, shown(steps))


def _most_steps(stage: Stage) -> int:
    inner = (_most_steps(entry) for entry in stage.step if isinstance(entry, Stage))
    return stage.trips * largest(1, *inner)


def _blocks(parts: _Parts, tree: Node) -> Iterator[Fault]:
    if parts.model is not None:
        for name, block in parts.blocks.items():
            for problem in block.problems(parts.model.width):
                yield _problem(tree, ("blocks", name), problem)


def _train(parts: _Parts, tree: Node) -> Iterator[Fault]:
    train = parts.train
    if train is None:
        return
    if parts.model is not None:
        for problem in train.data.problems(parts.model):
            yield _problem(tree, ("train", "data"), problem)
    if train.batch_sequences < 1:
        expected = f"room for a sequence of {train.length} tokens"
        yield fault_at(tree, ("train", "batch_tokens"), expected, shown(train.batch_tokens))
    elif train.batch_sequences % train.accumulate:
        expected = f"a divisor of the {train.batch_sequences} sequences of a batch"
        yield fault_at(tree, ("train", "accumulate"), expected, shown(train.accumulate))
    elif train.devices != "auto" and train.batch_sequences // train.accumulate % train.devices:
        expected = f"a divisor of the {train.batch_sequences // train.accumulate} sequences of a micro-batch"
        yield fault_at(tree, ("train", "devices"), expected, shown(train.devices))


def _caps(caps: Caps, tree: Node) -> Iterator[Fault]:
    trained = not _absent(tree.child("train"))
    memory = caps.train_memory
    if caps.train_flops is not None and not trained:
        limit = caps.limit("train_flops") or caps.limit("train_flops", "soft")
        yield fault_at(tree, ("caps", "train_flops"), "no such cap without train", shown(limit))
    if trained and isinstance(memory, MemoryLimits) and memory.batch_tokens is not None:
        path, got = ("caps", "train_memory", "batch_tokens"), shown(memory.batch_tokens)
        yield fault_at(tree, path, "no such key, since train says the micro-batch", got)


def _problem(tree: Node, path: tuple[str | int, ...], problem: Problem) -> Fault:
    steps = problem.key.split(".") if problem.key else []
    return fault_at(tree, (*path, *steps), problem.expected, shown(problem.got), problem.hint)


def _parts(tree: Node) -> _Parts:
    from blocks.find import block_types

    types = block_types()
    blocks = {}
    for name, node in _mapping(tree.child("blocks")).items():
        tag = node.child("type")
        config = types.get(tag.value) if tag and isinstance(tag.value, str) else None
        block = _sound(config, node) if config else None
        if block is not None:
            blocks[name] = block
    return _Parts(
        model=_sound(Model, tree.child("model")),
        blocks=blocks,
        stages=tuple(_sound(Stage, stage) for stage in _items(tree.child("stages"))),
        caps=_sound(Caps, tree.child("caps")),
        train=_sound(Train, tree.child("train")),
    )


def _sound(config: type[C], node: Node | None) -> C | None:
    try:
        return None if node is None else config.model_validate(node.plain)
    except ValidationError:
        return None


def _items(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []


def _mapping(node: Node | None) -> Mapping[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _absent(node: Node | None) -> bool:
    return node is None or node.value is None

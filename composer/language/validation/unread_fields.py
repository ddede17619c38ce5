"""Checks of fields that are valid by themselves and have no effect where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from blocks.base.config import BlockConfig, Problem
from blocks.base.invalid import Unknown
from blocks.base.sublayer import StageAround, Use
from blocks.ir.numbers import largest
from blocks.wiring.documents import Documents
from composer.language.schema.at import runs_at
from composer.language.schema.levels import Sublayer
from composer.language.schema.spec import Model, Stage, used
from composer.language.schema.steps import trained_numbers

Path: TypeAlias = tuple[str | int, ...]


def unread_fields(
    model: Model, stages: Sequence[Stage], blocks: Mapping[str, BlockConfig]
) -> Iterator[tuple[Path, Iterator[Problem]]]:
    """Yield the problems of fields that nothing reads, with the path of the section that they are in."""
    for name, block in blocks.items():
        yield ("blocks", name), _unread(name, block, stages)
    yield ("model",), _apart(model, stages, blocks)


def _unread(name: str, block: BlockConfig, stages: Sequence[Stage]) -> Iterator[Problem]:
    # a block that is used nowhere has a fault of its own
    if uses := [use for number, stage in enumerate(stages) for use in _uses(name, stage, number)]:
        yield from (problem._replace(unread=True) for problem in block.unread(uses))


def _uses(name: str, stage: Stage, number: int, around: Use = ()) -> Iterator[Use]:
    """Yield the uses of a block in a stage."""
    if (stage.recur is None) == (stage.stack is None):
        raise Unknown
    for n, entry in enumerate(stage.step):
        here = (*around, StageAround(number, stage.tied, _runs(stage, entry)))
        if isinstance(entry, Stage):
            yield from _uses(name, entry, n, here)
        else:
            yield from (here for each in used(entry) if each == name)


def _runs(stage: Stage, entry: Sublayer | Stage) -> int:
    """Return at how many steps of its stage an entry runs, at most."""
    at = None if isinstance(entry, str) else entry.at
    trips = (stage.trips, *trained_numbers(stage))
    # a range would not do for a number that costs are traced through
    most: int = largest(*(trips if at is None else (len(runs_at(at, each)) for each in trips)))
    return most


def _apart(model: Model, stages: Sequence[Stage], blocks: Mapping[str, BlockConfig]) -> Iterator[Problem]:
    """Refuse documents apart where no token depends on another one."""
    option = model.option(Documents)
    if option.start() is None or model.positions == "learned":
        return
    names = [name for stage in stages for name in used(stage)]
    if all(name in blocks and not blocks[name].mixes_tokens() for name in names):
        expected = "joined, since no block of the model reads other tokens"
        yield Problem(option.key, expected, option.plain(), unread=True)

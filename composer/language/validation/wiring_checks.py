"""Checks of wiring options, wherever they are given: on the model, a stage or an entry of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from blocks.base.config import BlockConfig, Problem
from blocks.base.wiring import Site, WiringConfig, acts_on_stage
from blocks.wiring.backprop import Backprop
from blocks.wiring.documents import Documents
from blocks.wiring.train import TrainedSteps
from composer.language.schema.at import runs_at
from composer.language.schema.levels import Options, entry_options, shared_keys, site, sublayer_places
from composer.language.schema.recur import Recur
from composer.language.schema.spec import BlockUse, Model, Parallel, Stage, used
from composer.language.schema.steps import trained_numbers

Path: TypeAlias = tuple[str | int, ...]
_MANY = 1_000_000
"""Optimizer steps among which each number of steps occurs that can."""


def wiring_problems(
    model: Model, stages: Sequence[Stage], blocks: Mapping[str, BlockConfig]
) -> Iterator[tuple[Path, Iterator[Problem]]]:
    """Yield the problems of each option, with the path of the option that they are relative to.

    What is not valid in `model` and `stages` is left out. What stages take from the model is checked in each.
    """
    last = stages[-1] if stages else None
    options = _valid({key: option for key, option in model.wiring().items() if key not in shared_keys()})
    around = Site(model.width, wiring=options, model=options)
    if last is not None and _readable(last):
        around = around._replace(last_stage=_site(model, last, blocks, is_last=True))
    sites = [_site(model, each, blocks, each is last) for each in _all_readable(stages)]
    around = around._replace(stages=sites)
    yield from _checked(options, around, partial(_below, ("model",)))
    left: list[tuple[Stage, Path]] = [(stage, ("stages", i)) for i, stage in enumerate(stages)]
    for stage, path in left:
        if isinstance(stage.at, str):
            expected = "no such key, since at: selects steps of a surrounding stage, and there is none"
            yield path, iter([Problem("at", expected, stage.at)])
    while left:
        stage, path = left.pop(0)
        if _readable(stage):
            around = _site(model, stage, blocks, is_last=stage is last)
            yield from _stage(stage, path, around)
            yield path, _running_apart(stage, blocks)
            yield path, _needing_all_tokens(stage, blocks, around)
            yield path, _untrained(stage, blocks, around)
            yield ("model",), _crossing_documents(stage, blocks, around)
        if isinstance(stage.step, tuple):
            inner = ((each, (*path, "step", i)) for i, each in enumerate(stage.step))
            left += [(each, here) for each, here in inner if isinstance(each, Stage)]


def _stage(stage: Stage, path: Path, around: Site) -> Iterator[tuple[Path, Iterator[Problem]]]:
    given = stage.wiring()
    if isinstance(stage.recur, Recur):
        yield from _checked(_valid(stage.recur.wiring()), around, partial(_below, (*path, "recur")))
        yield (*path, "recur"), _drawing_nothing(stage.recur)
    yield from _checked(around.wiring, around, lambda key: (*path, key) if key in given else ("model", key))
    for key, option in _valid(given).items():
        if (outer := around.model.get(key)) is not None:
            yield (*path, key), _beside_spanning(option, outer)
            yield (*path, key), _beside_stages_alone(option, outer, stage)
    for i, entry in enumerate(stage.step):
        here = (*path, "step", i)
        if isinstance(entry, BlockUse | Parallel | Stage):
            yield here, _selecting_nothing(entry.at, stage)
            yield here, _unskippable(entry.at, around.wiring)
            if isinstance(entry, Stage):
                yield here, _unskippable(entry.at, _valid(entry.wiring()))
        if isinstance(entry, BlockUse | Parallel):
            beside = around._replace(wiring=_valid(entry_options(around.wiring, entry)))
            own = _valid(entry.wiring())
            yield from _checked(own, beside, partial(_below, here))
            for key, option in own.items():
                yield (*here, key), _acting_on_stage(option, around.wiring.get(key))


def _drawing_nothing(recur: Recur) -> Iterator[Problem]:
    """Refuse a number for each sequence where there is but one."""
    option = recur.wiring().get(TrainedSteps.key)
    if recur.per != "sequence" or not isinstance(option, TrainedSteps):
        return
    if all(len(phase.numbers) == 1 for phase in option.phases(recur.steps, _MANY)):
        expected = f"batch beside train: {option.name}, which gives all sequences the same number"
        yield Problem("per", expected, recur.per)


def _beside_spanning(option: WiringConfig, outer: WiringConfig) -> Iterator[Problem]:
    """Refuse an option of a stage where that of the model spans all stages."""
    if outer.spans_stages() and option != outer:
        expected = f"{outer.name}, as on the model, since it spans all stages"
        yield Problem("", expected, option.plain(defaults=False))


def _beside_stages_alone(option: WiringConfig, outer: WiringConfig, stage: Stage) -> Iterator[Problem]:
    """Refuse an option of sublayers in a stage that has none of its own."""
    alone = all(isinstance(entry, Stage) for entry in stage.step)
    if alone and option != outer and option.key in shared_keys() and not acts_on_stage(option):
        expected = (
            f"no {option.key} in a stage whose step holds only stages, since these take theirs from the model"
        )
        yield Problem("", expected, option.plain(defaults=False), "give it to the stages inside", unread=True)


def _below(path: Path, key: str) -> Path:
    return (*path, key)


def _checked(
    options: Options, used_at: Site, place: Callable[[str], Path]
) -> Iterator[tuple[Path, Iterator[Problem]]]:
    for key, option in options.items():
        yield place(key), option.problems(used_at)


def _selecting_nothing(at: Any, stage: Stage) -> Iterator[Problem]:
    if not isinstance(at, str):
        return
    for trips in sorted({stage.trips, *trained_numbers(stage)}):
        if not runs_at(at, trips):
            steps = "the only step" if trips == 1 else f"some of the {trips} steps"
            where = "of the stage" if trips == stage.trips else "that training may run"
            yield Problem("at", f"{steps} {where}", at)
            return


def _unskippable(at: Any, options: Options) -> Iterator[Problem]:
    """Refuse `at` where an option needs every sublayer at every step."""
    for option in options.values():
        if isinstance(at, str) and option.unskippable:
            expected = f"all steps beside {option.key}: {option.name}, {option.unskippable}"
            yield Problem("at", expected, at)


def _running_apart(stage: Stage, blocks: Mapping[str, BlockConfig]) -> Iterator[Problem]:
    """Find uses of a block that run at different steps though they share a step's index."""
    first: dict[str, tuple[int, Any]] = {}
    kept = {source for block in blocks.values() for source in block.sources().values()}
    for i, entry in enumerate(stage.step):
        if not isinstance(entry, str | BlockUse | Parallel):
            continue
        at = None if isinstance(entry, str) else entry.at
        names = [name for name in used(entry) if name in blocks]
        read = [source for name in names for source in blocks[name].sources().values()]
        for name in (*(name for name in names if blocks[name].shares_step() or name in kept), *read):
            before, other = first.setdefault(name, (i, at))
            if other != at:
                place, got, expected = (before, other, at) if at is None else (i, at, other)
                steps = f"{expected or 'all steps'}, as at the other places in this step that use {name}"
                yield Problem(f"step.{place}.at", steps, got)


def _needing_all_tokens(stage: Stage, blocks: Mapping[str, BlockConfig], around: Site) -> Iterator[Problem]:
    """Refuse an option that gives blocks some of the tokens where one of them needs whole sequences."""
    option = next((each for each in around.wiring.values() if each.selects_tokens), None)
    names = _blocks_of(stage, blocks)
    for name in names if option else ():
        if option and (why := blocks[name].needs_all_tokens()):
            expected = f"none beside {name}, which cannot run on selected tokens: {why}"
            yield Problem(option.key, expected, option.plain(defaults=False))
        elif option and option.pads() and (what := blocks[name].counts_tokens()):
            expected = f"none beside {name}, whose {what} would count padding tokens"
            yield Problem(option.key, expected, option.plain(defaults=False))
        elif option and option.first_kv() and blocks[name].keeps_kv():
            expected = f"kv: here beside {name}, which needs keys and values of its own at each step"
            yield Problem(option.key, expected, option.plain(defaults=False))
    if option and option.first_kv() and names and not any(blocks[name].makes_kv() for name in names):
        expected = "none with kv: first, since no block of the stage is sequence attention"
        yield Problem(option.key, expected, option.plain(defaults=False))


def _untrained(stage: Stage, blocks: Mapping[str, BlockConfig], around: Site) -> Iterator[Problem]:
    """Refuse steps without gradients beside what is written before them, since they read it as a constant."""
    option = around.wiring.get(Backprop.key)
    if option is not None and option.name != Backprop.default:
        for name in _blocks_of(stage, blocks):
            if what := blocks[name].written_before():
                expected = f"all beside {name}, whose {what} would not be trained"
                yield Problem(option.key, expected, option.plain(defaults=False))


def _blocks_of(stage: Stage, blocks: Mapping[str, BlockConfig]) -> dict[str, None]:
    """Return the names of the blocks that are used in the step of a stage itself, each once."""
    entries = (entry for entry in stage.step if isinstance(entry, str | BlockUse | Parallel))
    return dict.fromkeys(name for entry in entries for name in used(entry) if name in blocks)


def _crossing_documents(stage: Stage, blocks: Mapping[str, BlockConfig], around: Site) -> Iterator[Problem]:
    """Refuse documents apart beside what lets them see each other."""
    option = around.model.get(Documents.key)
    if not isinstance(option, Documents) or option.start() is None:
        return
    why = {f"block {name}": blocks[name].crosses_documents() for name in _blocks_of(stage, blocks)}
    why |= {
        f"{key}: {each.name}": "blocks get some of the tokens"
        for key, each in around.wiring.items()
        if each.selects_tokens
    }
    for place, reason in why.items():
        if reason:
            yield Problem(option.key, f"joined beside {place}, where {reason}", option.plain())


def _acting_on_stage(option: WiringConfig, around: WiringConfig | None) -> Iterator[Problem]:
    """Refuse an option of an entry that belongs to its stage, and any beside one of the stage that does."""
    if acts_on_stage(option):
        expected = f"a value for this entry alone, since {option.name} acts on the whole stage"
        yield Problem("", expected, option.plain(defaults=False), "give it to the stage")
    elif around is not None and acts_on_stage(around):
        expected = f"{around.name}, as in the stage, since it acts on all entries"
        yield Problem("", expected, option.plain(defaults=False))


def _site(model: Model, stage: Stage, blocks: Mapping[str, BlockConfig], is_last: bool) -> Site:
    whole = site(model, stage)
    entries = tuple(map(_valid, whole.entries))
    return whole._replace(
        wiring=_valid(whole.wiring),
        entries=entries,
        model=_valid(whole.model),
        is_last=is_last,
        nested=tuple(map(_valid, whole.nested)),
        sublayers=sublayer_places(stage, blocks),
    )


def _valid(options: Any) -> Options:
    """Leave out what is no option: the spec may be valid in part only."""
    return {key: option for key, option in options.items() if isinstance(option, WiringConfig)}


def _all_readable(stages: Sequence[Any]) -> Iterator[Stage]:
    """Yield all stages of which it is known what they run and how often, and those nested in them."""
    for stage in stages:
        if isinstance(stage, Stage) and _readable(stage):
            yield stage
            yield from _all_readable(stage.step)


def _readable(stage: Stage) -> bool:
    """Whether it is known what a stage, which may be valid in part only, runs and how often."""
    return isinstance(stage.step, tuple) and (stage.recur is None) != (stage.stack is None)

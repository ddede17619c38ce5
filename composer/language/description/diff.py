"""Differences between two specs in words, found by aligning their structure rather than their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from blocks.find import wiring_options
from composer.language.description.align import Entry, Match, align_entries, align_stages, alike, block_pairs
from composer.language.description.format_spec import (
    entry_words,
    stage_words,
    trips_words,
    value_words,
    weights_words,
)
from composer.language.schema.identity import arch_hash
from composer.language.schema.levels import long_form, shortest
from composer.language.schema.spec import BlockUse, Parallel, Spec, Stage, used
from composer.language.schema.wired import Wired, inherited_keys
from composer.settings.errors import listed

Kind = Literal["architecture", "training", "caps", "names"]


@dataclass(frozen=True)
class Difference:
    """One difference: its kind, its place in the spec, and its description."""

    kind: Kind
    place: str
    words: str

    def __str__(self) -> str:
        return f"{self.place}{' ' if self.kind in ('training', 'caps') else ': '}{self.words}"


def relation(a: Spec, b: Spec) -> str:
    """Describe how two specs relate: the same spec, the same architecture, or neither."""
    same = arch_hash(a) == arch_hash(b)
    words = "the same architecture" if same else "different architectures"
    changes = list(differences(a, b))
    if not changes:
        return "the same spec"
    trained = [each.place for each in changes if each.kind == "training"]
    if not trained:
        return words if a.train is None else f"{words}, trained alike"
    if trained == ["train.seed"]:
        return f"{words}, trained alike but for the seed"
    return f"{words}, {'differing only in training' if same else 'also trained otherwise'}"


def differences(a: Spec, b: Spec) -> Iterator[Difference]:
    """Yield all differences, from architecture to names; nothing for equal specs."""
    names = block_pairs(a, b)
    for place, words in _Architecture(a, b, names).changes():
        yield Difference("architecture", place, words)
    yield from _training(a, b)
    for place, words in _fields(a.caps.model_dump(), b.caps.model_dump(), "caps."):
        yield Difference("caps", place, words)
    if a.name != b.name:
        yield Difference("names", "name", f"{a.name} -> {b.name}")
    for one, two in names.items():
        if one != two:
            yield Difference("names", f"blocks.{one}", f"is called {two}")


def _training(a: Spec, b: Spec) -> Iterator[Difference]:
    if a.train is None or b.train is None:
        if a.train is not b.train:
            yield Difference("training", "train", "added" if a.train is None else "removed")
        return
    one, two = a.train.model_dump(), b.train.model_dump()
    here, there = one.pop("data"), two.pop("data")
    if here["task"] == there["task"]:
        changed = list(_fields(here, there, "train.data."))
    else:
        changed = [("train.data", f"{_recipe(here, 'task')} -> {_recipe(there, 'task')}")]
    for place, words in [*changed, *_fields(one, two, "train.")]:
        yield Difference("training", place, words)


def _fields(one: dict[str, Any], two: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the fields that differ under their dotted names, with `before -> after`."""
    for key in dict.fromkeys((*one, *two)):
        before, after = one.get(key), two.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _fields(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", f"{value_words(before)} -> {value_words(after)}"


def _recipe(fields: dict[str, Any], tag: str = "type") -> str:
    """Describe a config: `feed_forward with hidden 64`."""
    settings = [
        f"{key} {value_words(value)}" for key, value in fields.items() if key != tag and value is not None
    ]
    return f"{fields[tag]} with {', '.join(settings)}" if settings else str(fields[tag])


class _Architecture:
    """The comparison of two models, stages and recipes."""

    def __init__(self, a: Spec, b: Spec, names: dict[str, str]) -> None:
        # it does not matter on which level an option is given
        self.a, self.b, self.names = shortest(a), shortest(b), names

    def changes(self) -> Iterator[tuple[str, str]]:
        fields = _fields(self.a.model.model_dump(), self.b.model.model_dump(), "")
        if changed := [f"{key} {words}" for key, words in fields]:
            yield "model", ", ".join(changed)
        rest = {"schema_", "name", "model", "blocks", "stages", "caps", "train"}
        yield from _fields(self.a.model_dump(exclude=rest), self.b.model_dump(exclude=rest), "")
        for match in align_stages(self.a.stages, self.b.stages, self.names):
            yield from self._stages(match)
        for one, two in self.names.items():
            yield from self._block(one, two)

    def _block(self, one: str, two: str) -> Iterator[tuple[str, str]]:
        here, there = self.a.blocks[one], self.b.blocks[two]
        before, after = here.canonical(self.a.model.width), there.canonical(self.b.model.width)
        if here.type != there.type:
            yield one, f"{_recipe(_written(here))} -> {_recipe(_written(there))}"
            return
        given = (here.model_dump(), there.model_dump())
        changed = [
            f"{key} {words}"
            + ("" if given[0].get(name := key.partition(".")[0]) != given[1].get(name) else " by default")
            for key, words in _fields(before, after, "")
        ]
        if changed:
            yield one, ", ".join(changed)

    def _stages(self, match: Match[Stage]) -> Iterator[tuple[str, str]]:
        i, j = match.first_before, match.first_after
        if not match.after:
            yield f"stages.{i}", f"removed ({stage_words(match.before[0])})"
        elif not match.before:
            where = f"after stages.{j - 1}" if j else "in front"
            yield f"stages.{j}", f"added {where}: {self._new(match.after[0])}"
        else:
            place = f"stages.{i}" if i == j else f"stages.{i}, now stages.{j}"
            yield from self._stage(match.before[0], match.after[0], place)

    def _stage(self, one: Stage, two: Stage, place: str) -> Iterator[tuple[str, str]]:
        within, without = _only(two), _only(one)
        if within and not without and alike(one, within, self.names) >= alike(one, two, self.names):
            yield place, f"put inside {_head(two)}"
            yield from self._stage(one, within, place)
            return
        if without and not within:
            yield place, f"taken out of {_head(one)}"
            yield from self._stage(without, two, place)
            return
        if one.tied != two.tied:
            yield place, f"{_trips(one)} -> {_trips(two)}"
        elif one.trips != two.trips:
            yield place, f"{one.trips} -> {trips_words(two)} {weights_words(max(one, two, key=_many))}"
        if one.recurrence and two.recurrence:
            here, there = (each.model_dump(exclude={"steps"}) for each in (one.recurrence, two.recurrence))
            for key, words in _fields(here, there, "recur."):
                yield place, f"{key} {words}"
        yield from _changed_options(one, two, {"recur", "stack", "step"}, place)
        yield from self._step(one.step, two.step, f"{place}.step")

    def _step(self, one: tuple[Entry, ...], two: tuple[Entry, ...], place: str) -> Iterator[tuple[str, str]]:
        if self._reordered(one, two):
            yield place, f"order {_row(one)} -> {_row(two)}"
            return
        for match in align_entries(one, two, self.names):
            yield from self._entries(match, one, two, place)

    def _reordered(self, one: tuple[Entry, ...], two: tuple[Entry, ...]) -> bool:
        here = [long_form(entry) for entry in one if isinstance(entry, str | BlockUse)]
        there = [long_form(entry) for entry in two if isinstance(entry, str | BlockUse)]
        if len(here) < len(one) or len(there) < len(two) or any(each.use not in self.names for each in here):
            return False
        known = [each.model_copy(update={"use": self.names[each.use]}) for each in here]
        return known != there and Counter(known) == Counter(there)

    def _entries(
        self, match: Match[Entry], one: tuple[Entry, ...], two: tuple[Entry, ...], place: str
    ) -> Iterator[tuple[str, str]]:
        before, after = match.before, match.after
        if not after:
            yield place, f"{_row(before)} removed{_where(one, match.first_before)}"
        elif not before:
            yield place, f"{self._new(after[0])} added{_where(two, match.first_after)}"
        elif len(before) > 1:
            yield place, f"{_row(before)} one after the other -> {_mix(after[0])}"
        elif len(after) > 1:
            yield place, f"{_mix(before[0])} -> {_row(after)} one after the other"
        else:
            yield from self._entry(before[0], after[0], f"{place}.{match.first_before}", place)

    def _entry(self, one: Entry, two: Entry, inner: str, place: str) -> Iterator[tuple[str, str]]:
        match one, two:
            case [Stage(), Stage()]:
                yield from self._stage(one, two, inner)
            case [Parallel(), Parallel()]:
                yield from self._step(one.parallel, two.parallel, f"{inner}.parallel")
                yield from _changed_options(one, two, {"parallel"}, inner)
            case (str() | BlockUse(), str() | BlockUse()) if self._same(one, two):
                yield from _changed_options(long_form(one), long_form(two), {"use"}, inner)
            case (str() | BlockUse(), Parallel()) if alike(one, two, self.names):
                yield place, f"{_mix(one)} -> {self._new(two)}"
            case (Parallel(), str() | BlockUse()) if alike(one, two, self.names):
                yield place, f"{_mix(one)} -> {_mix(two)} alone"
            case _:
                yield place, f"{_mix(one)} replaced by {self._new(two)}"

    def _same(self, one: str | BlockUse, two: str | BlockUse) -> bool:
        """Whether two entries use the same block."""
        return self.names.get(long_form(one).use) == long_form(two).use

    def _new(self, entry: Entry) -> str:
        """Describe an entry of the second spec, with block definitions that the first does not have."""
        new = [name for name in dict.fromkeys(used(entry)) if name not in self.names.values()]
        words = stage_words(entry) if isinstance(entry, Stage) else _mix(entry)
        if isinstance(entry, Stage):
            words += _options(entry)
        recipes = [(name, _recipe(_written(self.b.blocks[name]))) for name in new]
        if isinstance(entry, str | BlockUse) and recipes:
            return f"{words} ({recipes[0][1]})"
        return words + (f" ({listed((f'{n}: {r}' for n, r in recipes), 'and')})" if recipes else "")


def _written(block: Any) -> dict[str, Any]:
    written: dict[str, Any] = {"type": block.type} | block.model_dump(exclude_defaults=True)
    return written


def _only(stage: Stage) -> Stage | None:
    """Return the stage that is the only entry of a step."""
    inner = stage.step[0]
    return inner if len(stage.step) == 1 and isinstance(inner, Stage) else None


def _trips(stage: Stage) -> str:
    return f"{trips_words(stage)} {weights_words(stage)}"


def _many(stage: Stage) -> int:
    return stage.trips


def _head(stage: Stage) -> str:
    return _trips(stage) + _options(stage)


def _options(config: Wired, listed: Collection[str] = ()) -> str:
    """Describe the options that are not at their defaults, except those in `listed`: `, inject add`."""
    changed = config.changed_options().items()
    return "".join(f", {key} {value_words(value)}" for key, value in changed if key not in listed)


def _changed_options(
    one: Wired, two: Wired, without: Collection[str], place: str
) -> Iterator[tuple[str, str]]:
    """Yield the options that differ between two stages or entries."""
    for key, words in _fields(_written_options(one, without), _written_options(two, without), ""):
        yield place, f"{key} {words}"


def _written_options(config: Wired, without: Collection[str]) -> dict[str, Any]:
    """Dump all options but those in `without`; what an entry does not give is as in its stage."""
    options = config.model_dump(exclude={*without})
    for key in inherited_keys(type(config)) & options.keys():
        if options[key] is None and isinstance(config, Stage):
            options[key] = wiring_options()[key].default.plain()
        elif options[key] is None:
            options[key] = "as in the stage"
    return options


def _mix(entry: Entry) -> str:
    if isinstance(entry, BlockUse):
        options = _options(entry).removeprefix(", ")
        return f"{entry.use} ({options})" if options else entry.use
    if isinstance(entry, Parallel):
        own = {key: option for key, option in entry.wiring().items() if key not in inherited_keys(Parallel)}
        wiring = {key: value_words(option.plain(defaults=False)) for key, option in own.items()}
        words = ", ".join(wiring.values()) + _options(entry, listed=wiring)
        return f"{listed(entry.parallel, 'and')} in parallel ({words})"
    return entry_words(entry)


def _row(entries: tuple[Entry, ...]) -> str:
    return ", ".join(map(_mix, entries))


def _where(step: tuple[Entry, ...], place: int) -> str:
    """Describe the position of an entry among its neighbours."""
    before, after = step[:place][-1:], step[place + 1 :][:1]
    if before and after:
        return f" between {_mix(before[0])} and {_mix(after[0])}"
    return f" after {_mix(before[0])}" if before else f" before {_mix(after[0])}" if after else ""

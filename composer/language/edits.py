"""Edits of a spec's structure that no choice of a space stands for, on plain data.

An edit is a name and a number. The name says what kind of change is made, the number which one of all changes
of that kind; of those that give no valid spec, or the same one, the next that does is taken. So a name and a
number are a function of the spec they are applied to, and whatever they give is a valid spec that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from blocks.base.field_values import values_of
from blocks.base.wiring import WiringConfig
from blocks.find import all_wiring, wiring_options
from composer.language.load import resolve_spec
from composer.language.schema.identity import arch_hash
from composer.language.schema.spec import Spec
from composer.settings.errors import SpecError
from composer.settings.tree import Place, planted

Tree: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[int, ...]
"""Where a stage is: its number, and for a stage in another's step the number there."""

NO_EDIT = "none"
PLACES = 256
"""How many numbers an edit may have."""
_TRIES = 48
_WRAPPED = (2, 3)


class Edit(NamedTuple):
    """One change: what it is, in words, and the plain data of the spec that has it."""

    words: str
    tree: Tree


def edited(tree: Tree, name: str, number: int) -> Edit | None:
    """Apply the edit of a kind and a number to a valid spec; None where no edit of that kind can be.

    Raises:
        SpecError: the spec is not valid as it is.
    """
    before = arch_hash(_spec(tree))
    edits = [*EDITS[name](tree)]
    for tried in range(min(len(edits), _TRIES)):
        edit = edits[(number + tried) % len(edits)]
        cleaned = edit._replace(tree=_without_unused(edit.tree))
        try:
            if arch_hash(_spec(cleaned.tree)) != before:
                return cleaned
        except SpecError:
            pass
    return None


def as_lists(value: Any) -> Any:
    """Return plain data as one may change it: new mappings, and lists for tuples."""
    if isinstance(value, Mapping):
        return {key: as_lists(each) for key, each in value.items()}
    return [as_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _spec(tree: Tree) -> Spec:
    return resolve_spec(planted(tree, Place(str(tree.get("name", "")))))


# kinds of edits


def _wrap(tree: Tree) -> Iterator[Edit]:
    """Run layers several times."""
    for path, stage in _stages(tree):
        if "recur" in stage:
            continue
        for steps in _WRAPPED:
            outer = {"recur": steps, "step": [stage]}
            if stage.get("stack") == 1:
                outer = {"recur": steps, **{key: value for key, value in stage.items() if key != "stack"}}
            yield Edit(f"{_name(path)} wrapped in {steps} recurrent steps", _replaced(tree, path, [outer]))


def _tie(tree: Tree) -> Iterator[Edit]:
    """Let layers share their weights."""
    for path, stage in _stages(tree):
        layers = stage.get("stack", 1)
        if layers > 1:
            tied = {"recur": layers, **{key: value for key, value in stage.items() if key != "stack"}}
            yield Edit(f"{layers} layers of {_name(path)} tied", _replaced(tree, path, [tied]))


def _untie(tree: Tree) -> Iterator[Edit]:
    """Give each step weights of its own, without the options that are about recurrence."""
    recurrent = {"recur", *(option.key for option in all_wiring() if option.recurrent)}
    for path, stage in _stages(tree):
        if "recur" in stage:
            recur = stage["recur"]
            steps = recur["steps"] if isinstance(recur, dict) else recur
            layers = {"stack": steps} | {key: value for key, value in stage.items() if key not in recurrent}
            yield Edit(f"{steps} steps of {_name(path)} untied", _replaced(tree, path, [layers]))


def _add(tree: Tree) -> Iterator[Edit]:
    """Add a block of the spec to a step once more."""
    for path, stage in _stages(tree):
        for place in range(len(stage["step"]) + 1):
            for block in tree["blocks"]:
                step = [*stage["step"][:place], block, *stage["step"][place:]]
                words = f"{block} added to {_name(path)} at {place}"
                yield Edit(words, _replaced(tree, path, [{**stage, "step": step}]))


def _drop(tree: Tree) -> Iterator[Edit]:
    """Leave out an entry of a step, a branch of a parallel one, or a whole stage."""
    for path, stage in _stages(tree):
        for place, entry in enumerate(stage["step"]):
            rest = [each for other, each in enumerate(stage["step"]) if other != place]
            words = f"{_entry(entry)} dropped from {_name(path)}"
            if rest:
                yield Edit(words, _replaced(tree, path, [{**stage, "step": rest}]))
            for branch in _branches(entry):
                left = [each for each in entry["parallel"] if each != branch]
                kept = {**entry, "parallel": left} if len(left) > 1 else left[0] if left else None
                step = [kept if other == place else each for other, each in enumerate(stage["step"])]
                if kept is not None:
                    dropped = f"{branch} dropped from a mix of {_name(path)}"
                    yield Edit(dropped, _replaced(tree, path, [{**stage, "step": step}]))
        if len(path) == 1 and len(tree["stages"]) > 1:
            yield Edit(f"{_name(path)} dropped", _replaced(tree, path, []))


def _parallel(tree: Tree) -> Iterator[Edit]:
    """Let two blocks that follow each other run side by side, or ones side by side follow each other."""
    for path, stage in _stages(tree):
        step = stage["step"]
        for place, entry in enumerate(step):
            if names := _branches(entry):
                parts = [*step[:place], *names, *step[place + 1 :]]
                words = f"{' and '.join(names)} of {_name(path)} one after the other"
                yield Edit(words, _replaced(tree, path, [{**stage, "step": parts}]))
            pair = step[place : place + 2]
            if len(pair) == 2 and all(isinstance(each, str) for each in pair):
                parts = [*step[:place], {"parallel": pair}, *step[place + 2 :]]
                words = f"{' and '.join(pair)} of {_name(path)} side by side"
                yield Edit(words, _replaced(tree, path, [{**stage, "step": parts}]))


def _wire(tree: Tree) -> Iterator[Edit]:
    """Give a stage another option of wiring."""
    for path, stage in _stages(tree):
        for key, values in _wiring().items():
            for value in values:
                if stage.get(key, values[0]) != value:
                    words = f"{key} of {_name(path)} {_value_text(value)}"
                    yield Edit(words, _replaced(tree, path, [{**stage, key: value}]))


EDITS: Mapping[str, Callable[[Tree], Iterator[Edit]]] = {
    "wrap": _wrap,
    "tie": _tie,
    "untie": _untie,
    "add": _add,
    "drop": _drop,
    "parallel": _parallel,
    "wire": _wire,
}
"""Every kind of edit, by its name."""


# parts of a spec as plain data


def _stages(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    def inner(stage: Tree, path: Path) -> Iterator[tuple[Path, Tree]]:
        yield path, stage
        for number, entry in enumerate(stage["step"]):
            if _is_stage(entry):
                yield from inner(entry, (*path, number))

    for number, stage in enumerate(tree["stages"]):
        yield from inner(stage, (number,))


def _is_stage(entry: Any) -> bool:
    return isinstance(entry, dict) and "step" in entry


def _replaced(tree: Tree, path: Path, stages: Sequence[Tree]) -> Tree:
    """Return the spec with other stages in the place of one."""

    def among(entries: Sequence[Any], path: Path) -> list[Any]:
        first, *rest = path
        replaced = (
            [*stages]
            if not rest
            else [{**entries[first], "step": among(entries[first]["step"], tuple(rest))}]
        )
        return [*entries[:first], *replaced, *entries[first + 1 :]]

    return {**tree, "stages": among(tree["stages"], path)}


def _without_unused(tree: Tree) -> Tree:
    used = {name for _, stage in _stages(tree) for entry in stage["step"] for name in _names(entry)}
    return {**tree, "blocks": {name: block for name, block in tree["blocks"].items() if name in used}}


def _names(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [entry["use"]] if "use" in entry else _branches(entry)


def _branches(entry: Any) -> list[str]:
    return entry["parallel"] if isinstance(entry, dict) and "parallel" in entry else []


def _entry(entry: Any) -> str:
    return "a stage" if _is_stage(entry) else " and ".join(_names(entry))


def _name(path: Path) -> str:
    return f"stage {'.'.join(map(str, path))}"


def _wiring() -> dict[str, list[Any]]:
    """Map each key of a stage to values of its options, the default first."""
    values: dict[str, list[Any]] = {}
    for key, options in wiring_options().items():
        there = [option for option in options.values() if "stage" in option.owner]
        for option in sorted(there, key=lambda option: option.name != option.default):
            values.setdefault(key, []).extend(_values(option))
    return values


def _values(option: type[WiringConfig]) -> list[Any]:
    """Return an option as a spec writes it, with each value of the field that is required, if one is."""
    required = {name: field for name, field in option.model_fields.items() if field.is_required()}
    if not required:
        return [option.name]
    values = {
        name: field.examples or values_of(field.annotation, required=True) for name, field in required.items()
    }
    first = {name: each[0] for name, each in values.items()}
    return [{**first, name: value} for name, each in values.items() for value in each]


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {each}" for key, each in value.items()) + "}"
    return str(value)

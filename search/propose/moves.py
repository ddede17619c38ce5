"""Moves of evolution: mutation and crossover of the parameter values that lead to a spec, with descriptions.

A child is a point of the same space by construction: its moves only choose values for parameters that the
space asks for. The branch taken decides which parameters exist, so a value in a branch that is not taken is
dropped, and a parameter that no parent has gets a random value.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from composer.language.parsing.choice import SearchParameter, Value
from composer.language.space import EDITED, Ask, draw

Params: TypeAlias = Mapping[str, Value]
SearchParameters: TypeAlias = Mapping[str, SearchParameter]

_SWAP = 0.5
"""Probability that a crossover takes a branch from the second parent."""
_REACH = 0.15
"""The standard deviation of a step on a range, as a share of the range."""


@dataclass(frozen=True)
class Parent:
    """A trained point: the name of its trial and the values of its parameters."""

    name: str
    params: Params


def inherit(rng: random.Random, *answers: Params) -> Ask:
    """Return a parameter's value in the first of `answers` that has a valid one, else a random value."""

    def ask(parameter: SearchParameter) -> Value:
        inherited = (own[parameter.name] for own in answers if parameter.name in own)
        return next((value for value in inherited if parameter.holds(value)), draw(parameter, rng))

    return ask


def mutated(
    params: Params, parameters: SearchParameters, rng: random.Random, times: int = 1
) -> dict[str, Value]:
    """Change the values of `times` different parameters, or of all if there are fewer."""
    free = [name for name in params if name in parameters and _movable(parameters[name])]
    names = rng.sample(free, min(times, len(free)))
    return {**params, **{name: moved(parameters[name], params[name], rng) for name in names}}


def moved(parameter: SearchParameter, value: Value, rng: random.Random) -> Value:
    """Return another value: any other choice, or a step up or down a range, mostly a short one."""
    assert _movable(parameter)
    if parameter.kind == "categorical":
        return rng.choice([choice for choice in parameter.choices if choice != value])
    assert isinstance(value, int | float)
    low, high, at = (math.log(x) if parameter.log else x for x in (parameter.low, parameter.high, value))
    reached = min(max(rng.gauss(at, _REACH * (high - low)), low), high)
    goal = min(max(math.exp(reached) if parameter.log else reached, parameter.low), parameter.high)
    if parameter.kind == "float":
        return goal if goal != value else draw(parameter, rng)
    new = int(parameter.low) + parameter.step * round((goal - parameter.low) / parameter.step)
    if new == value:
        steps = [value + way * parameter.step for way in (-1, 1)]
        new = rng.choice([int(each) for each in steps if parameter.low <= each <= parameter.high])
    return new


def crossed(first: Params, second: Params, rng: random.Random) -> dict[str, Value] | None:
    """Take some whole branches in which the two differ from `second`, the rest from `first`.

    A branch is one block, or one entry of a stage with everything chosen inside it. None if fewer than
    two branches differ, so that a child would be one of the parents.
    """
    branches = differing(first, second)
    if len(branches) < 2:
        return None
    taken = [branch for branch in branches if rng.random() < _SWAP]
    if len(taken) in (0, len(branches)):
        taken = [rng.choice(branches)]
    kept = {name: value for name, value in first.items() if branch_of(name) not in taken}
    swapped = {name: value for name, value in second.items() if branch_of(name) in taken}
    # the second parent's values also serve parameters of a swapped branch that the first parent lacks
    return {**second, **kept, **swapped}


def branch_of(name: str) -> str:
    """Return the part of a spec that a parameter belongs to: `blocks.expert`, `stages.0.step`, `train.lr`."""
    parts = [part.rstrip("]") for part in re.split(r"[.\[]", name)]
    return ".".join(parts[: 3 if parts[0] == "stages" else 2])


def differing(first: Params, second: Params) -> list[str]:
    """Return the branches that both parents have with different values, and those only `second` has."""
    names = dict.fromkeys(map(branch_of, second))
    return [branch for branch in names if _part(first, branch) != _part(second, branch)]


def words(
    child: Params, parents: Sequence[Parent], edits: Callable[[Params], Sequence[str]] | None = None
) -> list[str]:
    """Describe how a child differs from its first parent, and which differences come from the second.

    Values that the child does not have are omitted: their branch was not taken. `edits` says what edits of
    structure a point has.
    """
    if not parents:
        return ["a random point"]
    changes: list[str] = []
    first, names = parents[0].params, [name for name in child if not name.startswith(EDITED)]
    if edits is not None and _part(child, EDITED) != _part(first, EDITED):
        now, before = edits(child), edits(first)
        changes += [each for each in now if each not in before]
        changes += [f"no longer: {each}" for each in before if each not in now]
    if len(parents) > 1:
        other = parents[1]
        swapped = [
            branch
            for branch in dict.fromkeys(map(branch_of, names))
            if _part(child, branch) == _part(other.params, branch) != _part(first, branch)
        ]
        names = [name for name in names if branch_of(name) not in swapped]
        if swapped:
            what = ", ".join(f"{_branch_words(branch)} from {other.name}" for branch in swapped)
            changes.append(f"crossover of trials {parents[0].name} and {other.name}: {what}")
    for name in names:
        if name not in first:
            changes.append(f"{_words(name)} {_text(child[name])} (new)")
        elif child[name] != first[name]:
            changes.append(f"{_words(name)} {_text(first[name])} -> {_text(child[name])}")
    return changes


def _movable(parameter: SearchParameter) -> bool:
    return len(parameter.choices) > 1 if parameter.kind == "categorical" else parameter.low < parameter.high


def _part(params: Params, branch: str) -> dict[str, Value]:
    if branch == EDITED:
        return {name: value for name, value in params.items() if name.startswith(EDITED)}
    return {name: value for name, value in params.items() if branch_of(name) == branch}


def _words(name: str) -> str:
    """Format a name as place and key, `depth: kv_heads`; in the first stage as the key alone, `step:`."""
    place, _, key = name.partition(".")
    if place == "stages":
        stage, _, key = key.partition(".")
        return f"stage {stage}: {key}" if stage != "0" else f"{key}:"
    if place == "blocks":
        block, _, inner = key.partition(".")
        return f"{block}: {inner}" if inner else f"{block}:"
    return f"{place}: {key}" if key else f"{place}:"


def _branch_words(branch: str) -> str:
    place, _, key = branch.partition(".")
    if place == "stages":
        return _words(branch).rstrip(":")
    return f"{key}.*" if place == "blocks" else branch


def _text(value: Value) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""Spaces: specs in which values may be choices, and the points they hold."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from blocks.base.fields import Grid
from composer.language.baselines import entries
from composer.language.edits import EDITS, NO_EDIT, PLACES, as_lists, edited
from composer.language.load import finish, in_order, read_let, read_tree, unused_let
from composer.language.parsing.choice import Choice, SearchParameter, Value
from composer.language.parsing.missing import fill_in
from composer.language.parsing.resolve import Resolver
from composer.language.schema.identity import plain
from composer.language.schema.search import SearchConfig
from composer.language.schema.spec import Spec
from composer.language.validation.describe_types import marker, type_at
from composer.language.validation.search_checks import against_search, read_search
from composer.language.validation.semantic import undefined, unused, uses, valid_parts
from composer.language.validation.validate import build
from composer.settings.errors import Fault, SpecError
from composer.settings.tree import Flaws, Node, fault_at, form, join, planted, within

Ask: TypeAlias = Callable[[SearchParameter], Value]

_DIGITS = 12
_MOST = 300_000
"""Values looked at while every alternative is taken once."""
_BETWEEN = 16
_GOLDEN = 0.6180339887
_TRIES = 500
EDITED = "edits."
"""The first part of the names of edit parameters."""
_VARIABLE = ("model", "blocks", "stages", "train")


@dataclass(frozen=True)
class Point:
    """One spec of a space, and the answers that lead to it."""

    params: dict[str, Value]
    spec: Spec


class InvalidPoint(SpecError):
    """Answers that lead to no valid spec; `params` holds them."""

    def __init__(self, faults: Sequence[Fault], params: Mapping[str, Value], note: str = "") -> None:
        super().__init__(faults)
        self.params, self.note = dict(params), note

    def __str__(self) -> str:
        answers = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return f"{super().__str__()}\nat the point {answers or 'without parameters'}{self.note}"


class Space:
    """A space, read once; its points are resolved from the tree in memory.

    Attributes: `name`, `search` (its config), `baselines` (as it names them), `parameters` (all of them, in
    the order in which they are met).
    """

    def __init__(self, tree: Node) -> None:
        """Check the space and every alternative in it; SpecError names all faults found."""
        assert isinstance(tree.value, dict)
        self._tree = tree
        self._top = tree.value
        self._choices: dict[str, Choice] = {}
        search, faults = read_search(tree)
        self.search: SearchConfig = search
        self._let, wrong = read_let(self._top.get("let"))
        self._fixed, more = self._fixed_part()
        flaws = tree.flaws or Flaws()
        faults += [*flaws.faults, *wrong, *more]
        self.parameters, reached = self._explore()
        self._edits = edit_parameters(search.edits)
        self.parameters += tuple(parameter for pair in self._edits for parameter in pair)
        faults += reached
        if not faults and not self.parameters:
            faults.append(
                fault_at(tree, (), "at least one choice", "none", "{choice: [..]} in place of a value")
            )
        self.baselines, missing = entries(tree, self._fixed.get("caps"))
        faults += missing
        faults = [each for each in faults if not within(each.path, flaws.unknown) or each in flaws.faults]
        if faults:
            raise SpecError(in_order(faults))
        self.name: str = self._fixed["name"].plain

    def point(self, ask: Ask) -> Point:
        """Resolve the point that `ask` chooses, which is asked once for each parameter of a taken branch.

        Raises:
            InvalidPoint: the answers make no valid spec.
        """
        tree, resolver, _ = self._edited(ask)
        try:
            spec = finish(tree, resolver)
        except SpecError as error:
            raise InvalidPoint(error.faults, resolver.params) from None
        if faults := list(against_search(self.search, self._tree, spec.train, spec.caps)):
            raise InvalidPoint(faults, resolver.params)
        return Point(resolver.params, spec)

    def tree(self, ask: Ask) -> tuple[dict[str, Value], dict[str, Any]]:
        """Resolve the point that `ask` chooses to its answers and to plain data, which no check has seen.

        The data is shared between points, so not to be changed.

        Raises:
            InvalidPoint: the answers lead to what cannot be resolved.
        """
        tree, resolver, _ = self._edited(ask)
        if resolver.faults:
            raise InvalidPoint(in_order(resolver.faults), resolver.params)
        return resolver.params, tree.plain

    def edits(self, params: Mapping[str, Value]) -> list[str]:
        """Say in words what edits of structure a point has.

        Raises:
            InvalidPoint: one of them cannot be made.
        """
        return self._edited(lambda parameter: params[parameter.name])[2] if self._edits else []

    def example(self, seed: int = 0) -> Point:
        """Give some valid point, the first one where it is valid.

        Raises:
            InvalidPoint: none of a few hundred tried is valid; the faults are those of the first.
        """
        try:
            return self.point(
                lambda parameter: (
                    parameter.choices[0] if parameter.choices else _number(parameter, parameter.low)
                )
            )
        except InvalidPoint as error:
            first = error
        rng = random.Random(seed)
        for _ in range(_TRIES):
            try:
                return self.point(lambda parameter: draw(parameter, rng))
            except InvalidPoint:
                pass
        note = f"; of {_TRIES} other points tried none is valid either"
        raise InvalidPoint(first.faults, first.params, note)

    def fault(self, path: tuple[str | int, ...], expected: str, got: str, hint: str = "") -> Fault:
        """Make a fault at a path of the space."""
        return fault_at(self._tree, path, expected, got, hint)

    def describe(self) -> str:
        """List the parameters, one a line."""
        return "\n".join(map(str, self.parameters))

    def lines(self) -> list[str]:
        """Write all that decides what a trial is and how it is judged, one `path: value` a line."""
        sections = {name: self._top[name].plain for name in ("let", *_VARIABLE, "caps") if name in self._top}
        return list(_lines(sections | {"search": plain(self.search)}, ""))

    def identity(self) -> str:
        """Hash `lines`: two spaces with the same identity can share a study."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()[:_DIGITS]

    def _fixed_part(self) -> tuple[dict[str, Node], list[Fault]]:
        resolver = Resolver({}, refusal="choices are allowed only in model, blocks, stages, train and let")
        names = [name for name in self._top if name not in ("let", "search", *_VARIABLE)]
        return {name: resolver.resolve(self._top[name], name) for name in names}, resolver.faults

    def _resolve(self, ask: Ask) -> tuple[Node, Resolver]:
        resolver = Resolver(self._let, ask, self._choices)
        resolver.broken += self._tree.flaws.unknown if self._tree.flaws else []
        top = self._top
        sections = dict(self._fixed)
        if "stages" in top:
            sections["stages"] = resolver.resolve(top["stages"], "stages")
        if "blocks" in top:
            sections["blocks"] = self._used_blocks(
                resolver, {node.value for _, node in uses(sections.get("stages"))}
            )
        for name in ("model", "train"):
            if name in top:
                sections[name] = resolver.resolve(top[name], name)
        return fill_in(Node(sections, self._tree.place), resolver), resolver

    def _edited(self, ask: Ask) -> tuple[Node, Resolver, list[str]]:
        """Resolve a point and make its edits; also return these in words."""
        tree, resolver = self._resolve(ask)
        edits: list[str] = []
        for move, place in self._edits if not resolver.faults else ():
            name = resolver.params[move.name] = ask(move)
            if name == NO_EDIT:
                continue
            number = resolver.params[place.name] = ask(place)
            assert isinstance(name, str)
            assert isinstance(number, int)
            try:
                edit = edited(as_lists(tree.plain), name, number)
            except SpecError as error:
                raise InvalidPoint(error.faults, resolver.params) from None
            if edit is None:
                fault = self.fault(("search", "edits"), f"a spec with something to {name}", "none")
                raise InvalidPoint([fault], resolver.params)
            tree = planted(edit.tree, self._tree.place)
            edits.append(edit.words)
        return tree, resolver, edits

    def _used_blocks(self, resolver: Resolver, used: set[object]) -> Node:
        node, branch_path = resolver.outer(self._top["blocks"], "blocks", "blocks")
        if not isinstance(node.value, dict):
            return node
        kept = {
            name: resolver.resolve(block, join("blocks", name), join(branch_path, name))
            for name, block in node.value.items()
            if name in used
        }
        return Node(kept, node.place, node.key)

    def _explore(self) -> tuple[tuple[SearchParameter, ...], list[Fault]]:
        """Take each alternative of each parameter once; collect what is wrong whatever else is chosen."""
        parameters: dict[str, SearchParameter] = {}
        faults: list[Fault] = []
        lets: set[str] = set()
        used: set[object] = set()
        waiting: list[dict[str, Value]] = [{}]
        for count, wanted in enumerate(waiting):
            if count * self._tree.size > _MOST:
                most = _MOST // self._tree.size
                expected = f"at most {most} alternatives in a file of {self._tree.size} values"
                faults.append(fault_at(self._tree, (), expected, "more"))
                break
            tree, resolver = self._resolve(partial(_wanted, wanted))
            lets |= resolver.names.keys()
            used.update(node.value for _, node in uses(tree.child("stages")))
            faults += self._always_wrong(tree, resolver)
            for name, answer in resolver.params.items():
                if name not in parameters:
                    parameters[name] = self._choices[name].parameter
                    others = (other for other in standing(parameters[name]) if other != answer)
                    waiting += [{**resolver.params, name: other} for other in others]
        if "train.seed" in parameters:
            expected = "one seed for all candidates, which differ in more than that"
            faults.append(fault_at(self._tree, ("train", "seed"), expected, "a choice"))
        faults += unused_let(self._let, lets)
        written = self._top["blocks"].value if "blocks" in self._top else None
        if isinstance(written, dict) and form(written) is None:
            faults += [
                node.fault(join("blocks", name), unused(name), "", key=True)
                for name, node in written.items()
                if name not in used
            ]
        return tuple(parameters.values()), faults

    def _always_wrong(self, tree: Node, resolver: Resolver) -> Iterator[Fault]:
        """Yield what is wrong with an alternative whatever is chosen beside it."""
        yield from resolver.faults
        spec = build(Spec, tree, broken=resolver.broken)
        faults = [*([] if isinstance(spec, Spec) else spec), *undefined(tree)]
        yield from (self._of_range(fault, tree) for fault in faults if not resolver.hides(fault.path))
        sound = spec if isinstance(spec, Spec) and not resolver.broken else None
        parts = sound or valid_parts(tree, resolver.broken)
        if not resolver.hides("train") and not (parts.train is None and tree.child("train")):
            yield from against_search(self.search, self._tree, parts.train, parts.caps)

    def _of_range(self, fault: Fault, tree: Node) -> Fault:
        """Say of a fault of a number drawn from a range that it is one, and what to write instead."""
        choice = self._choices.get(fault.path)
        if choice is None or choice.parameter.kind == "categorical":
            return fault
        low, high = choice.parameter.low, choice.parameter.high
        if grid := marker(type_at(Spec, tree, fault.path.split(".")), Grid):
            listed = [
                str(grid.nth(n))
                for n in _spread(grid.rank(max(int(low) - 1, 0)) + 1, grid.rank(max(int(high), 0)))
            ]
            hint = f"write {{choice: [{', '.join(listed)}]}}" if listed else ""
            got = f"a range of numbers from {low:.0f} to {high:.0f}"
            return replace(fault, expected=f"{grid.words} whatever is drawn", got=got, hint=hint)
        if choice.parameter.kind != "float" or not fault.expected.startswith("a whole number"):
            return fault
        whole = low.is_integer() and high.is_integer()
        hint = f"write {{int: [{low:.0f}, {high:.0f}]}}" if whole else "write {int: [low, high]}"
        return replace(fault, got="a range of numbers with fractions", hint=hint)


def load_space(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Space:
    """Load the space at `path`, with `overrides` such as `search.trials=8` laid on top.

    Raises:
        SpecError: the file cannot be read, or it is not a valid space.
    """
    return Space(read_tree(path, overrides))


def edit_parameters(count: int) -> list[tuple[SearchParameter, SearchParameter]]:
    """Return for each of `count` edits the parameter for its kind and the one for its place among these."""
    kinds = (NO_EDIT, *EDITS)
    return [
        (
            SearchParameter(f"{EDITED}{n}.kind", "categorical", kinds),
            SearchParameter(f"{EDITED}{n}.which", "int", low=0, high=PLACES - 1),
        )
        for n in range(count)
    ]


def draw(parameter: SearchParameter, rng: random.Random) -> Value:
    """Draw a uniform answer to a parameter, uniform on the logarithmic scale where it asks for that."""
    if parameter.choices:
        return rng.choice(parameter.choices)
    if parameter.log:
        value = math.exp(rng.uniform(math.log(parameter.low), math.log(parameter.high)))
        return _number(
            parameter,
            round(value) if parameter.kind == "int" else min(max(value, parameter.low), parameter.high),
        )
    if parameter.kind == "int":
        return rng.randrange(int(parameter.low), int(parameter.high) + 1, parameter.step)
    return rng.uniform(parameter.low, parameter.high)


def _wanted(wanted: Mapping[str, Value], parameter: SearchParameter) -> Value:
    return wanted.get(parameter.name, standing(parameter)[0])


def standing(parameter: SearchParameter) -> Sequence[Value]:
    """Give answers that stand for all: every choice; of a range both ends and what lies between.

    Of whole numbers that are all where they are few. Between the ends of a range of floats it is a number
    with a fraction.
    """
    if parameter.choices:
        return parameter.choices
    low, high = parameter.low, parameter.high
    if parameter.kind == "int":
        count = int(high - low) // parameter.step
        return [int(low) + parameter.step * n for n in _spread(0, count)]
    between = low * (high / low) ** _GOLDEN if parameter.log else low + (high - low) * _GOLDEN
    return list(dict.fromkeys([low, between, high]))


def _spread(first: int, last: int) -> list[int]:
    """Return whole numbers from the first to the last, both included: all where they are few."""
    parts = min(last - first, _BETWEEN) or 1
    spread = (first + (last - first) * i // parts for i in range(parts + 1))
    return list(dict.fromkeys(spread)) if first <= last else []


def _number(parameter: SearchParameter, value: float) -> Value:
    return int(value) if parameter.kind == "int" else value


def _lines(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key in sorted(value):
            yield from _lines(value[key], join(path, key))
    elif isinstance(value, list | tuple) and any(isinstance(item, dict | list | tuple) for item in value):
        for i, item in enumerate(value):
            yield from _lines(item, join(path, i))
    else:
        yield f"{path}: {json.dumps(value)}"

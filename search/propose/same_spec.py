"""Finding the point of a space that resolves to a given spec.

A parameter that the spec's own space has too keeps its value. Elsewhere the value at the parameter's
place in the spec is used. If a parameter has no place there (a name in `let`, an alternative), its values are
tried. A point matches if it has the same run hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from composer.language.description.show import document
from composer.language.parsing.choice import SearchParameter, Value
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.space import InvalidPoint, Point, Space
from composer.settings.tree import join

TRIES = 500
"""Most points that are resolved to find one spec."""

_NOTHING = object()
_TEXT = ("schema", "name", "caps")
"""Sections that a run hash does not cover."""
_COMPARED = 20
"""Number of points among which the nearest is reported if none matches."""
_FAR = 1_000_000


class SameSpec:
    """Finds specs among the points of one space; the values that led to the last one are tried first."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._last: dict[str, Value] = {}

    def find(self, identity: str, params: Mapping[str, Value], spec: Spec | None) -> Point | str:
        """Return the point with the run hash `identity`, or why there is none.

        Args:
            identity: the run hash.
            params: the values of the parameters in the space that the spec comes from.
            spec: the spec itself; None if only its hash is known.
        """
        there = {} if spec is None else document(spec)
        misses: list[tuple[int, str]] = []
        for tried in self._tried(params, there):
            if isinstance(tried, Point) and run_hash(tried.spec) == identity:
                self._last = tried.params
                return tried
            if len(misses) < _COMPARED:
                misses.append(_miss(tried, there))
        return min(misses, key=lambda miss: miss[0])[1]

    def _tried(self, params: Mapping[str, Value], spec: Mapping[str, Any]) -> Iterator[_Tried]:
        """Resolve point after point, varying the last of the open parameters first."""
        chosen: list[int] = []
        for _ in range(TRIES):
            answers = _Answers(lambda parameter: self._answers(parameter, params, spec), chosen)
            try:
                yield self._space.point(answers)
            except (InvalidPoint, _Unanswered) as missed:
                yield missed
            chosen = answers.next()
            if not chosen:
                return

    def _answers(
        self, parameter: SearchParameter, params: Mapping[str, Value], spec: Mapping[str, Any]
    ) -> list[Value]:
        """Return the possible values, likeliest first.

        Raises:
            _Unanswered: none leads to the spec.
        """
        if parameter.name in params and parameter.holds(params[parameter.name]):
            return [params[parameter.name]]
        there = _at(spec, parameter.name)
        # null means a value that follows from others
        if there is _NOTHING or there is None or isinstance(there, dict | list | tuple):
            likely = (
                value
                for value in (self._last.get(parameter.name), *params.values())
                if parameter.holds(value)
            )
            # 1, 1.0 and true are different values
            possible = list(
                {(type(value), value): value for value in (*likely, *_all(parameter, spec))}.values()
            )
        else:
            possible = _standing_for(there, parameter)
        if not possible:
            raise _Unanswered(f"{parameter.name} is {'not known' if there is _NOTHING else there} there")
        return possible


class _Unanswered(Exception):
    """No value of a parameter can lead to the spec."""


_Tried: TypeAlias = Point | InvalidPoint | _Unanswered


class _Answers:
    """Chooses the values of one point: `chosen` has the index of each, 0 beyond its end."""

    def __init__(self, possible: Callable[[SearchParameter], list[Value]], chosen: list[int]) -> None:
        self._possible, self._wanted = possible, chosen
        self._chosen: list[int] = []
        self._counts: list[int] = []

    def __call__(self, parameter: SearchParameter) -> Value:
        possible = self._possible(parameter)
        at = len(self._chosen)
        self._chosen.append(self._wanted[at] if at < len(self._wanted) else 0)
        self._counts.append(len(possible))
        return possible[self._chosen[at]]

    def next(self) -> list[int]:
        """Return the indices of the next point; None after the last."""
        chosen = list(self._chosen)
        while chosen and chosen[-1] + 1 == self._counts[len(chosen) - 1]:
            chosen.pop()
        return [*chosen[:-1], chosen[-1] + 1] if chosen else []


def _standing_for(value: Any, parameter: SearchParameter) -> list[Value]:
    """Return the values of a parameter that may resolve to a value in the spec."""
    if parameter.kind != "categorical":
        return [value] if parameter.holds(value) else []
    same = [choice for choice in parameter.choices if choice == value and _is_bool(choice) == _is_bool(value)]
    # a string may resolve to anything: a quantity such as 8Ki, an expression, the name of an alternative
    return same or [choice for choice in parameter.choices if isinstance(choice, str)]


def _all(parameter: SearchParameter, spec: Mapping[str, Any]) -> Iterator[Value]:
    """Yield the values of a parameter that can be tried; of real numbers those that occur in the spec."""
    if parameter.kind == "categorical":
        yield from parameter.choices
    elif parameter.kind == "int":
        yield from islice(range(int(parameter.low), int(parameter.high) + 1, parameter.step), TRIES)
    else:
        yield from (value for _, value in _flat(spec) if parameter.holds(value))


def _at(spec: Mapping[str, Any], name: str) -> Any:
    """Return the value in a spec at the place of a parameter."""
    inner: Any = spec
    for step in _outside(name).split("."):
        if isinstance(inner, dict) and step in inner:
            inner = inner[step]
        elif isinstance(inner, list | tuple) and step.isdecimal() and int(step) < len(inner):
            inner = inner[int(step)]
        else:
            return _NOTHING
    return inner


def _outside(name: str) -> str:
    """Return the name of a parameter without the alternatives in brackets, which are no part of its place."""
    kept, depth = "", 0
    for letter in name:
        depth += letter == "["
        kept += "" if depth else letter
        depth -= letter == "]"
    return kept


def _miss(tried: _Tried, spec: Mapping[str, Any]) -> tuple[int, str]:
    """Return in how many values a point differs from the spec, and the first of them."""
    if isinstance(tried, InvalidPoint):
        return _FAR, str(tried.faults[0])
    if isinstance(tried, _Unanswered):
        return _FAR, str(tried)
    old, new = dict(_flat(spec)), dict(_flat(document(tried.spec)))
    others = [path for path in {**old, **new} if path not in old or path not in new or old[path] != new[path]]
    if not spec or not others:
        return _FAR, ""
    return len(others), f"{others[0]} is {_said(old, others[0])} there, {_said(new, others[0])} here"


def _said(values: Mapping[str, Any], path: str) -> str:
    return f"{values[path]}" if path in values else "missing"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values that a run hash covers."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if path or key not in _TEXT:
                yield from _flat(item, join(path, key))
    else:
        yield path, value


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)

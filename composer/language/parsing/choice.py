"""Choices, which a space may hold in place of a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from blocks.base.fields import parse_quantity
from composer.settings.errors import Fault, close, listed, shown
from composer.settings.tree import Node, form

Value: TypeAlias = str | int | float | bool | None
Kind: TypeAlias = Literal["categorical", "int", "float"]

_KEYS = {"choice": ("choice",), "int": ("int", "step", "log"), "float": ("float", "log")}
_FORMS = {
    "choice": "{choice: [..]} or {choice: {name: ..}}",
    "int": "{int: [low, high], step: s, log: true}",
    "float": "{float: [low, high], log: true}",
}


class SearchParameter(NamedTuple):
    """One parameter of a space.

    `name` is the path of the value, stable per branch: `blocks.expert.experts`, `let.w`, and behind a named
    alternative `stages.0.step[dreamer].1.combine`. A categorical parameter has `choices` (the values
    themselves where all are scalars, else labels); the others `low` and `high`, both included.
    """

    name: str
    kind: Kind
    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    step: int = 1
    log: bool = False

    def __str__(self) -> str:
        if self.kind == "categorical":
            return f"{self.name}: {listed(map(_text, self.choices))}"
        step = f" in steps of {self.step}" if self.step != 1 else ""
        return f"{self.name}: {self.kind} from {self.low} to {self.high}{step}{' (log)' if self.log else ''}"

    def holds(self, value: Value) -> bool:
        """Whether `value` is an answer to this question."""
        if self.kind == "categorical":
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        whole = self.kind == "float" or (isinstance(value, int) and (value - self.low) % self.step == 0)
        return whole and self.low <= value <= self.high


class Choice(NamedTuple):
    """A choice as written: its parameter and, for a categorical one, the tree that each answer stands for."""

    parameter: SearchParameter
    alternatives: Mapping[Value, Node]
    node: Node

    def take(self, answer: Value) -> tuple[Node, str]:
        """Give the tree of an answer, and the suffix that parameter names inside it carry."""
        if self.parameter.kind == "categorical":
            return self.alternatives[answer], f"[{_text(answer)}]"
        return Node(answer, self.node.place, self.node.key), ""


def read_choice(node: Node, name: str) -> Choice | list[Fault]:
    """Read the mapping `node`, which holds a reserved key, as a choice, or say what is wrong with it."""
    mapping = node.value
    assert isinstance(mapping, dict)
    kind = form(mapping)
    assert kind is not None
    strange = [key for key in mapping if key not in _KEYS[kind]]
    if strange:
        return [
            mapping[key].fault(
                f"{name}.{key}",
                f"a choice, {_FORMS[kind]}",
                f"the key {key}",
                close(key, _KEYS[kind]),
                key=True,
            )
            for key in strange
        ]
    return _categorical(node, name) if kind == "choice" else _range(node, name, kind)


def _categorical(node: Node, name: str) -> Choice | list[Fault]:
    assert isinstance(node.value, dict)
    body = node.value["choice"]
    if not body.value or not isinstance(body.value, dict | list):
        return [body.fault(f"{name}.choice", "a list or mapping of alternatives", shown(body.value))]
    options: dict[Value, Node] = {}
    if isinstance(body.value, dict):
        options.update(body.value)
    else:
        scalars = not any(isinstance(item.value, dict | list) for item in body.value)
        for item in body.value:
            label = item.plain if scalars and not item.live else _flow(item.plain)
            if label in options:
                return [item.fault(f"{name}.choice", "each alternative once", f"{_text(label)} again")]
            options[label] = item
    return Choice(SearchParameter(name, "categorical", tuple(options)), options, node)


def _range(node: Node, name: str, kind: str) -> Choice | list[Fault]:
    assert isinstance(node.value, dict)
    faults: list[Fault] = []
    body = node.value[kind]
    bounds = tuple(map(_whole, body.plain)) if kind == "int" and isinstance(body.value, list) else body.plain
    types = (int,) if kind == "int" else (int, float)
    good = isinstance(bounds, tuple) and len(bounds) == 2 and all(type(bound) in types for bound in bounds)
    what = "two whole numbers" if kind == "int" else "two numbers"
    if not good or not abs(bounds[0]) + abs(bounds[1]) < 1e18:
        got = _flow(bounds) if isinstance(bounds, tuple) else shown(bounds)
        return [body.fault(f"{name}.{kind}", f"{what} [low, high]", got)]
    low, high = bounds
    if low > high:
        faults.append(body.fault(f"{name}.{kind}", "low before high", _flow(bounds)))
    step = _whole(node.value["step"].plain) if "step" in node.value else 1
    log = node.value["log"].plain if "log" in node.value else False
    if type(step) is not int or step < 1:
        faults.append(node.value["step"].fault(f"{name}.step", "a whole number above 0", shown(step)))
    elif log is True and step != 1:
        faults.append(node.value["step"].fault(f"{name}.step", "no step with log: true", shown(step)))
    elif (high - low) % step and kind == "int":
        faults.append(
            node.value["step"].fault(f"{name}.step", f"a step that divides {high - low}", shown(step))
        )
    if type(log) is not bool:
        faults.append(node.value["log"].fault(f"{name}.log", "true or false", shown(log)))
    elif log and low <= 0:
        faults.append(body.fault(f"{name}.{kind}", "a low above 0 for log: true", shown(low)))
    if faults:
        return faults
    if kind == "float":
        return Choice(SearchParameter(name, "float", low=float(low), high=float(high), log=log), {}, node)
    return Choice(SearchParameter(name, "int", low=low, high=high, step=step, log=log), {}, node)


def _whole(value: Any) -> Any:
    try:
        return parse_quantity(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _text(value: Value) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _flow(value: object) -> str:
    """Write a plain tree on one line, as a label."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value)  # type: ignore[arg-type]

"""Reading YAML 1.2 (core schema) into a tree with places: safe, strict about keys, bounded.

The events come from PyYAML; its own composer and resolver follow YAML 1.1, recurse without limit and
let a duplicate key win, so the tree is put together here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from composer.language.parsing.yaml_faults import DEPTH, explain, fault, unprintable
from composer.settings.errors import Fault, SpecError
from composer.settings.tree import LIMIT, Flaws, Node, Place, Scalar, join

_LONGEST = 1_000_000
_DIGITS = 60
_ANCHORED = (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("null", "Null", "NULL", "~", "")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def scalar(text: str) -> Scalar:
    """Read an unquoted scalar by the core schema: `3e-3` a number, `1:3`, `no` and `1_000` text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text, 8 if text[:2] == "0o" else 16 if text[:2] == "0x" else 10)
    if _FLOAT.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return math.nan if special[1] is None else float(f"{special[1]}inf")
    return text


def read(text: str, file: str, *, option: str = "", flaws: Flaws | None = None) -> Node:
    """Read one YAML document from `text`; `file` names it in places.

    `option` is the path that --set gives the text as a value to, if it does. Duplicate keys, unknown tags
    and the like go to `flaws`, if given.

    Raises:
        SpecError: a syntax error; without `flaws` also those, all of them at once.
    """
    if len(text) > _LONGEST:
        raise SpecError([Fault(file, 0, 0, "", f"at most {_LONGEST} characters", str(len(text)))])
    if problem := unprintable(text):
        raise SpecError([fault(problem, text, file)])
    reader = _Reader(file)
    try:
        root = reader.document(iter(_events(text)))
    except _Stop as stop:
        raise SpecError([*reader.faults, stop.fault]) from None
    except yaml.MarkedYAMLError as error:
        raise SpecError([*reader.faults, _syntax(error, text, file, option)]) from None
    if reader.faults and flaws is None:
        raise SpecError(reader.faults)
    if flaws is not None:
        flaws.faults += reader.faults
        flaws.unknown += reader.unknown
    return root


def _syntax(error: yaml.MarkedYAMLError, text: str, file: str, option: str) -> Fault:
    """Describe the error at which the parser stopped."""
    at, begun = error.problem_mark, error.context_mark
    if at is None:
        return Fault(file, 0, 0, "", "valid YAML", error.problem or "something else")
    problem = explain(text, at.index, begun.index if begun else None, option)
    if problem is not None:
        return fault(problem, text, file)
    got = " ".join(filter(None, (error.context, error.problem)))
    return Fault(file, at.line + 1, at.column + 1, "", "valid YAML", got)


def _events(text: str) -> Iterator[Any]:
    loader = _Loader(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


class _Stop(Exception):
    """A fault after which reading cannot continue."""

    def __init__(self, place: Place, expected: str, got: str, hint: str = "") -> None:
        super().__init__(expected)
        self.fault = Fault(*place, "", expected, got, hint)


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.anchors: dict[str, Node] = {}
        self.faults: list[Fault] = []
        self.unknown: list[str] = []

    def document(self, events: Iterator[Any]) -> Node:
        next(events)
        event = next(events)
        if isinstance(event, yaml.StreamEndEvent):
            return Node(None, Place(self.file, 1, 1))
        root = self.node(events, next(events), "", 0)
        next(events)
        if not isinstance(event := next(events), yaml.StreamEndEvent):
            raise _Stop(self.place(event), "one document", "a second one", "remove the line ---")
        return root

    def place(self, event: Any) -> Place:
        return Place(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def node(self, events: Iterator[Any], event: Any, path: str, depth: int) -> Node:
        place, anchor = self.place(event), event.anchor if isinstance(event, _ANCHORED) else None
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                name = f"*{event.anchor}"
                hint = f"put quotes around text that begins with *: '{name}'"
                raise _Stop(place, "an alias of an anchor above", f"{name}, which is undefined", hint)
            node = self.anchors[event.anchor]
        elif depth > DEPTH:
            raise _Stop(place, f"at most {DEPTH} levels", "more")
        elif isinstance(event, yaml.ScalarEvent):
            node = Node(self.scalar(event, place, path), place)
            node.text = event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            self.tag(event, place, path, "seq")
            items: list[Node] = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(self.node(events, event, join(path, len(items)), depth + 1))
            node = Node(items, place)
        else:
            self.tag(event, place, path, "map")
            node = Node(self.mapping(events, path, depth), place)
        if node.size > LIMIT:
            raise _Stop(place, f"at most {LIMIT} values once aliases are written out", "more")
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def mapping(self, events: Iterator[Any], path: str, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            place = self.place(event)
            head = self.node(events, event, path, depth + 1)
            key = head.value
            body = self.node(
                events, next(events), join(path, key) if isinstance(key, str) else path, depth + 1
            )
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                merged = self.inherited(body, join(path, "<<")) | merged
            elif not isinstance(key, str):
                got = "a list or mapping" if isinstance(key, dict | list) else f"{event.value}"
                hint = "" if isinstance(key, dict | list) else f'write "{event.value}"'
                self.faults.append(Fault(*place, path, "a name as key", got, hint))
            elif key in own:
                first = own[key].key
                hint = f"first on line {first.line}" if first else ""
                self.faults.append(Fault(*place, join(path, key), "each key once", "it again", hint))
            else:
                own[key] = body.at(place)
        return merged | own

    def inherited(self, body: Node, path: str) -> dict[str, Node]:
        sources = body.value if isinstance(body.value, list) else [body]
        merged: dict[str, Node] = {}
        for source in sources:
            if isinstance(source.value, dict):
                merged = source.value | merged
            else:
                self.faults.append(source.fault(path, "a mapping or a list of mappings", "something else"))
                self.unknown.append(path.rpartition(".")[0])
        return merged

    def tag(self, event: Any, place: Place, path: str, kind: str) -> bool:
        """Whether a tag was given; any but the standard one of its kind is a fault."""
        if event.tag in (None, "!", f"tag:yaml.org,2002:{kind}"):
            return event.tag is not None
        self.unknown.append(path)
        self.faults.append(Fault(*place, path, "no tag", event.tag.replace("tag:yaml.org,2002:", "!!")))
        return True

    def scalar(self, event: Any, place: Place, path: str) -> Scalar:
        text: str = event.value
        if self.tag(event, place, path, "str") or not event.implicit[0]:
            return text
        if len(text) > _DIGITS and (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
            self.faults.append(Fault(*place, path, f"at most {_DIGITS} digits", str(len(text))))
            self.unknown.append(path)
            return None
        return scalar(text)

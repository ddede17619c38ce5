"""The tree between YAML and the validated spec: plain values, each with the place it came from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from composer.settings.errors import Fault, shown

Scalar: TypeAlias = str | int | float | bool | None

CHOICE_KEYS = ("choice", "int", "float")
"""Reserved keys: a mapping that holds one of them is a choice."""

LIMIT = 100_000
"""Nodes a tree may hold when written out, so that aliases and references cannot multiply without end."""


class Place(NamedTuple):
    """Where a value was written. Line and column count from 1, and are 0 for an option such as `--set`."""

    file: str
    line: int = 0
    column: int = 0


class Flaws:
    """What was wrong with the text of a tree, which was read nevertheless; nothing is known of some paths.

    `files` counts those read for the tree, each as often as it is extended.
    """

    def __init__(self) -> None:
        self.files = 0
        self.faults: list[Fault] = []
        self.unknown: list[str] = []


class Node:
    """A value with its place; never changed once made, so that trees can share parts.

    `key` is the place of the key in front of it, `note` the expression it was computed from, `live` says
    whether anything below still has to be resolved, `size` how many nodes it holds when written out, `text`
    how a scalar was spelt where that is known, `flaws` of the root of a file what was wrong with its text.
    """

    __slots__ = ("_plain", "flaws", "key", "live", "note", "place", "size", "text", "value")

    def __init__(
        self,
        value: dict[str, Node] | list[Node] | Scalar,
        place: Place,
        key: Place | None = None,
        note: str = "",
    ) -> None:
        self.value, self.place, self.key, self.note = value, place, key, note
        self.text = ""
        self._plain: Any = None
        self.flaws: Flaws | None = None
        self.size, self.live = 1, False
        if isinstance(value, str):
            self.live = "${" in value
        elif isinstance(value, dict | list):
            self.live = isinstance(value, dict) and form(value) is not None
            for child in value.values() if isinstance(value, dict) else value:
                self.size += child.size
                self.live = self.live or child.live

    def __str__(self) -> str:
        return shown(self.value)

    def child(self, step: str | int) -> Node | None:
        """Give the node below at a key or index, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(str(step))
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None

    def at(self, key: Place | None) -> Node:
        """Give the same node behind another key."""
        if key is self.key:
            return self
        copy = Node.__new__(Node)
        copy.value, copy.place, copy.key, copy.note = self.value, self.place, key, self.note
        copy.live, copy.size, copy._plain, copy.text = self.live, self.size, self._plain, self.text
        copy.flaws = None
        return copy

    @property
    def plain(self) -> Any:
        """The value alone, lists as tuples; made once and shared, so not to be changed."""
        if isinstance(self.value, dict):
            if self._plain is None:
                self._plain = {name: child.plain for name, child in self.value.items()}
            return self._plain
        if isinstance(self.value, list):
            if self._plain is None:
                self._plain = tuple(child.plain for child in self.value)
            return self._plain
        return self.value

    def fault(self, path: str, expected: str, got: str, hint: str = "", *, key: bool = False) -> Fault:
        """Make a fault at this value, or at its key."""
        place = (self.key if key else None) or self.place
        return Fault(*place, path, expected, got, hint)


def planted(value: Any, place: Place) -> Node:
    """Give plain data as a tree that stands at one place."""
    if isinstance(value, dict):
        return Node({str(name): planted(child, place) for name, child in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node([planted(child, place) for child in value], place)
    return Node(value, place)


def fault_at(
    tree: Node,
    path: tuple[str | int, ...],
    expected: str,
    got: str,
    hint: str = "",
    *,
    key: bool = False,
) -> Fault:
    """Make a fault at a path of the tree; where the key is not written, at the innermost that is."""
    node = tree
    for step in path:
        child = node.child(int(step) if isinstance(node.value, list) else step)
        if child is None:
            return Fault(*(node.key or node.place), join(*path), expected, got, hint)
        node = child
    return node.fault(join(*path), expected, got, hint, key=key)


def form(mapping: dict[str, Any]) -> str | None:
    """Say which form of choice a mapping is, if any."""
    for key in CHOICE_KEYS:
        if key in mapping:
            return key
    return None


def join(*steps: str | int) -> str:
    """Write a path: `stages.0.recur`."""
    return ".".join([str(step) for step in steps if step != ""])


def below(path: str, step: str | int) -> str:
    """Write one step more of a path that is not empty: `join`, in a hurry."""
    return f"{path}.{step}" if step != "" else path


def within(path: str, above: Iterable[str]) -> bool:
    """Whether a path is one of those `above`, or lies below one."""
    return any(f"{path}.".startswith(f"{each}.") for each in above)


NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What `let` may name."""

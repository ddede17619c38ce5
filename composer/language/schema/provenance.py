"""Provenance: where the values of a spec came from."""

from __future__ import annotations

from composer.settings.tree import Node


class Provenance:
    """The trees a spec was made from, which know their places; not part of a spec's equality.

    `tree` is the resolved one, `source` the merged one, in which `let` and `${..}` still stand.
    """

    def __init__(self, tree: Node | None = None, source: Node | None = None) -> None:
        self.tree, self.source = tree, source

    def origin(self, path: tuple[str | int, ...]) -> str:
        """Say where the value at `path` came from: `file:line`, an option, or `default`."""
        node = self.tree
        for step in path:
            node = node.child(step) if node else None
        if node is None:
            return "default"
        where = f"{node.place.file}:{node.place.line}" if node.place.line else node.place.file
        return f"{where} = {node.note}" if node.note else where

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Provenance)

    def __hash__(self) -> int:
        return 0

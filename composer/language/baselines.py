"""Baselines of a space: specs by path, used as they are or matched to the caps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from composer.language.load import load
from composer.language.schema.caps import Caps
from composer.language.schema.search import MatchedBaseline
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import Spec
from composer.language.validation.validate import build
from composer.settings.errors import Fault, SpecError
from composer.settings.tree import Node, fault_at


@dataclass(frozen=True)
class Entry:
    """One baseline of a space.

    Attributes:
        path: of its file.
        spec: as it stands there.
        match: the caps that its sizes are to come up to; empty for one that is trained as it is.
        place: where the space names it.
        bounds: of shape, for one that is matched.
    """

    path: str
    spec: Spec
    match: tuple[str, ...]
    place: Fault
    bounds: ShapeBounds

    def fault(self, expected: str, got: str, hint: str = "") -> Fault:
        """Make a fault at the line of the space that names it."""
        return replace(self.place, expected=expected, got=got, hint=hint)


def entries(tree: Node, caps: Node | None) -> tuple[tuple[Entry, ...], list[Fault]]:
    """Load the baselines of a space, whose caps are resolved; return them, and what is wrong with them.

    One that the config of the search refuses is left out.
    """
    read: list[Entry] = []
    faults: list[Fault] = []
    section = tree.child("search")
    listed = section.child("baselines") if section and not section.live else None
    for i, node in enumerate(listed.value if listed and isinstance(listed.value, list) else ()):
        if isinstance(node.value, dict):
            given = build(MatchedBaseline, node)
            if not isinstance(given, MatchedBaseline):
                continue
            name, match, bounds = given.spec, given.match, given.bounds
        elif isinstance(node.value, str) and node.value:
            name, match, bounds = node.value, (), ShapeBounds()
        else:
            continue
        asked = fault_at(tree, ("search", "baselines", i), "a spec that can be trained", name)
        folder = os.path.dirname(asked.file) if asked.line else ""
        path = os.path.normpath(os.path.join(folder, name))
        try:
            entry = Entry(path, load(path), tuple(dict.fromkeys(match)), asked, bounds)
        except SpecError as error:
            # faults of the file itself are reported where it is named
            faults += [
                each if each.file else replace(asked, expected=each.expected, got=each.got)
                for each in error.faults
            ]
            continue
        # one that is matched is trained as the candidates are
        if entry.spec.train is None and not match:
            faults.append(asked)
        faults += _without_cap(entry, caps)
        read.append(entry)
    return tuple(read), faults


def _without_cap(entry: Entry, caps: Node | None) -> Iterator[Fault]:
    """Yield the caps that it cannot be matched to, if the caps are valid."""
    limits = Caps() if caps is None or caps.value is None else build(Caps, caps, "caps")
    if isinstance(limits, Caps):
        for measure in entry.match:
            if limits.limit(measure) is None:
                hint = f"add caps.{measure}, or leave it out of match"
                yield entry.fault(f"a hard cap on {measure} to match it to", "none", hint)

"""Values that are equal in many records and trials, each kept in memory once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

_MOST = 1000


class Pool:
    """The first values of each name; whoever takes one from here must not change it."""

    def __init__(self, most: int = _MOST) -> None:
        """Remember no more than `most` values of a name, so that different ones take no memory."""
        self._most = most
        self._values: dict[str, dict[Any, Any]] = defaultdict(dict)

    def shared(self, name: str, value: Any) -> Any:
        """Return a value of that name which is the same, if it was among the first; else the value."""
        key = _key(value) if isinstance(value, dict) else (type(value), value)
        known = self._values[name]
        if key is None or (len(known) >= self._most and key not in known):
            return value
        return known.setdefault(key, value)


def _key(value: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return what tells a flat mapping from others; None for one that holds more mappings or lists."""
    # 1, 1.0 and true are equal, but not the same
    parts = []
    for name, each in value.items():
        if isinstance(each, dict | list):
            return None
        parts += [name, type(each), each]
    return tuple(parts)

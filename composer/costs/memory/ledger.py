"""Bytes that are alive while a training step is replayed, and what they come to moment by moment."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from blocks.ir.numbers import total

Terms = dict[str, float]


class Moment(NamedTuple):
    """A moment of a training step: what happens, and the bytes that are alive by term."""

    what: str
    terms: Terms

    @property
    def total(self) -> float:
        """All of them."""
        return total(self.terms.values())


class Ledger:
    """Bytes that are alive, as one number, and what they came to at each moment.

    Attributes:
        totals: bytes alive at each moment.
    """

    def __init__(self) -> None:
        self._alive: float = 0
        self.totals: list[float] = []

    def add(self, term: str, size: float) -> None:
        """Count bytes that come alive; negative ones go."""
        self._alive = self._alive + size

    def moment(self, what: tuple[str, ...], scratch: float) -> None:
        """Note a moment at which `scratch` bytes more are alive; `what` is joined to say what happens."""
        self.totals.append(self._alive + scratch)

    def state(self) -> Any:
        """Return what `restore` takes to come back here."""
        return self._alive

    def restore(self, state: Any) -> None:
        """Go back to an earlier state; moments stay."""
        self._alive = state


class Account(Ledger):
    """The same term by term, with words."""

    def __init__(self) -> None:
        super().__init__()
        self._terms: Terms = defaultdict(float)
        self.moments: list[Moment] = []

    def add(self, term: str, size: float) -> None:
        """Count bytes under a term."""
        self._terms[term] += size

    def moment(self, what: tuple[str, ...], scratch: float) -> None:
        """Note a moment with its words."""
        self.moments.append(Moment("".join(what), {**self._terms, "scratch": scratch}))

    def state(self) -> Any:
        """Return what `restore` takes to come back here."""
        return dict(self._terms)

    def restore(self, state: Any) -> None:
        """Go back to an earlier state; moments stay."""
        self._terms = defaultdict(float, state)

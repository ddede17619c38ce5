"""Bytes alive during the replay of a training step, in total and at each moment."""

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
        """The sum of all terms."""
        return total(self.terms.values())


class Ledger:
    """Bytes alive as one number, with its history.

    Attributes:
        totals: bytes alive at each moment.
    """

    def __init__(self) -> None:
        self._alive: float = 0
        self.totals: list[float] = []

    def add(self, term: str, size: float) -> None:
        """Add allocated bytes; a negative number frees them."""
        self._alive = self._alive + size

    def moment(self, what: tuple[str, ...], scratch: float) -> None:
        """Record a moment with `scratch` more bytes alive; the parts of `what` are joined to describe it."""
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

"""The owner of a store: a space or a study, by its name and the settings that decide its records."""

from __future__ import annotations

from typing import Protocol


class Shared(Protocol):
    """The task that workers share a store for, such as a space."""

    name: str

    def lines(self) -> list[str]:
        """Return all that decides whether a store is its own, one setting a line."""

    def identity(self) -> str:
        """Hash `lines`."""

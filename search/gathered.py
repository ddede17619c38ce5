"""Journals to which many records are appended at once, since each append waits for all other workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Gathered(ABC):
    """A journal of Optuna's, with blocks whose records are appended together at the end."""

    def __init__(self) -> None:
        self._gathered: list[dict[str, Any]] | None = None

    @abstractmethod
    def read(self, start: int) -> Iterator[dict[str, Any]]:
        """Yield records from a number on."""

    @abstractmethod
    def append(self, logs: list[dict[str, Any]]) -> None:
        """Append records, all or none."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Append what is written inside at the end; what is read inside is as of the beginning."""
        self._gathered = []
        try:
            yield
        finally:
            logs, self._gathered = self._gathered, None
            if logs:
                self.append(logs)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, or gather them."""
        if self._gathered is None:
            self.append(logs)
        else:
            self._gathered += logs

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield records from a number on; none while records are gathered."""
        return self.read(log_number_from) if self._gathered is None else iter(())

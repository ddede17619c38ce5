"""Worker processes as the command that started them sees them, wherever they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

from search.run.worker_process import Ended, Job


class CrewMember(Protocol):
    """One worker process."""

    @property
    def number(self) -> int:
        """From 1."""

    @property
    def ended(self) -> Ended | None:
        """How it ended; None while it is running or waits for a place to run."""

    @property
    def output(self) -> str:
        """The file with what it printed, or "" if there is none on this machine."""


class Crew(Protocol):
    """All workers of one command; a context manager that leaves none running."""

    @property
    def each(self) -> Sequence[CrewMember]:
        """The workers, by number."""

    def messages(self) -> Iterator[tuple[CrewMember, Any] | None]:
        """Yield their messages until all have ended; None now and then, and if there is none."""

    def stop(self) -> None:
        """Ask all to save their runs and end."""

    def kill(self) -> None:
        """End all at once."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...


class Plan(Protocol):
    """The workers that a command starts."""

    @property
    def count(self) -> int:
        """Their number."""

    @property
    def here(self) -> bool:
        """Whether there is one, which is the process of the command itself."""

    @property
    def note(self) -> str:
        """Limits and likely problems of the workers, as text; may be empty."""

    def start(self, job: Job) -> Crew:
        """Return the workers, which start as the context is entered."""

"""The interface of a sampler: an entry point of the group `composer.samplers`, or a file of `samplers/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from composer.language.schema.samplers import samplers

if TYPE_CHECKING:
    from composer.language.space import Space
    from search.propose.proposals import Source


@dataclass(frozen=True)
class Sampler:
    """A sampler that a space can name.

    Attributes:
        meaning: a short description for the docs.
        source: makes the source of drafts for a space.
        needs: a module that has to be importable, if any.
        install: what pip installs to provide it.
    """

    meaning: str
    source: Callable[[Space], Source]
    needs: str = ""
    install: str = ""

    @property
    def missing(self) -> bool:
        """Whether a module that it needs is not installed."""
        return bool(self.needs) and find_spec(self.needs) is None


def find_sampler(name: str) -> Sampler:
    """Return the sampler of a name, one of `samplers()`.

    Raises:
        ValueError: the object registered under that name is no `Sampler`.
    """
    point = samplers()[name]
    sampler = point.load()
    if not isinstance(sampler, Sampler):
        raise ValueError(f"{point.value} ({point.group}): expected a Sampler, got {sampler!r}")
    return sampler

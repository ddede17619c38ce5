"""Checks of a search before its first trial, usable without starting one."""

from __future__ import annotations

from collections.abc import Iterator

from composer.language.schema.samplers import samplers
from composer.language.space import Space
from composer.settings.errors import Fault, SpecError, listed
from search.propose.baselines import baseline_faults
from search.propose.sampler import find_sampler


def check_search(space: Space) -> None:
    """Refuse a space that cannot be searched; nothing is created, and torch is not imported.

    Raises:
        SpecError: with all faults: no valid point, a baseline that cannot be compared with the candidates, a
            spec in `start` that is no point of the space, or a sampler whose package is not installed.
    """
    faults = list(sampler_faults(space))
    try:
        space.example()
    except SpecError as error:
        if not faults:
            raise
        faults += error.faults
    else:
        faults += [*baseline_faults(space), *start_faults(space)]
    if faults:
        raise SpecError(faults)


def sampler_faults(space: Space) -> Iterator[Fault]:
    """Yield what is missing for the sampler of a space."""
    name = space.search.sampler
    sampler = find_sampler(name)
    if sampler.missing:
        others = (each for each in samplers() if each != name and not find_sampler(each).missing)
        hint = f"pip install '{sampler.install}', or take {listed(others, 'or')}"
        message = f"{name} needs {sampler.needs}, which is not installed"
        yield space.fault(("search", "sampler"), message, "", hint)


def start_faults(space: Space) -> Iterator[Fault]:
    """Yield why specs in `start` cannot be tried."""
    if not space.search.start:
        return
    # reads other searches, of which most spaces name none
    from search.propose.starts import starts

    try:
        starts(space)
    except SpecError as error:
        yield from error.faults

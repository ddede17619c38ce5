"""What a search refuses before its first trial, so that others can ask without beginning one."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from composer.language.space import Space
from composer.settings.errors import Fault, SpecError
from search.propose.baselines import baseline_faults


def check_search(space: Space) -> None:
    """Refuse a space that cannot be searched as things are; nothing is made, and torch is not imported.

    Raises:
        SpecError: with all faults: no valid point, a baseline that cannot be compared with the candidates, or
            a sampler whose package is not installed.
    """
    faults = list(sampler_faults(space))
    try:
        space.example()
    except SpecError as error:
        if not faults:
            raise
        faults += error.faults
    else:
        faults += baseline_faults(space)
    if faults:
        raise SpecError(faults)


def sampler_faults(space: Space) -> Iterator[Fault]:
    """Yield what the sampler of a space lacks."""
    if space.search.sampler == "gp" and find_spec("scipy") is None:
        hint = "pip install 'attention-composer[gp]', or take tpe, nsga2, evolution or random"
        yield space.fault(("search", "sampler"), "gp needs scipy, which is not installed", "", hint)

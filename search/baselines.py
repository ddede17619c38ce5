"""Baselines: specs that enter first, as they are, to be beaten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer import cost
from composer.costs.caps import check_caps, excesses
from composer.costs.fast import measures
from composer.spec.identity import run_hash
from composer.spec.models import Spec
from composer.spec.space import Space
from search.errors import SearchError


def refuse_seed_knob(space: Space) -> None:
    """Refuse a space whose points differ in the seed alone.

    Raises:
        SearchError: `train.seed` is a knob.
    """
    if any(knob.name == "train.seed" for knob in space.knobs):
        raise SearchError(
            "train.seed: expected one seed for all candidates, got a choice; specs that differ in the "
            "seed alone are the same to a search"
        )


def check_baselines(space: Space) -> None:
    """Refuse baselines that could not be compared with the candidates.

    Raises:
        SpecError: one is over a cap of its own.
        SearchError: one is over a cap of the space, or is trained for less than the last rung.
    """
    assert space.search is not None
    caps = space.example().spec.caps
    rungs = space.search.rungs
    for path, spec in space.baselines:
        assert spec.train is not None
        check_caps(spec)
        for excess in excesses(spec.model_copy(update={"caps": caps}), cost(spec)):
            raise SearchError(
                f"{path}: expected a baseline within the caps of {space.name}, got {excess.cap} {excess}\n"
                "candidates are held to these caps; raise the cap, or take a smaller baseline"
            )
        # rungs in FLOPs may be more than a cheap baseline takes in full
        if isinstance(rungs, tuple) and rungs and rungs[-1] > spec.train.tokens:
            raise SearchError(
                f"{path}: expected train.tokens of at least the last rung ({rungs[-1]}), "
                f"got {spec.train.tokens}"
            )


@dataclass(frozen=True)
class Baseline:
    """A spec to be held against: the name of its file, and what it costs."""

    stem: str
    spec: Spec
    costs: dict[str, float]


def baselines(space: Space) -> dict[str, Baseline]:
    """Return the baselines of a space by their identities; equal ones are one."""
    found: dict[str, Baseline] = {}
    for path, spec in space.baselines:
        found.setdefault(run_hash(spec), Baseline(Path(path).stem, spec, measures(cost(spec))))
    return found

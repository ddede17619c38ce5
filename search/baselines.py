"""Baselines: specs that enter first, to be beaten; as they are, or with sizes solved for the caps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer import cost
from composer.costs.caps import check_caps, excesses
from composer.costs.count import Costs
from composer.costs.fast import measures
from composer.spec.caps import Caps
from composer.spec.entries import Entry
from composer.spec.errors import SpecError
from composer.spec.identity import run_hash
from composer.spec.models import Spec
from composer.spec.space import Space
from search.errors import SearchError
from search.matching import matched


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
        SpecError: one is over a cap of its own, or cannot be matched within all caps of the space.
        SearchError: one is over a cap of the space, or is trained for less than the last rung.
    """
    assert space.search is not None
    caps, rungs = space.example().spec.caps, space.search.rungs
    for entry, spec, _ in entered(space):
        assert spec.train is not None
        check_caps(entry.spec)
        for excess in excesses(spec.model_copy(update={"caps": caps}), _costs(spec, caps)):
            expected, got = f"a baseline within the caps of {space.name}", f"{excess.cap} {excess}"
            if entry.match:
                hint = f"match it to {excess.cap}, too, or begin with other layers"
                raise SpecError([entry.fault(expected, got, hint)])
            raise SearchError(
                f"{entry.path}: expected {expected}, got {got}\n"
                "candidates are held to these caps; raise the cap, or take a smaller baseline"
            )
        # rungs in FLOPs may be more than a cheap baseline takes in full
        if isinstance(rungs, tuple) and rungs and rungs[-1] > spec.train.tokens:
            raise SearchError(
                f"{entry.path}: expected train.tokens of at least the last rung ({rungs[-1]}), "
                f"got {spec.train.tokens}"
            )


def entered(space: Space) -> Iterator[tuple[Entry, Spec, dict[str, Any]]]:
    """Yield each baseline of a space, the spec that is trained, and where that comes from.

    Raises:
        SpecError: one cannot be matched to the caps that it names.
    """
    for entry in space.baselines:
        yield entry, *(matched(entry, space.example().spec) if entry.match else (entry.spec, {}))


@dataclass(frozen=True)
class Baseline:
    """A spec to be held against.

    Attributes:
        stem: the name of its file.
        costs: by measure; time is that on the device of the space.
        origin: of a matched one, what was changed for it (`moves`) and what it came to (`matched`), in words.
    """

    stem: str
    spec: Spec
    costs: dict[str, float]
    origin: dict[str, Any] = field(default_factory=dict)


def baselines(space: Space) -> dict[str, Baseline]:
    """Return the baselines of a space by their identities; equal ones are one.

    Raises:
        SpecError: one cannot be matched to the caps that it names.
    """
    found: dict[str, Baseline] = {}
    for entry, spec, origin in entered(space):
        costs = measures(_costs(spec, space.example().spec.caps))
        found.setdefault(run_hash(spec), Baseline(Path(entry.path).stem, spec, costs, origin))
    return found


def _costs(spec: Spec, caps: Caps) -> Costs:
    """Count a baseline, its time on the device of the space."""
    own = spec.caps.model_copy(update={"step_time": caps.step_time})
    return cost(spec.model_copy(update={"caps": own}))

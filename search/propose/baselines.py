"""Baselines: specs that are trained first, unchanged or with sizes solved for the caps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer import cost
from composer.costs.counting.count import Costs
from composer.costs.fitting.caps import check_caps, excesses
from composer.costs.tracing.traced_cost import measures
from composer.language.baselines import Entry
from composer.language.schema.caps import Caps
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.space import Space
from composer.language.validation.search_checks import metric_fault
from composer.measures.registry import MEASURES
from composer.settings.errors import Fault, SpecError


def baseline_faults(space: Space) -> Iterator[Fault]:
    """Yield why baselines cannot be compared with the candidates.

    A baseline may be over a cap of its own or of the space, not be matched to its caps, be trained for less
    than the last rung, or not be measured by the objectives.
    """
    like = space.example().spec
    for entry in space.baselines:
        try:
            check_caps(entry.spec)
            spec, _ = entered_as(entry, like)
        except SpecError as error:
            yield from error.faults
            continue
        yield from _over(entry, spec, space, like.caps)
        yield from _unmeasured(entry, spec, space)


def _over(entry: Entry, spec: Spec, space: Space, caps: Caps) -> Iterator[Fault]:
    for excess in excesses(spec.model_copy(update={"caps": caps}), _costs(spec, caps)):
        hint = f"match it to {excess.cap}, too, or begin with other layers"
        if not entry.match:
            hint = f"candidates are held to that: raise caps.{excess.cap}, or take a smaller baseline"
        expected = f"a baseline within the caps of {space.name}"
        yield entry.fault(expected, f"{entry.path} with {excess.cap} {excess}", hint)


def _unmeasured(entry: Entry, spec: Spec, space: Space) -> Iterator[Fault]:
    """Yield why training this baseline does not reach the last rung or measure the objectives."""
    assert spec.train is not None
    rungs = space.search.rungs
    # a cheap baseline's whole training may take fewer FLOPs than a rung
    if isinstance(rungs, tuple) and rungs and rungs[-1] > spec.train.tokens:
        got = f"{entry.path} with {spec.train.tokens}"
        yield entry.fault(f"train.tokens of at least the last rung ({rungs[-1]})", got)
    for objective in space.search.objectives:
        if fault := metric_fault(objective, spec.train.data):
            _, got, hint = fault
            yield entry.fault(f"a baseline whose training measures {got}", entry.path, hint)


def entered(space: Space) -> Iterator[tuple[Entry, Spec, dict[str, Any]]]:
    """Yield each baseline of a space, the spec that is trained, and its origin.

    Raises:
        SpecError: a baseline cannot be matched to the caps that it names.
    """
    like = space.example().spec
    for entry in space.baselines:
        yield entry, *entered_as(entry, like)


def entered_as(entry: Entry, like: Spec) -> tuple[Spec, dict[str, Any]]:
    """Return the spec as which a baseline is trained beside candidates such as `like`, and its origin."""
    if not entry.match:
        return entry.spec, {}
    # the solver of sizes, which few spaces need
    from search.propose.matching import matched

    return matched(entry, like)


@dataclass(frozen=True)
class Baseline:
    """A spec that candidates are compared with.

    Attributes:
        stem: the name of its file.
        costs: by measure; time is that on the space's device.
        origin: for a matched one, the changes (`moves`) and the resulting costs (`matched`), as text.
    """

    stem: str
    spec: Spec
    costs: dict[str, float]
    origin: dict[str, Any] = field(default_factory=dict)


def baselines(space: Space) -> dict[str, Baseline]:
    """Return the baselines of a space by identity, without duplicates.

    Raises:
        SpecError: a baseline cannot be matched to the caps that it names.
    """
    by_hash: dict[str, Baseline] = {}
    for entry, spec, origin in entered(space):
        costs = measures(_costs(spec, space.example().spec.caps))
        by_hash.setdefault(run_hash(spec), Baseline(Path(entry.path).stem, spec, costs, origin))
    return by_hash


def _costs(spec: Spec, caps: Caps) -> Costs:
    """Return the costs of a baseline, with the time on the space's device."""
    timed = {name: getattr(caps, name) for name, measure in MEASURES.items() if measure.on_device}
    return cost(spec.model_copy(update={"caps": spec.caps.model_copy(update=timed)}))

"""`start`: points of a space that a search tries first, given as specs, run folders or other searches.

A spec has to be a point of the space in its architecture and in those fields of `train` in which points
differ. The rest of `train` is the space's, so that a search for more tokens can start from the front of a
shorter one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from composer.language.load import load
from composer.language.parsing.choice import SearchParameter, Value
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.space import EDITED, InvalidPoint, Point, Space, standing
from composer.settings.errors import Fault, SpecError
from composer.training.folder.run_folder import SPEC
from search.errors import SearchError
from search.propose.candidates import candidate
from search.propose.same_spec import SameSpec
from search.store.folder import FRONT, RECORDS
from search.store.ledger import Ledger

_ARCHITECTURE = ("model", "blocks", "stages", EDITED.rstrip("."))
_EXPECTED = "a point of the space"


@dataclass(frozen=True)
class Start:
    """A point to try first: where its spec was found, the values of its parameters, and its run hash."""

    path: str
    params: dict[str, Value]
    identity: str


@dataclass(frozen=True)
class _Named:
    """A spec file of an entry; `params` are the parameter values of the search that found it, if one did."""

    path: Path
    place: Fault
    params: Mapping[str, Any]


def starts(space: Space) -> tuple[Start, ...]:
    """Return the points to try first, in the order given and without duplicates.

    Raises:
        SpecError: with all faults: a path with no spec, a spec that is no point of the space or over a cap.
    """
    same, fields = SameSpec(space), _chosen(space) if space.search.start else set[str]()
    by_identity: dict[str, Start] = {}
    faults: list[Fault] = []
    for place, name in _entries(space):
        for named in _specs(place, name):
            made = named if isinstance(named, Fault) else _start(space, named, same, fields)
            if isinstance(made, Start):
                by_identity.setdefault(made.identity, made)
            else:
                faults += [made] if isinstance(made, Fault) else made
    if faults:
        raise SpecError(faults)
    return tuple(by_identity.values())


def _entries(space: Space) -> Iterator[tuple[Fault, Path]]:
    for i, name in enumerate(space.search.start):
        place = space.fault(("search", "start", i), "the path of a spec, a run folder or a search", name)
        # a relative path in an override is relative to the current folder
        folder = os.path.dirname(place.file) if place.line else ""
        yield place, Path(os.path.normpath(os.path.join(folder, name)))


def _specs(place: Fault, path: Path) -> Iterator[_Named | Fault]:
    """Yield the file itself, the spec of a run folder, or those of the trials on the front of a search."""
    if path.is_file():
        yield _Named(path, place, {})
    elif (path / SPEC).is_file():
        yield _Named(path / SPEC, place, {})
    elif not path.is_dir():
        yield replace(place, got=f"{path}, which does not exist")
    elif not (path / RECORDS).is_dir():
        yield replace(place, got=f"{path}, which has no {SPEC} and no {RECORDS}")
    else:
        yield from _front(place, path)


def _front(place: Fault, folder: Path) -> Iterator[_Named | Fault]:
    try:
        trials = Ledger(folder / RECORDS).trials()
    except SearchError as error:
        yield replace(place, expected="a search that can be read", got=str(error))
        return
    on_front = [trial for trial in trials if (folder / FRONT / trial.name / SPEC).is_file()]
    if not on_front:
        yield replace(place, expected="a search that trained a trial in full", got=str(folder))
    for trial in on_front:
        yield _Named(folder / FRONT / trial.name / SPEC, place, trial.params)


def _start(space: Space, named: _Named, same: SameSpec, fields: set[str]) -> Start | Fault | list[Fault]:
    try:
        spec = load(named.path)
    except SpecError as error:
        return [each if each.file else replace(named.place, got=str(named.path)) for each in error.faults]
    if spec.train is None and fields:
        got = f"{named.path} without train.{min(fields)}"
        return replace(named.place, expected=_EXPECTED, got=got, hint="which is a choice of the space")
    here = _as_trained_here(space, spec, fields)
    point = same.find(run_hash(here), named.params, here)
    if not isinstance(point, Point):
        return replace(named.place, expected=_EXPECTED, got=f"{named.path}: {point}")
    judged = candidate(space, lambda parameter: point.params[parameter.name])
    if judged.verdict != "feasible":
        got = f"{named.path} over the caps: {judged.why}"
        return replace(named.place, expected=_EXPECTED, got=got)
    return Start(str(named.path), judged.params, judged.identity)


def _as_trained_here(space: Space, spec: Spec, fields: set[str]) -> Spec:
    """Return the spec with the space's training, of which `fields` are its own."""
    like = space.example().spec.train
    assert like is not None
    own = {name: getattr(spec.train, name) for name in fields}
    return spec.model_copy(update={"train": like.model_copy(update=own)})


def _chosen(space: Space) -> set[str]:
    """Return the fields of `train` in which points of the space differ."""
    like = space.example()
    deciding: set[str] = set()
    for parameter in space.parameters:
        # a parameter of `let` may be used anywhere
        if parameter.name.replace("[", ".").partition(".")[0] not in _ARCHITECTURE:
            for value in standing(parameter):
                deciding |= _differing(space, like, {**like.params, parameter.name: value})
    return deciding


def _differing(space: Space, like: Point, params: Mapping[str, Value]) -> set[str]:
    def ask(parameter: SearchParameter) -> Value:
        return params[parameter.name] if parameter.name in params else standing(parameter)[0]

    try:
        train = space.point(ask).spec.train
    except InvalidPoint:
        return set()
    assert train is not None
    fields = type(train).model_fields
    return {name for name in fields if getattr(train, name) != getattr(like.spec.train, name)}

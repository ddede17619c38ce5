"""Loading a study file: its config, and every arm as the spec that is trained, with its costs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from composer.costs.matching.arms import derived, matched
from composer.costs.matching.match import Residual, match
from composer.language.load import in_order, is_space, load, read_tree
from composer.language.parsing.resolve import Resolver
from composer.language.schema.spec import Spec
from composer.language.validation.validate import build
from composer.settings.errors import Fault, SpecError, close, listed, shown
from composer.settings.tree import Node, fault_at
from search.study.config import Arm, StudyConfig

_Path: TypeAlias = tuple[str | int, ...]

ONE_SIZE = ""
"""The name of the size of a study that has one."""


@dataclass(frozen=True)
class StudyArm:
    """One arm at one size.

    Attributes:
        spec: as it is trained, except for tokens, schedule, learning rate and seed.
        residuals: its costs against those of the base.
        distance: of its shape from that it was derived with, as in `composer match`.
        changes: the sizes that were changed, in words.
    """

    name: str
    size: str
    spec: Spec
    residuals: tuple[Residual, ...]
    distance: float
    changes: str

    @property
    def title(self) -> str:
        """The arm, with its size if the study has several."""
        return f"{self.name} {self.size}".strip()


class Study:
    """A study, read once.

    Attributes: `name`, `config`, `arms` (each at each size, sizes outermost), `path` of its file.
    """

    def __init__(self, path: str, config: StudyConfig, arms: Sequence[StudyArm]) -> None:
        self.path, self.config, self.arms = path, config, tuple(arms)
        self.name = f"study-{config.name}"

    def lines(self) -> list[str]:
        """Return what decides to which study a folder belongs; what rows hold decides the rest."""
        return [f"study: {self.config.name}"]

    def identity(self) -> str:
        """Hash `lines`."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """The default folder."""
        return Path("runs") / self.name

    @property
    def reference(self) -> str:
        """The arm that the others are tested against."""
        return self.config.reference or next(iter(self.config.arms))

    @property
    def sizes(self) -> list[str]:
        """The names of the sizes, smallest first."""
        return list(self.config.sizes) or [ONE_SIZE]


def load_study(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Study:
    """Load the study at `path`, with `overrides` such as `seeds=3` laid on top.

    Raises:
        SpecError: the file cannot be read, is no valid study, or an arm cannot be made or matched.
    """
    tree = read_tree(path, overrides)
    resolver = Resolver({}, refusal="choices are allowed only in spaces")
    assert isinstance(tree.value, dict)
    if "arms" not in tree.value and "stages" in tree.value:
        kind = "a space" if is_space(tree) else "a spec"
        raise SpecError(
            [tree.fault("arms", "a study, which has `arms:`", kind, "a study names its spec in `base:`")]
        )
    resolved = Node({name: resolver.resolve(node, name) for name, node in tree.value.items()}, tree.place)
    faults = [*(tree.flaws.faults if tree.flaws else ()), *resolver.faults]
    config = build(StudyConfig, resolved)
    if not isinstance(config, StudyConfig):
        faults += config
    if faults:
        raise SpecError(in_order(faults))
    assert isinstance(config, StudyConfig)
    reader = _Reader(os.fspath(path), config, resolved)
    arms = reader.arms()
    if reader.faults:
        raise SpecError(in_order(reader.faults))
    return Study(os.fspath(path), config, arms)


class _Reader:
    def __init__(self, path: str, config: StudyConfig, tree: Node) -> None:
        self.path, self.config, self.tree = path, config, tree
        self.faults: list[Fault] = []

    def arms(self) -> list[StudyArm]:
        self.faults += self._unknown_arms()
        arms: list[StudyArm] = []
        for size, settings in (self.config.sizes or {ONE_SIZE: ()}).items():
            base = self._spec(self.config.base, (*self.config.set, *settings), ("base",))
            if base is not None:
                self.faults += self._training(base)
                arms += [] if base.train is None else self._arms(base, size, settings)
            if self.faults:
                break  # the same faults at every size
        return arms

    def _unknown_arms(self) -> Iterator[Fault]:
        asked: list[tuple[_Path, str]] = [
            (("claims", i, key), getattr(claim, key))
            for i, claim in enumerate(self.config.claims)
            for key in ("arm", "against")
        ]
        asked += [(("reference",), self.config.reference)] if self.config.reference else []
        for place, name in asked:
            if name not in self.config.arms:
                expected = f"one of the arms: {listed(self.config.arms)}"
                yield self._fault(place, expected, shown(name), close(name, self.config.arms))
        for i, claim in enumerate(self.config.claims):
            if claim.arm == claim.against:
                yield self._fault(("claims", i, "against"), "another arm", shown(claim.against))

    def _training(self, base: Spec) -> Iterator[Fault]:
        if base.train is None:
            yield self._fault(("base",), "a spec with a `train` section", "one without")
            return
        measured = {"loss", "accuracy", *base.train.data.metrics}
        asked: list[tuple[_Path, str]] = [(("measure",), self.config.measure)]
        # without a measure a claim has the study's
        asked += [
            (("claims", i, "measure"), claim.metric)
            for i, claim in enumerate(self.config.measured_claims)
            if self.config.claims[i].measure is not None
        ]
        for place, name in asked:
            if name not in measured:
                expected = f"a score that the task {base.train.data.task} measures"
                yield self._fault(
                    place,
                    expected,
                    shown(name),
                    close(name, measured) or f"there are {listed(sorted(measured), 'and')}",
                )

    def _arms(self, base: Spec, size: str, settings: Sequence[str]) -> Iterator[StudyArm]:
        wanted = [arm.derive for arm in self.config.arms.values() if arm.derive is not None]
        known: dict[str, tuple[str, Spec]] = {}
        if wanted:
            try:
                known = {name: (about, spec) for name, about, spec in derived(base)}
            except SpecError as error:
                self.faults += [
                    self._fault(("base",), each.expected, each.got, each.hint) for each in error.faults
                ]
                return
        for name, arm in self.config.arms.items():
            if arm.derive is None:
                made = self._written(name, arm, base, size, settings)
            elif arm.derive in known:
                about, spec = known[arm.derive]
                one = matched(arm.derive, about, spec, base, self.config.match, self.config.bounds)
                made = StudyArm(
                    name,
                    size,
                    one.match.spec,
                    one.match.residuals,
                    one.match.distance,
                    _changes(one.match.moves),
                )
                if not one.usable:
                    self._unmatched(name, made, ("arms", name))
            else:
                expected = f"an arm that can be derived from {self.config.base}: {listed(known)}"
                self.faults.append(
                    self._fault(
                        ("arms", name, "derive"), expected, shown(arm.derive), close(arm.derive, known)
                    )
                )
                continue
            if made is not None:
                yield made

    def _written(
        self, name: str, arm: Arm, base: Spec, size: str, settings: Sequence[str]
    ) -> StudyArm | None:
        overrides = (*(self.config.set if arm.spec is None else ()), *settings, *arm.set)
        spec = self._spec(arm.spec or self.config.base, overrides, ("arms", name))
        if spec is None:
            return None
        on = self.config.match if arm.match is None else arm.match
        spec = spec.model_copy(update={"train": base.train, "name": f"{base.name[:70]}-{name}"})
        measures = tuple(dict.fromkeys([*self.config.match, *on]))
        try:
            # without parameters to change it is only compared
            solved = match(
                spec, base, on or measures, None if on else (), bounds=self.config.bounds, name=spec.name
            )
        except SpecError as error:
            self.faults += [
                self._fault(("arms", name), each.expected, each.got, each.hint) for each in error.faults
            ]
            return None
        # those that it need not match are shown all the same
        compared = match(solved.spec, base, measures, (), bounds=self.config.bounds, name=spec.name)
        made = StudyArm(name, size, solved.spec, compared.residuals, solved.distance, _changes(solved.moves))
        if on and not solved.holds:
            self._unmatched(name, made, ("arms", name))
        return made

    def _unmatched(self, name: str, arm: StudyArm, place: _Path) -> None:
        off = [f"{each.measure} off by {each.percent:+.2f} %" for each in arm.residuals if not each.holds]
        hint = "widen `bounds`, change the base (`composer arms BASE --suggest`), or set `match`"
        at = f" at size {arm.size}" if arm.size else ""
        self.faults.append(
            self._fault(
                place, f"a shape that costs as much as the base{at}", f"{listed(off, 'and')} at best", hint
            )
        )

    def _spec(self, name: str, overrides: Sequence[str], place: _Path) -> Spec | None:
        # by a path relative to the file that names it, which may be one that the study extends
        at = self._fault(("base",) if name == self.config.base else (*place, "spec"), "", "")
        folder = os.path.dirname(at.file if at.line else self.path)
        path = os.path.normpath(os.path.join(folder, name))
        try:
            return load(path, overrides)
        except SpecError as error:
            for each in error.faults:
                # faults of options and of the file itself are reported where the study names them
                at = self._fault(place, each.expected, each.got, each.hint)
                self.faults.append(
                    each
                    if each.file and each.line
                    else replace(at, path=f"{at.path}: {each.path}".rstrip(": "))
                )
            return None

    def _fault(self, path: _Path, expected: str, got: str, hint: str = "") -> Fault:
        return fault_at(self.tree, path, expected, got, hint)


def _changes(moves: Sequence[object]) -> str:
    return ", ".join(map(str, moves)) or "nothing"

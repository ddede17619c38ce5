"""A preview of a space: random points and their costs, without training."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from composer.costs.base.units import amount, count_text
from composer.language.schema.search import FlopRungs
from composer.language.space import Space, draw
from composer.measures.registry import MEASURES
from search.compare.rungs import milestones
from search.propose.candidates import INVALID, Candidate, candidate
from search.propose.requirements import check_search
from search.propose.starts import starts
from search.store.folder import check_folder, default_folder


def check_start(space: Space, out: Path | None, storage: str | None) -> None:
    """Refuse a space with these options if a search would refuse it before its first trial.

    Raises:
        SpecError, SearchError, DataError: as the search would.
    """
    if storage is not None:
        from search.run.open_store import check_storage

        check_storage(storage)
    check_search(space)
    check_folder(out or default_folder(space), space, storage)
    train = space.example().spec.train
    assert train is not None
    train.data.stream("eval", train.seed)


@dataclass(frozen=True)
class Preview:
    """Random points of a space."""

    space: Space
    points: list[Candidate]

    def lines(self) -> Iterator[str]:
        """Return how many are feasible, which caps exclude the others, and the range of each cost."""
        total = len(self.points)
        verdicts = Counter(point.verdict for point in self.points)
        feasible = [point for point in self.points if point.verdict == "feasible"]
        different = len({point.identity for point in feasible})
        size = len(self.space.parameters)
        yield f"{self.space.name}: {total} random points of {size} parameters, none trained"
        share = f"{verdicts['feasible']} ({100 * verdicts['feasible'] / total:.0f} %)"
        yield f"feasible {share}, {different} of them different; invalid {verdicts['invalid']}"
        if first := starts(self.space):
            yield f"tried first: {', '.join(start.path for start in first)}"
        yield from self._reasons(total)
        over = Counter(
            name for point in self.points for name, value in point.constraints.items() if value > 0
        )
        for name, count in over.most_common():
            if name != INVALID:
                yield f"over caps.{name}: {count} ({100 * count / total:.0f} %)"
        yield from self._rungs(feasible)
        yield "costs of the feasible ones: lowest, median, highest"
        for name in MEASURES:
            values = [point.costs[name] for point in feasible if name in point.costs]
            if values:
                texts = (amount(name, value) for value in (min(values), median(values), max(values)))
                yield f"  {name:22}" + "".join(f"{text:>12}" for text in texts)

    def _reasons(self, total: int) -> Iterator[str]:
        """Return why points are invalid, most frequent reason first, each with an example."""
        reasons: dict[str, list[str]] = {}
        for point in self.points:
            for fault in point.faults:
                # one rule mentions different numbers at different points
                rule = f"{fault.path}: {re.sub(r'[0-9]+', '', fault.expected)}"
                reasons.setdefault(rule, []).append(f"{fault.path}: {fault.message}")
        for faults in sorted(reasons.values(), key=len, reverse=True):
            yield f"  invalid {len(faults)} ({100 * len(faults) / total:.0f} %): {faults[0]}"

    def _rungs(self, feasible: list[Candidate]) -> Iterator[str]:
        """Return how many points pass each rung before their end; with rungs in tokens all do."""
        rungs = self.space.search.rungs
        if isinstance(rungs, FlopRungs):
            for number, mark in enumerate(rungs.flops, 1):
                beyond = sum(
                    point.spec is not None and len(milestones(rungs, point.spec, point.costs)) > number
                    for point in feasible
                )
                yield f"trained beyond {count_text(mark)} FLOPs: {beyond} of the feasible ones"


def preview(space: Space, count: int) -> Preview:
    """Draw and cost `count` random points, a function of the search's seed."""
    assert space.search is not None
    rng = random.Random(space.search.seed)
    return Preview(space, [candidate(space, lambda parameter: draw(parameter, rng)) for _ in range(count)])

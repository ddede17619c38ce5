"""Shared by figures and page: the records shown, their names and values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from composer.language.schema.search import FlopRungs
from composer.measures.registry import MAIN, MEASURES
from composer.training.folder.metrics import TRAIN_LOSS
from search.compare.rungs import reached
from search.progress.words import STATUS, rung_names, titled, values_text
from search.report.read import Source
from search.report.stats import Agreement, Effects, agreement, effects
from search.store.ledger import Record

SURE = 0.5
"""Kendall's tau below which the ranking at one rung says little about that at another."""
LATEST = 400
"""Most trials whose ranking at two milestones is compared: the latest of them."""
_FINE = 100
"""Most points of a curve; a page cannot show more."""
FEW = 8
"""Fewest trials that reached both rungs for their agreement to be reliable."""


def kind(source: Source, record: Record) -> str:
    """Return the classes of a record's marks."""
    names: list[str] = [record.status]
    if record.identity in source.best:
        names.append("front")
    if source.state.is_baseline(record):
        names.append("baseline")
    return " ".join(names)


def status(record: Record) -> str:
    """Return how a record ended, and whether another search trained it."""
    return STATUS[record.status] + (", imported" if record.imported else "")


def record_line(source: Source, record: Record) -> str:
    """Return a line with a record's name and results."""
    parts = [titled(source.state, record), status(record), values_text(source.state, record)]
    return ": ".join([parts[0], ", ".join(part for part in parts[1:] if part)])


def value_of(source: Source, record: Record, name: str) -> float | None:
    """Return a record's last value of an objective, a cost or a metric."""
    if name in MEASURES:
        return record.costs.get(name)
    return record.seen[-1].metrics.get(name) if record.seen else None


def axes(source: Source) -> list[str]:
    """Return the measures that the first objective is plotted against: other objectives, then every cost."""
    first, *others = source.state.goals.names
    costs = [
        name
        for name in MEASURES
        if name != first and any(name in record.costs for record in source.records())
    ]
    return list(dict.fromkeys([*others, *(name for name in MAIN if name in costs), *costs]))


def measured(source: Source) -> list[str]:
    """Return the objectives that are measured by training."""
    return [name for name in source.state.goals.names if name not in MEASURES]


def metrics(source: Source) -> list[str]:
    """Return the metrics with learning curves: measured objectives, then held-out and training loss."""
    known = {name for record in source.records() for seen in record.seen for name in seen.metrics}
    known |= {name for rows in source.curves.values() for row in rows[:1] for name in row}
    return [name for name in dict.fromkeys([*measured(source), "loss", TRAIN_LOSS]) if name in known]


def metric_title(metric: str) -> str:
    """Return the title of a learning curve, with its data: `held-out accuracy`, `train loss`."""
    return "train loss" if metric == TRAIN_LOSS else f"held-out {metric}"


def flops_a_token(source: Source, record: Record) -> float | None:
    """Return the training FLOPs of a token if rungs are in FLOPs, 1 if they are in tokens."""
    if not isinstance(source.state.config.rungs, FlopRungs):
        return 1
    return record.costs["train_flops"] / record.whole if record.whole else None


def curve(source: Source, record: Record, metric: str) -> list[tuple[float, float]]:
    """Return a metric over training tokens, or FLOPs if rungs are in FLOPs, up to its last measurement."""
    per = flops_a_token(source, record)
    return [] if per is None else [(per * tokens, value) for tokens, value in _curve(source, record, metric)]


def _curve(source: Source, record: Record, metric: str) -> list[tuple[float, float]]:
    # from the run's metrics, else from its milestones
    rows = [row for row in source.curves[record.identity] if metric in row]
    if rows:
        every = -(-len(rows) // _FINE)
        # from the end, so that the last one is among them
        return [(row["tokens"], row[metric]) for row in reversed(rows[::-every])]
    return [(seen.tokens, seen.metrics[metric]) for seen in record.seen if metric in seen.metrics]


def stages(source: Source) -> list[str]:
    """Name the milestones: each rung by its tokens or FLOPs, then the end."""
    return rung_names(source.state.config)


def passed(source: Source, number: int) -> str:
    """Return how many trials a rung decided on, how many continued, and how many passed it when retired."""
    # the last milestone of a run trained in full is its end
    there = [
        record
        for record in source.state.ledger.trials()
        if len(record.seen) - (record.status == "finished") > number
    ]
    judged = [record for record in there if record.seen[number].tau_bound is None]
    on = sum(record.status != "stopped" or len(record.seen) > number + 1 for record in judged)
    spared = len(there) - len(judged)
    more = f", then {spared} passed" if spared else ""
    return f"rung {stages(source)[number]}: {on} of {len(judged)} went on{more}"


def at_milestone(record: Record, number: int, name: str) -> float | None:
    """Return a value at a milestone, if the record reached it or was trained in full with less."""
    seen = reached(record, number)
    if seen is None:
        return None
    return record.costs.get(name) if name in MEASURES else seen.metrics.get(name)


def parameter_effects(source: Source, name: str) -> Effects | None:
    """Estimate effects of parameters on an objective at the first milestone, which all trials reach."""
    if name not in source.effects:
        source.effects[name] = _effects(source, name)
    return source.effects[name]


def _effects(source: Source, name: str) -> Effects | None:
    points = [
        (record.params, value)
        for record in source.state.ledger.trials()
        if (value := at_milestone(record, 0, name)) is not None
    ]
    return effects([params for params, _ in points], [value for _, value in points]) if points else None


@dataclass(frozen=True)
class Pair:
    """Two milestones, and their agreement on one objective; None if there is nothing to rank."""

    metric: str
    first: str
    second: str
    trials: int
    agreement: Agreement | None

    @property
    def doubt(self) -> str:
        """Return why the earlier one is not reliable, or ""."""
        agreement = self.agreement
        if self.trials < FEW or agreement is None:
            return f"too few runs reached both ({self.trials}; it takes {FEW})"
        if agreement.tau < SURE:
            return "the earlier ranking says little about the later one: set the rung later, or keep more"
        if agreement.low < SURE:
            return f"not sure to be above {SURE:g}"
        return ""


def pairs(source: Source) -> Iterator[Pair]:
    """Yield every pair of milestones for each measured objective, baselines included; of the latest runs."""
    names = stages(source)
    for metric in measured(source):
        for first in range(len(names)):
            for second in range(first + 1, len(names)):
                both = [
                    (one, other)
                    for record in source.records()
                    if (one := at_milestone(record, first, metric)) is not None
                    and (other := at_milestone(record, second, metric)) is not None
                ]
                # of more, the intervals take minutes; the latest are those that later runs are ranked among
                both = both[-LATEST:]
                correlation = (
                    agreement([one for one, _ in both], [other for _, other in both]) if both else None
                )
                yield Pair(metric, names[first], names[second], len(both), correlation)

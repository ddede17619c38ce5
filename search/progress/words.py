"""Names and texts of records for the terminal, the report and events."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from composer.costs.base.units import amount, count_text
from composer.language.schema.search import FlopRungs, SearchConfig
from composer.measures.registry import MEASURES
from search.compare.finals import Standing
from search.compare.rung_check import LEAST
from search.progress.state import State
from search.store.ledger import Record, Status

STATUS: dict[Status, str] = {
    "finished": "trained in full",
    "stopped": "stopped at a rung",
    "crashed": "crashed",
    "running": "running",
}


def plural(count: int, noun: str) -> str:
    """Format a count with its noun: `1 trial`, `2 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def named(state: State, record: Record) -> str:
    """Name a record: `12`, `baseline rival`, or for an adopted trial `baseline rival (12)`.

    A final of it is named `12 again, lr x0.5, seed +1`.
    """
    base = state.base(record)
    name = f"{base.adopted} ({base.name})" if base.adopted else base.name
    name = f"baseline {name}" if state.is_baseline(base) else name
    return name + _again(record)


def titled(state: State, record: Record) -> str:
    """Name a record `trial 12` or `baseline rival`, a final as `named` does."""
    base = state.base(record)
    return f"trial {base.name}{_again(record)}" if base.role == "trial" else named(state, record)


def _again(record: Record) -> str:
    if record.kind != "final":
        return ""
    lr, seed = record.again["lr"], record.again["seed"]
    return " again" + (f", lr x{lr:g}" if lr != 1 else "") + (f", seed +{seed}" if seed else "")


def value_text(name: str, value: float) -> str:
    """Format a value of a metric or a cost: four digits, or as many as tell an accuracy from 1."""
    if name in MEASURES:
        return amount(name, value)
    if 0.999 < value < 1:
        digits = math.ceil(-math.log10(1 - value) - 1e-6)
        return f"{value:.{min(6, digits)}f}"
    return f"{value:.4g}"


def mean_text(name: str, mean: float, spread: float | None) -> str:
    """Format a mean with its spread, `0.724 ± 0.020`, without digits below the spread's precision."""
    if spread is None or name in MEASURES:
        return value_text(name, mean)
    if not spread:
        return f"{value_text(name, mean)} ± 0"
    digits = _digits(spread)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}" if digits < 8 else f"{mean:.4g} ± {spread:.2g}"


def _digits(spread: float) -> int:
    """Return how many decimals show two digits of a spread."""
    return max(0, 1 - math.floor(math.log10(spread)))


def gap_text(name: str, gap: float, spread: float = 0.0) -> str:
    """Format a positive difference, without digits below the precision of the spread but the first."""
    if name in MEASURES or not (spread or gap < 0.001):
        return value_text(name, gap)
    digits = max(_digits(spread or gap), -math.floor(math.log10(gap)))
    return f"{gap:.{digits}f}" if digits < 8 else f"{gap:.2g}"


def seeds_text(at: Standing) -> str:
    """Return the number of fresh seeds of a standing as text: `3`, `2, 1 crashed`, `1, running`."""
    crashed = f", {at.crashed} crashed" if at.crashed else ""
    return f"{len(at.runs)}" + (", running" if at.left else "") + crashed


def rung_names(config: SearchConfig) -> list[str]:
    """Name the milestones of a search: each rung by its tokens or FLOPs, then the end."""
    unit = " FLOPs" if isinstance(config.rungs, FlopRungs) else ""
    return [*(count_text(rung) + unit for rung in config.marks), "the end"]


def moved_text(state: State, rung: int) -> str:
    """Return from which trial on a rung is retired, and why."""
    first, names = state.ledger.digest.spared[rung], rung_names(state.config)
    assert first.seen[rung].tau_bound is not None
    last = rung == len(names) - 2
    then = "all continue to the end" if last else f"the rung at {names[rung + 1]} decides"
    return (
        f"the rung at {names[rung]} stops no trial from {titled(state, first)} on ({then}): it does not rank "
        f"trials as the end does (Kendall's tau at most {first.seen[rung].tau_bound:.2f}, upper 95 % bound, "
        f"below {LEAST:g})"
    )


def moved_note(state: State, record: Record) -> str:
    """Return a note if a record is the first that a retired rung let pass, else ""."""
    rung = len(record.seen) - 1
    return moved_text(state, rung) if state.ledger.digest.spared.get(rung) is record else ""


def by_name(state: State, record: Record) -> dict[str, float]:
    """Return the objectives of a record at its last milestone by name; empty before the first."""
    return dict(zip(state.goals.names, record.values or (), strict=False))


def values_text(state: State, record: Record) -> str:
    """Format the objectives of a record, each with its name."""
    return ", ".join(f"{name} {value_text(name, value)}" for name, value in by_name(state, record).items())


def parameter_names(records: Iterable[Record]) -> list[str]:
    """Return the names of all parameters that any of the records has a value for, in order of appearance."""
    return list(dict.fromkeys(name for record in records for name in record.params))


def parameters_text(record: Record) -> str:
    """Format the values of a record's parameters, by the last part of each parameter's name."""
    if not record.params:
        return "as its spec says"
    return " ".join(f"{short(name)}={value}" for name, value in record.params.items())


def short(name: str) -> str:
    """Return the last parts of a parameter's name; of an alternative in a list, `1[mix]`, its name alone."""
    parts = [re.sub(r"^\d+\[(\w+)\]$", r"\1", part) for part in name.split(".")]
    return ".".join(part for part in parts[-2:] if not part.isdecimal()) or name


def shorts(names: Iterable[str]) -> dict[str, str]:
    """Return the last part of each parameter's name, or the whole name where two would be equal."""
    texts = {name: short(name) for name in names}
    taken = list(texts.values())
    return {name: text if taken.count(text) == 1 else name for name, text in texts.items()}

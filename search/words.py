"""Records in words: what the terminal, the report and events call them."""

from __future__ import annotations

from collections.abc import Iterable

from composer.costs.units import amount
from composer.spec.search_config import COSTS
from search.ledger import Record
from search.state import State

STATUS = {
    "finished": "trained in full",
    "stopped": "stopped at a rung",
    "crashed": "crashed",
    "running": "running",
}


def named(state: State, record: Record) -> str:
    """Call a record `12` or `baseline rival`; a final of it `12 again, lr x0.5, seed +1`."""
    base = state.base(record)
    name = f"baseline {base.name}" if state.is_baseline(base) else base.name
    return name + _again(record)


def titled(state: State, record: Record) -> str:
    """Call a record `trial 12` or `baseline rival`, a final as `named` does."""
    base = state.base(record)
    return f"trial {base.name}{_again(record)}" if base.kind == "trial" else named(state, record)


def _again(record: Record) -> str:
    if record.kind != "final":
        return ""
    lr, seed = record.again["lr"], record.again["seed"]
    return " again" + (f", lr x{lr:g}" if lr != 1 else "") + (f", seed +{seed}" if seed else "")


def value_text(name: str, value: float) -> str:
    """Write a value of a metric or a cost."""
    return amount(name, value) if name in COSTS else f"{value:.4g}"


def values_text(state: State, record: Record) -> str:
    """Write the objectives of a record, each with its name."""
    pairs = zip(state.goals.names, record.values or (), strict=False)
    return ", ".join(f"{name} {value_text(name, value)}" for name, value in pairs)


def knobs_text(record: Record) -> str:
    """Write the answers that made a record, by the last part of each knob's name."""
    if not record.params:
        return "as its spec says"
    return " ".join(f"{short(name)}={value}" for name, value in record.params.items())


def short(name: str) -> str:
    """Return the last parts of a knob's name."""
    parts = name.split(".")
    return ".".join(part for part in parts[-2:] if not part.isdecimal()) or name


def shorts(names: Iterable[str]) -> dict[str, str]:
    """Return the last parts of each knob's name, and the whole name where two would be called alike."""
    found = {name: short(name) for name in names}
    taken = list(found.values())
    return {name: text if taken.count(text) == 1 else name for name, text in found.items()}

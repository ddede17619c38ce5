"""The specs of records, rebuilt from their parameter values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from composer.language.description.show import resolved_yaml
from composer.language.schema.spec import Spec
from composer.language.space import Space
from composer.training.folder.files import write_text
from search.propose.baselines import Baseline
from search.propose.candidates import candidate
from search.store.ledger import Record


def spec_of(space: Space, baselines: Mapping[str, Baseline], record: Record) -> Spec | None:
    """Return the spec of a record, or None for a baseline that the space no longer has."""
    if record.kind == "baseline":
        baseline = baselines.get(record.identity)
        return None if baseline is None else baseline.spec
    return candidate(space, lambda parameter: record.params[parameter.name]).spec


def bring_specs(folder: Path, records: Iterable[Record], spec_of: Callable[[Record], Spec | None]) -> None:
    """Write the specs of runs that were trained on machines with other folders; one writer at a time."""
    for record in records:
        path = folder / record.folder / "spec.yaml"
        if record.status in ("finished", "stopped") and not path.exists():
            spec = spec_of(record)
            if spec is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, resolved_yaml(spec))

"""The commands that continue training a spec of a search."""

from __future__ import annotations

import shlex
from pathlib import Path

from blocks.base.fields import parse_quantity
from composer.costs.base.units import count_text
from composer.language.schema.spec import Spec
from composer.training.folder.run_folder import SPEC
from search.store.ledger import Record

LONGER = 4
"""Factor by which tokens are raised in the command for a run that was trained in full."""


def longer(path: Path, spec: Spec) -> str:
    """Return the command that trains the spec at `path` anew, for more tokens."""
    assert spec.train is not None
    tokens = LONGER * spec.train.tokens
    short = count_text(tokens)
    exact = short if parse_quantity(short) == tokens else str(tokens)
    return f"composer train {shlex.quote(str(path))} --set train.tokens={exact}"


def onward(folder: Path, record: Record) -> str:
    """Return the command that trains a stopped run to its end, in a copy of its folder."""
    source, copy = folder / record.folder, Path("runs") / f"{folder.resolve().name}-{record.name}"
    return (
        f"mkdir -p runs && cp -r {shlex.quote(str(source))} {shlex.quote(str(copy))} && "
        f"composer train {shlex.quote(str(copy / SPEC))} --out {shlex.quote(str(copy))}"
    )


def command_for(folder: Path, record: Record, spec: Spec) -> str:
    """Return the command that continues a record's training to its end, or trains it anew and longer."""
    if record.status == "stopped":
        return onward(folder, record)
    return longer(folder / record.folder / SPEC, spec)

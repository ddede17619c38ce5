"""What a search has to leave behind in a database."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
from postgresql import query
from worker import check

from composer.language.space import Space
from search.store.database_study import storage_of


def check_all(root: Path, url: str, space: Space, killed: int = 0) -> None:
    """Hold what a search of six trials left in a database against what must not break."""
    name = f"{space.name}-{space.identity()}"
    opened = storage_of(url, name)
    try:
        check(root, 6, optuna.load_study(study_name=name, storage=opened.storage), rows(url), killed)
    finally:
        opened.close()


def rows(url: str) -> list[dict]:
    """Return the records in a database."""
    return [json.loads(body) for (body,) in query(url, "select body from composer_records")]

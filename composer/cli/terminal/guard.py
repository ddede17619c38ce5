"""A clear word where another package answers to one of our import names (PyPI's `composer` does)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_NAMES = ("composer", "blocks", "search")


def foreign_packages() -> str | None:
    """Say which of our packages would be imported from elsewhere, or nothing."""
    here = Path(__file__).resolve().parents[3]
    for name in _NAMES:
        package = importlib.util.find_spec(name)
        places = [] if package is None else [*(package.submodule_search_locations or ()), package.origin]
        homes = [Path(place).resolve() for place in places if place]
        if not homes:
            return f"the package `{name}` is missing from {here}; reinstall attention-composer"
        if here not in homes[0].parents:
            return (
                f"the import name `{name}` is taken by another package, at {homes[0]}. "
                f"attention-composer needs it (at {here / name}); use a separate virtual environment, "
                "and check the current directory and PYTHONPATH"
            )
    return None

"""How many examples a hypothesis test draws."""

import os
from typing import Any

from hypothesis import settings

FULL = bool(os.environ.get("COMPOSER_FULL_TESTS"))


def samples(full: int, **others: Any) -> settings:
    """Draw `full` examples under `--full`, a quarter of them otherwise."""
    return settings(max_examples=full if FULL else max(2, full // 4), **others)

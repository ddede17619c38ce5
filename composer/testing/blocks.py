"""What every block has to hold, whoever wrote it. Each check takes one example, as plain data."""

from __future__ import annotations

from collections.abc import Callable

from composer.testing.examples import Plain, tree
from composer.testing.model_checks import COSTS, MEANING


def _of_block(check: Callable[[Plain], None]) -> Callable[[Plain], None]:
    return lambda plain: check(tree(plain))


CHECKS = {name: _of_block(check) for name, check in {**MEANING, **COSTS}.items()}
"""Every check, by what it is about."""

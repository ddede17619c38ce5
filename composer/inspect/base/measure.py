"""What a measure is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.inspect.base.subject import Subject
from composer.inspect.base.views import View

Tell = Callable[[int, int], None]
"""Takes how many of how many passes are done."""


@dataclass(frozen=True)
class Result:
    """The result of a measure on one model.

    Attributes:
        values: the numbers, as JSON.
        views: what the page shows of them.
    """

    values: Mapping[str, Any]
    views: Sequence[View]


@dataclass(frozen=True)
class Measure:
    """One section of the page.

    Attributes:
        name: its key in JSON and its anchor.
        order: where it stands on the page, lowest first.
        short: its name in the navigation.
        title: its heading.
        definition: how it is defined, in sentences that the page shows.
        run: finds it in a model; raises `LeftOut` where it does not apply.
    """

    name: str
    order: int
    short: str
    title: str
    definition: Sequence[str]
    run: Callable[[Subject, Tell], Result]

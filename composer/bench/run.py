"""All parts of the benchmark in a row; what is done is handed on after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from composer.bench.measuring.pairs import DeviceLost, attempt, let_go
from composer.bench.measuring.records import Part, Row
from composer.bench.measuring.setting import Setting
from composer.bench.parts import depth, operations, routing, step

Measure = Callable[[Setting], Iterator[list[Row]]]

PARTS: Mapping[str, Measure] = {
    "depth": depth.parts,
    "routing": routing.parts,
    "step": step.parts,
    "graph": step.replays,
    "attention": operations.attention,
    "loss": operations.loss,
    "kernels": operations.own_kernels,
    "options": operations.options,
}
"""What can be measured, by name, in the order it is: what goals are set for comes first."""


def chosen(names: str) -> list[str]:
    """Return the parts that a list such as `depth,step` names, in their own order; all for "".

    Raises:
        ValueError: one is none.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()] or [*PARTS]
    for name in asked:
        if name not in PARTS:
            raise ValueError(f"expected parts of {', '.join(PARTS)}, got {name!r}")
    return [name for name in PARTS if name in asked]


def run(
    parts: Sequence[tuple[str, Measure]], setting: Setting, done: Callable[[list[Part]], None]
) -> list[Part]:
    """Measure parts one after the other; `done` hears of all so far after each case.

    Where the GPU is lost no later part runs, and each says so.
    """
    finished: list[Part] = []
    lost = ""
    for name, measure in parts:
        part = Part(name, failed=lost)
        finished.append(part)
        begun = time.perf_counter()
        try:
            if not lost:
                part.failed = attempt(partial(_rows, part, measure, setting, done, finished))
                let_go()
        except DeviceLost as error:
            part.failed = lost = f"the GPU takes no more work in this process, after: {error}"
        part.seconds, part.complete = time.perf_counter() - begun, True
        done(finished)
    return finished


def _rows(
    part: Part, measure: Measure, setting: Setting, done: Callable[[list[Part]], None], finished: list[Part]
) -> None:
    begun = time.perf_counter()
    for rows in measure(setting):
        part.rows += rows
        part.seconds = time.perf_counter() - begun
        done(finished)

"""All parts of the benchmark in a row; what is done is handed on after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch

from composer.bench import depth, operations, routing, step
from composer.bench.pairs import attempt
from composer.bench.records import Part, Row
from composer.bench.setting import Setting

Measure = Callable[[Setting], Iterator[list[Row]]]

PARTS: Mapping[str, Measure] = {
    "depth": depth.parts,
    "routing": routing.parts,
    "attention": operations.attention,
    "loss": operations.loss,
    "kernels": operations.own_kernels,
    "step": step.parts,
}
"""What can be measured, by name, in the order it is."""


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
    """Measure parts one after the other; `done` hears of all so far after each case."""
    found: list[Part] = []
    for name, measure in parts:
        part = Part(name)
        found.append(part)
        begun = time.perf_counter()
        part.failed = attempt(lambda part=part, measure=measure: _rows(part, measure(setting), done, found))  # type: ignore[misc]
        part.seconds, part.complete = time.perf_counter() - begun, True
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
        done(found)
    return found


def _rows(
    part: Part, measured: Iterable[list[Row]], done: Callable[[list[Part]], None], found: list[Part]
) -> None:
    begun = time.perf_counter()
    for rows in measured:
        part.rows += rows
        part.seconds = time.perf_counter() - begun
        done(found)

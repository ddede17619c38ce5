"""Find the tiles that run each kernel best on this GPU: each is held to the reference, then timed.

Kernels ask the tables of their `tiles.py` whenever they start. What they ask for, while work of the sizes of
the benchmark runs, is what is tuned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from blocks.depth_attention import reference
from blocks.kernels.self_tests import TOLERANCES
from composer.bench.measuring.clocks import Run
from composer.bench.measuring.pairs import attempt, side_by_side
from composer.bench.measuring.setting import Setting
from composer.bench.measuring.work import Work
from composer.bench.parts import depth, operations, routing, weight_gradients
from composer.bench.tile_tables import Table, TunedTile, tables

_FACTORS = {"tokens": (0.5, 1, 2), "rows": (0.5, 1, 2), "warps": (0.5, 1, 2), "stages": (1, 2, 3)}
"""How the fields of a tile are varied, against the one that is used now; others stay."""
_PRODUCT_FACTORS = {"rows": (0.5, 1), "columns": (0.5, 1), "warps": (0.5, 1), "stages": (2, 3, 4)}
"""The same for matrix products, whose tiles take longer to compile; twice as large ones spill."""
_MOST_WARPS = 16


def tuned(
    setting: Setting, candidates: int | None = None, known: Collection[tuple[str, str]] = ()
) -> Iterator[TunedTile]:
    """Yield what is found for each shape; at most so many candidates are tried for one.

    `known` are the tables and shapes that are left out, as `TunedTile.key` names them.
    """
    seen, every = {*known}, tables()
    for work in works(setting):
        for table, shape in asked(work, every):
            if (table.key, repr(shape)) not in seen:
                seen.add((table.key, repr(shape)))
                yield best(work, table, shape, setting, candidates)


def works(setting: Setting) -> Iterator[Work]:
    """Yield the operations of the blocks of experts, depth attention, then the operations of the model.

    Products of experts take most of a step, and come first: those of the benchmark's model, then the other.
    """
    sizes = routing.FULL if setting.full else routing.SMALL
    for size in reversed(sizes):
        yield from _operations(routing.calls_of(size, setting), setting)
        if setting.device.type == "cuda":
            yield from weight_gradients.works(size, setting)
    for each in depth.FULL if setting.full else depth.SMALL:
        yield _depth(depth.Size(*each), setting)
    yield from _operations(operations.calls_of(setting), setting)


def _operations(calls: Iterable[operations.Call], setting: Setting) -> Iterator[Work]:
    for call in calls:
        if call.kernel.check and not operations.has_slots(call):
            run = operations.running(call, call.kernel, operations.differentiable(call), setting)
            plain = operations.running(
                call, call.operation.kernels[-1], operations.differentiable(call), setting
            )
            yield Work(call.place, run, plain())


def asked(work: Work, among: Iterable[Table]) -> list[tuple[Table, Any]]:
    """Run work once for each table and return the shapes that its kernels ask tiles for."""
    shapes: list[tuple[Table, Any]] = []
    for table in among:
        noting = _Noting(table.tiles.measured)
        with table.tiles.using(noting):
            work.run()
        shapes += [(table, shape) for shape in noting.asked]
    return shapes


def best(work: Work, table: Table, shape: Any, setting: Setting, most: int | None) -> TunedTile:
    """Return the fastest tile of a shape among those under which the work comes out right."""
    now = table.tiles(shape)
    tiles = around(now, getattr(shape, "kernel", ""))[:most]
    right = [tile for tile in tiles if _right(work, table, shape, tile, setting.dtype)]
    if now not in right:
        return TunedTile(table, shape, now, 0, len(tiles), 1.0)
    runs: dict[str, Run] = {str(tile): partial(_under, work, table, shape, tile) for tile in right}
    timings, _ = side_by_side(runs, setting.rounds, setting.warmup, setting.clock)
    medians = {tile: timings[str(tile)].median for tile in right if str(tile) in timings}
    winner = min(medians, key=medians.__getitem__)
    return TunedTile(table, shape, winner, len(right), len(tiles), medians[now] / medians[winner])


_FIXED = {
    # routing counts in tiles of a fixed size
    "choose": ("rows",),
    "unchoose": ("rows",),
    # no loop over slots, or one whose loads cannot be ahead
    "append": ("stages",),
    "pull": ("stages",),
}


def around(now: Any, kernel: str) -> list[Any]:
    """Return a tile, then those near it."""
    fixed = _FIXED.get(kernel, ())
    factors = _FACTORS if kernel else _PRODUCT_FACTORS
    varied = [field for field in now._fields if field in factors and field not in fixed]
    values = [[_scaled(field, getattr(now, field), factor) for factor in factors[field]] for field in varied]
    near = [now._replace(**dict(zip(varied, each, strict=True))) for each in product(*values)]
    return [*dict.fromkeys([now, *near])]


def _scaled(field: str, value: int, factor: float) -> int:
    if field == "stages":
        return int(factor)
    scaled = max(1, int(value * factor))
    return min(scaled, _MOST_WARPS) if field == "warps" else scaled


def _under(work: Work, table: Table, shape: Any, tile: Any) -> Sequence[Tensor]:
    with table.tiles.using({**table.tiles.measured, shape: tile}):
        return work.run()


def _right(work: Work, table: Table, shape: Any, tile: Any, dtype: torch.dtype) -> bool:
    agreed: list[bool] = []

    def run() -> None:
        pairs = zip(_under(work, table, shape, tile), work.expected, strict=True)
        agreed.append(all(_off(one, other) <= TOLERANCES[dtype] for one, other in pairs))

    return not attempt(run) and agreed[0]


def _off(got: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float((got.double() - expected).norm() / expected.norm().clamp(min=1e-6))


class _Noting(dict[Any, Any]):
    """A table that notes what it is asked for."""

    def __init__(self, table: Mapping[Any, Any]) -> None:
        super().__init__(table)
        self.asked: list[Any] = []

    def get(self, key: Any, default: Any = None) -> Any:
        if key not in self.asked:
            self.asked.append(key)
        return super().get(key, default)


def _depth(size: depth.Size, setting: Setting) -> Work:
    """A short loop forward and backward."""
    steps = 8 if setting.full else 2
    drawn = depth.Drawn(size, steps, setting)
    plain = depth.Fitting("reference", reference.append, reference.attend)
    expected = depth.looped(drawn, plain)()
    return Work("depth attention", depth.looped(drawn, depth.fitting(size, setting)), expected)

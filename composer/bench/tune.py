"""Find the tiles that run each kernel best on this GPU: each is held to the reference, then timed.

Every `blocks/<block>/tiles.py` has a table `MEASURED`, which its kernels ask whenever they start. What they
ask for, while work of the sizes of the benchmark runs, is what is tuned: nothing here names a kernel.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import blocks
from blocks.depth_attention import reference
from blocks.kernels.self_tests import TOLERANCES
from composer.bench.measuring.clocks import Run
from composer.bench.measuring.pairs import attempt, side_by_side
from composer.bench.measuring.setting import Setting
from composer.bench.parts import depth, operations, routing

_FACTORS = {"tokens": (0.5, 1, 2), "rows": (0.5, 1, 2), "warps": (0.5, 1, 2), "stages": (1, 2, 3)}
"""How the fields of a tile are varied, against the one that is used now; others stay."""
_MOST_WARPS = 16


class Work(NamedTuple):
    """Something that starts kernels: returns tensors, and what they should be."""

    name: str
    run: Callable[[], Sequence[Tensor]]
    expected: Sequence[Tensor]


class Found(NamedTuple):
    """The best tile of one shape, how many were tried and right, and how much faster the work is by it.

    With `right` 0 the tile that is in use does not equal the reference, and none was timed.
    """

    module: ModuleType
    shape: Any
    tile: Any
    right: int
    tried: int
    faster: float

    def __str__(self) -> str:
        entry = f"    {self.shape}: {self.tile},"
        if not self.right:
            return f"    # {entry.strip()} is in use and WRONG"
        return f"{entry}  # {self.faster:.2f}x, {self.right} of {self.tried} right"


def tuned(setting: Setting, candidates: int | None = None) -> Iterator[Found]:
    """Yield what is found for each shape; at most so many candidates are tried for one."""
    modules = tables()
    seen: set[tuple[str, Any]] = set()
    for work in works(setting):
        for module, shape in asked(work, modules):
            if (module.__name__, shape) not in seen:
                seen.add((module.__name__, shape))
                yield best(work, module, shape, setting, candidates)


def tables() -> list[ModuleType]:
    """Return the modules of tiles there are."""
    places = (f"blocks.{each.name}" for each in pkgutil.iter_modules(blocks.__path__) if each.ispkg)
    modules = (f"{place}.tiles" for place in places if _has_tiles(place))
    return [module for module in map(import_module, modules) if hasattr(module, "MEASURED")]


def works(setting: Setting) -> Iterator[Work]:
    """Yield depth attention, then each operation of the blocks of experts and of the model."""
    for size in (depth.Size(*each) for each in (depth.FULL if setting.full else depth.SMALL)):
        yield _depth(size, setting)
    sizes = routing.FULL if setting.full else routing.SMALL
    experts = (call for size in sizes for call in routing.calls_of(size, setting))
    for call in (*experts, *operations.calls_of(setting)):
        if call.kernel.check and not operations.has_slots(call):
            run = operations.running(call, call.kernel, operations.differentiable(call), setting)
            plain = operations.running(
                call, call.operation.kernels[-1], operations.differentiable(call), setting
            )
            yield Work(call.place, run, plain())


def asked(work: Work, modules: Iterable[ModuleType]) -> list[tuple[ModuleType, Any]]:
    """Run work once and return the shapes that its kernels ask tiles for."""
    found: list[tuple[ModuleType, Any]] = []
    for module in modules:
        table = _Noting(module.MEASURED)
        with module.tile.using(table):
            work.run()
        found += [(module, shape) for shape in table.asked]
    return found


def best(work: Work, module: ModuleType, shape: Any, setting: Setting, most: int | None) -> Found:
    """Return the fastest tile of a shape among those under which the work comes out right."""
    now = module.tile(shape)
    tiles = around(now, getattr(shape, "kernel", ""))[:most]
    right = [tile for tile in tiles if _right(work, module, shape, tile, setting.dtype)]
    if now not in right:
        return Found(module, shape, now, 0, len(tiles), 1.0)
    runs: dict[str, Run] = {str(tile): partial(_under, work, module, shape, tile) for tile in right}
    timings, _ = side_by_side(runs, setting.rounds, setting.warmup, setting.clock)
    medians = {tile: timings[str(tile)].median for tile in right if str(tile) in timings}
    winner = min(medians, key=medians.__getitem__)
    return Found(module, shape, winner, len(right), len(tiles), medians[now] / medians[winner])


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
    varied = [field for field in now._fields if field in _FACTORS and field not in fixed]
    values = [[_scaled(field, getattr(now, field), factor) for factor in _FACTORS[field]] for field in varied]
    near = [now._replace(**dict(zip(varied, each, strict=True))) for each in product(*values)]
    return [*dict.fromkeys([now, *near])]


def as_code(module: ModuleType, found: Sequence[Found], device: str) -> Iterator[str]:
    """Yield the table of a module as it is written there."""
    yield f"# {module.__name__.replace('.', '/')}.py, measured on {device}"
    yield "MEASURED: dict[Shape, Tile] = {"
    yield from (str(each) for each in found if each.module is module)
    yield "}"


def _scaled(field: str, value: int, factor: float) -> int:
    if field == "stages":
        return int(factor)
    scaled = max(1, int(value * factor))
    return min(scaled, _MOST_WARPS) if field == "warps" else scaled


def _under(work: Work, module: ModuleType, shape: Any, tile: Any) -> Sequence[Tensor]:
    with module.tile.using({**module.MEASURED, shape: tile}):
        return work.run()


def _right(work: Work, module: ModuleType, shape: Any, tile: Any, dtype: torch.dtype) -> bool:
    agreed: list[bool] = []

    def run() -> None:
        pairs = zip(_under(work, module, shape, tile), work.expected, strict=True)
        agreed.append(all(_off(one, other) <= TOLERANCES[dtype] for one, other in pairs))

    return not attempt(run) and agreed[0]


def _off(got: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float((got.double() - expected).norm() / expected.norm().clamp(min=1e-6))


class _Noting(dict[Any, Any]):
    """A table that notes what it is asked for."""

    def __init__(self, table: dict[Any, Any]) -> None:
        super().__init__(table)
        self.asked: list[Any] = []

    def get(self, key: Any, default: Any = None) -> Any:
        if key not in self.asked:
            self.asked.append(key)
        return super().get(key, default)


def _has_tiles(place: str) -> bool:
    return any(each.name == "tiles" for each in pkgutil.iter_modules(import_module(place).__path__))


def _depth(size: depth.Size, setting: Setting) -> Work:
    """A short loop forward and backward."""
    steps = 8 if setting.full else 2
    drawn = depth.Drawn(size, steps, setting)
    plain = depth.Fitting("reference", reference.append, reference.attend)
    expected = depth.looped(drawn, plain)()
    return Work("depth attention", depth.looped(drawn, depth.fitting(size, setting)), expected)

"""A whole training step, compiled from a spec and written by hand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blocks.ir.costs import CostContext
from blocks.ir.walk import graphs, operations
from composer.bench.measuring.clocks import Run
from composer.bench.measuring.pairs import let_go
from composer.bench.measuring.records import Goal, Row
from composer.bench.measuring.setting import NO_COMPILER, Case, Setting, measured
from composer.bench.measuring.spec import bench_spec
from composer.bench.rivals.handwritten import HandWritten, sizes
from composer.bench.rivals.handwritten_depth import Way
from composer.costs.counting.plan import count
from composer.costs.memory.peak import trained_length
from composer.graph.compile import compile_graph
from composer.graph.lowering.build import micro_batch_tokens
from composer.graph.passes.mark_recompute import recomputable
from composer.language.schema.spec import Spec
from composer.module.capture.recorder import CudaGraphs
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError
from composer.training.capture.step_graphs import StepGraphs

COMPOSED = "composer"
REGIONS = "composer, regions compiled"
GRAPH = "composer, CUDA graph"
POINTWISE = "composer, pointwise recomputed"
EVERYTHING = "composer, all recomputed"
BY_HAND: dict[Way, str] = {
    "einsum": "by hand, einsum",
    "elementwise": "by hand, elementwise",
    "slots": "by hand, slots",
}
COMPILED = "by hand, compiled"
RECORDER = CudaGraphs
"""Makes what records training steps."""
STEPS = {True: (16, 32), False: (2,)}
"""Steps of the model, at full size and small."""

NOT_REPLAYED = (COMPOSED, POINTWISE, EVERYTHING, *BY_HAND.values(), REGIONS, COMPILED)
"""Contestants that launch their kernels at each step."""

_FASTER, _HALF, _THIRD, _REPLAYED = 2.2, 1 / 2, 1 / 3, 3.0


def parts(setting: Setting) -> Iterator[list[Row]]:
    """Measure the model of 173M parameters: forward and backward, no optimizer, as in the floors' figures."""
    for steps in STEPS[setting.full]:
        spec = bench_spec(setting.full, steps)
        yield bench_step(spec, setting, optimizer=False, recompute=(), only=NOT_REPLAYED)


def replays(setting: Setting) -> Iterator[list[Row]]:
    """Measure steps that are replayed from CUDA graphs: of a small model, then of the one of 173M parameters.

    They are apart from `parts`, since a recording that fails may leave the GPU in an unusable state.
    """
    for full in (False, True) if setting.full else (False,):
        spec = bench_spec(full, STEPS[setting.full][0])
        rows = bench_step(spec, setting, optimizer=False, recompute=(), only=(COMPOSED, GRAPH))
        yield [replace(row, goals=row.goals + _many_times(row, rows, full)) for row in rows]


def checked(spec: Spec) -> Spec:
    """Return a spec that `of_spec` can measure.

    Raises:
        SpecError: it is of another form than what is written by hand, or has no `train`.
    """
    if spec.train is None:
        raise SpecError([spec.fault((), "a `train` section, whose micro-batch is timed", "none")])
    sizes(spec)
    return spec


def of_spec(spec: Spec, setting: Setting) -> Iterator[list[Row]]:
    """Measure a spec's own step: one micro-batch forward and backward, and AdamW."""
    yield bench_step(spec, setting)


def bench_step(
    spec: Spec,
    setting: Setting,
    optimizer: bool = True,
    recompute: Collection[str] | None = None,
    only: Collection[str] = (*NOT_REPLAYED, GRAPH),
) -> list[Row]:
    """Time training steps of one micro-batch.

    Args:
        optimizer: whether AdamW is part of a step.
        recompute: what `composer` runs again in the backward pass; None is what the plan says.
        only: the names of the contestants.

    Raises:
        SpecError: the spec is of another form than what is written by hand.
    """
    race = _Race(spec, setting, optimizer)
    contestants = {name: make for name, make in race.contestants(recompute).items() if name in only}
    skipped = {} if setting.compiles else dict.fromkeys((REGIONS, COMPILED), NO_COMPILER)
    if refused := RECORDER().refusal(setting.device):
        skipped[GRAPH] = refused
    skipped = {name: why for name, why in skipped.items() if name in only}
    case = Case(
        f"{spec.name}, {spec.stages[0].trips} steps, {race.batch} x {race.length} tokens",
        "forward + backward + AdamW" if optimizer else "forward + backward",
        {name: partial(race.made, name, make) for name, make in contestants.items()},
        [COMPOSED, GRAPH, POINTWISE, EVERYTHING, REGIONS],
        COMPOSED,
        flops=3 * count(spec).flops_per_token.forward * race.batch * race.length,
        skipped=skipped,
    )
    rows = measured(case, setting, whole=True)
    # models are in cycles, which hold their memory until somebody looks for them
    let_go()
    rows = [_complete(row, case.flops, race) for row in rows]
    return [_judged(row, rows) if setting.full and row.ours else row for row in rows]


@dataclass
class _Race:
    """One batch, and what makes contestants that train on it."""

    spec: Spec
    setting: Setting
    optimizer: bool

    def __post_init__(self) -> None:
        self.length = trained_length(self.spec)
        self.batch = micro_batch_tokens(self.spec) // self.length
        self.peaks: dict[str, int] = {}
        torch.manual_seed(0)
        shape = (2, self.batch, self.length)
        drawn = torch.randint(self.spec.model.vocab, shape, device=self.setting.device)
        self.tokens, self.targets = drawn

    def contestants(self, recompute: Collection[str] | None) -> dict[str, Callable[[], _Contestant]]:
        """Return who takes part, by name."""
        spec, at, weights = self.spec, sizes(self.spec), _weights(self.spec)
        # "auto" would compile regions of long runs on a GPU, which is what REGIONS is there for
        plain = partial(ComposedModel, spec, torch_compile="off")
        ours = _by(ComposedModel.loss)
        contestants: dict[str, Callable[[], _Contestant]] = {
            COMPOSED: lambda: ours(plain(recompute=recompute)),
            POINTWISE: lambda: ours(plain(recompute=pointwise(spec))),
            EVERYTHING: lambda: ours(plain(recompute=[*recomputable(compile_graph(spec))])),
        }
        if not RECORDER().refusal(self.setting.device):
            contestants[GRAPH] = lambda: _Contestant(plain(recompute=recompute), replayed())

        def by_hand(way: Way) -> HandWritten:
            model = HandWritten(at, way)
            model.load(weights)
            return model

        theirs = _by(HandWritten.__call__)
        contestants |= {name: lambda way=way: theirs(by_hand(way)) for way, name in BY_HAND.items()}  # type: ignore[misc]
        if self.setting.compiles:
            contestants[REGIONS] = lambda: ours(ComposedModel(spec, recompute=recompute, torch_compile="on"))
            contestants[COMPILED] = lambda: theirs(compiled(by_hand("compiled slots")))
        return contestants

    def made(self, name: str, make: Callable[[], _Contestant]) -> Run:
        """Make a contestant and one step of it; note its peak, without what others hold.

        What a CUDA graph keeps is allocated while its first steps are recorded and compared, so these count.
        """
        cuda = self.setting.device.type == "cuda"
        let_go()
        before = torch.cuda.memory_allocated() if cuda else 0
        run = self._step(make())
        if cuda and name == GRAPH:
            torch.cuda.reset_peak_memory_stats()
        run()
        if name == GRAPH:
            # the second step compares the recording
            run()
        if cuda:
            torch.cuda.synchronize()
            if name != GRAPH:
                torch.cuda.reset_peak_memory_stats()
            run()
            self.peaks[name] = torch.cuda.max_memory_allocated() - before
        return run

    def _step(self, contestant: _Contestant) -> Run:
        model, loss = contestant.model.to(self.setting.device).train(), contestant.loss
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True) if self.optimizer else None
        cuda = self.setting.device.type == "cuda"

        def run() -> None:
            model.zero_grad()
            with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
                result = loss(model, self.tokens, self.targets)
            result.backward()
            if optimizer is not None:
                optimizer.step()
                if isinstance(model, ComposedModel):
                    model.update_expert_balance()

        return run


class _Contestant(NamedTuple):
    """A model, and what computes its loss from the model, tokens and targets."""

    model: Any
    loss: Callable[..., Any]


def _by(loss: Callable[..., Any]) -> Callable[[Any], _Contestant]:
    return lambda model: _Contestant(model, loss)


def replayed() -> Callable[[ComposedModel, Tensor, Tensor], Tensor]:
    """Return what computes losses by replaying recordings, as `composer train --cuda-graph on` does.

    It raises CannotCapture where a step cannot be recorded, or its replay is off.
    """
    graphs = StepGraphs(RECORDER, required=True)
    return lambda model, tokens, targets: model._losses(tokens, targets, graphs.losses)[0]


def pointwise(spec: Spec) -> list[str]:
    """Return the operations that may be recomputed and make no products: norms, rotations, sums."""
    graph = compile_graph(spec)
    light = set()
    for body, place in graphs(graph):
        at = CostContext(spec.model.context, place.trips)
        light |= {f"{place.path}{node}" for node, operation, _ in operations(body) if not operation.flops(at)}
    return [place for place in recomputable(graph) if place in light]


def compiled(model: HandWritten) -> HandWritten:
    """Compile what comes before depth attention, what comes after it, and the end, each once for all steps.

    The whole would be compiled anew at every depth. Depth attention over slots is compiled twice whatever the
    number of steps: for one slot and for any other number. Over a list that is stacked it would be compiled
    for each number of steps, move three times the keys and values forward and hold every stack: on a CPU it
    was no faster at 6 and 16 steps and took many times as long to compile, so it takes no part.
    """
    step = model.step
    step.before = torch.compile(step.before)  # type: ignore[method-assign]
    if torch.cuda.is_available():
        step.after = torch.compile(step.after)  # type: ignore[method-assign]
    else:
        # fake tensors know grouped products in bf16 alone, so those of a CPU stay outside
        step.depth_out = torch.compile(step.depth_out)  # type: ignore[method-assign]
    model.tail = torch.compile(model.tail)  # type: ignore[method-assign]
    return model


def _weights(spec: Spec) -> Mapping[str, Tensor]:
    return ComposedModel(spec).state_dict()


def _complete(row: Row, flops: float, race: _Race) -> Row:
    if row.seconds is None:
        return row
    tokens = race.batch * race.length
    return replace(row, tokens=tokens / row.seconds, flops=flops / row.seconds, peak=race.peaks.get(row.name))


def _judged(row: Row, rows: list[Row]) -> Row:
    """Hold one of ours against the best that is by hand; say why where the compiled one did not run."""
    goals = _goals(row, rows)
    if not goals:
        return row
    rival = next((each for each in rows if each.name == COMPILED), None)
    if rival is not None and not rival.tokens:
        return replace(row, note=f"not judged without {COMPILED!r}: {rival.note}")
    return replace(row, goals=goals)


def _many_times(row: Row, rows: list[Row], full: bool) -> tuple[Goal, ...]:
    """Return the goal of a small model's replayed steps."""
    plain = next(each.tokens for each in rows if each.name == COMPOSED)
    if full or row.name != GRAPH or not (plain and row.tokens):
        return ()
    text = f"at least {_REPLAYED:.0f}x the tokens/s of steps that launch each kernel"
    return (Goal(text, _REPLAYED, row.tokens / plain),)


def _goals(row: Row, rows: list[Row]) -> tuple[Goal, ...]:
    """Hold ours against the best that is written by hand."""
    by_hand = [each for each in rows if not each.ours and each.tokens]
    best = max(by_hand, key=lambda each: each.tokens or 0.0, default=None)
    if best is None or best.tokens is None or row.tokens is None:
        return ()
    goals = []
    if row.name in (COMPOSED, REGIONS):
        text = f"at least {_FASTER}x the tokens/s of the best by hand"
        goals.append(Goal(text, _FASTER, row.tokens / best.tokens))
    wanted = {POINTWISE: ("half", _HALF), EVERYTHING: ("a third", _THIRD)}.get(row.name)
    if wanted and best.peak and row.peak:
        text = f"at most {wanted[0]} of the peak of the fastest by hand"
        goals.append(Goal(text, wanted[1], row.peak / best.peak, least=False))
    return tuple(goals)

"""A whole training step, compiled from a spec and written by hand: forward, backward and AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from composer.bench.handwritten import HandWritten, Sizes, sizes
from composer.bench.pairs import Ratio, Run, ratio, side_by_side
from composer.costs.count import count
from composer.module.model import ComposedModel
from composer.spec.errors import SpecError
from composer.spec.models import Spec

COMPILED = "composer"


@dataclass(frozen=True)
class Row:
    """What one contestant came to.

    Attributes:
        seconds: of a step, the middle of all rounds.
        tokens: per second.
        flops: model FLOPs (forward and backward, nothing recomputed) per second.
        peak: bytes allocated at most; None where the device does not tell.
        against: how many times as long it took as the compiled module.
    """

    name: str
    seconds: float
    tokens: float
    flops: float
    peak: int | None
    against: Ratio


def bench_step(spec: Spec, rounds: int, told: Callable[[str], None] = lambda text: None) -> list[Row]:
    """Time training steps of one micro-batch, the compiled module first.

    Args:
        spec: with `train`, whose micro-batch is taken; of the form that is written by hand.
        rounds: in each of which every contestant trains one step.
        told: hears of contestants that cannot run here.

    Raises:
        SpecError: the spec is of another form, or has no `train`.
    """
    train = spec.train
    if train is None:
        raise SpecError([spec.fault((), "a `train` section, whose micro-batch is timed", "none")])
    at, device = sizes(spec), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = train.batch_sequences // train.accumulate
    torch.manual_seed(0)
    tokens, targets = torch.randint(spec.model.vocab, (2, batch, train.length), device=device)
    weights = ComposedModel(spec).state_dict()
    runs: dict[str, Run] = {}
    peaks: dict[str, int | None] = {}
    for name, make in _contestants(spec, at, weights, told).items():
        # the weights and optimizers of the others stay
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        runs[name] = _step(make().to(device).train(), tokens, targets)
        peaks[name] = _peak(runs[name], before)
    timings = side_by_side(runs, rounds)
    flops = 3 * count(spec).flops_per_token.forward
    each = batch * train.length
    return [
        Row(
            name,
            timing.median,
            each / timing.median,
            flops * each / timing.median,
            peaks[name],
            ratio(timing, timings[COMPILED]),
        )
        for name, timing in timings.items()
    ]


def _contestants(
    spec: Spec, at: Sizes, weights: Mapping[str, Tensor], told: Callable[[str], None]
) -> dict[str, Callable[[], ComposedModel | HandWritten]]:
    def by_hand(elementwise: bool) -> HandWritten:
        model = HandWritten(at, elementwise)
        model.load(weights)
        return model

    found: dict[str, Callable[[], ComposedModel | HandWritten]] = {
        COMPILED: lambda: ComposedModel(spec),
        "by hand, einsum": lambda: by_hand(False),
        "by hand, elementwise": lambda: by_hand(True),
    }
    if _compiles(told):
        found["by hand, blocks compiled"] = lambda: _compiled(by_hand(True))
    return found


def _step(model: ComposedModel | HandWritten, tokens: Tensor, targets: Tensor) -> Run:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    cuda = tokens.device.type == "cuda"
    loss = model.loss if isinstance(model, ComposedModel) else model

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if cuda else nullcontext():
            found = loss(tokens, targets)
        found.backward()
        optimizer.step()

    return run


def _compiles(told: Callable[[str], None]) -> bool:
    try:
        torch.compile(torch.sin)(torch.zeros(2))
    except Exception as error:
        told(f"torch.compile does not work here: {str(error).splitlines()[0]}")
        return False
    return True


def _compiled(model: HandWritten) -> HandWritten:
    """Compile the blocks of a model: the whole would be compiled anew at every depth."""
    step = model.step
    step.sequence = torch.compile(step.sequence)  # type: ignore[method-assign]
    if torch.cuda.is_available():
        # fake tensors know grouped products in bf16 alone
        step.expert = torch.compile(step.expert)  # type: ignore[method-assign]
    # a list that grows is another shape at every depth
    torch._dynamo.config.recompile_limit = max(model.at.steps + 2, torch._dynamo.config.recompile_limit)
    step.depth = torch.compile(step.depth, dynamic=False)  # type: ignore[method-assign]
    return model


def _peak(run: Run, before: int) -> int | None:
    run()
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before

"""The gradients of the experts' weights over several steps, which gather one of their factors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from blocks.expert_attention.tiles import PRODUCT_STEPS
from composer.bench.measuring.setting import Setting
from composer.bench.measuring.work import Work
from composer.bench.parts.routing import Size


def works(size: Size, setting: Setting) -> Iterator[Work]:
    """Yield those of gate and up, then those of down, for choices drawn at random."""
    yield _gate_up(size, setting)
    yield _down(size, setting)


class _Draw:
    """Draws the choices and factors of steps."""

    def __init__(self, size: Size, setting: Setting) -> None:
        self.size, self.setting = size, setting
        self._draw = torch.Generator(setting.device).manual_seed(0)

    def tensor(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        made = torch.randn(rows, columns, generator=self._draw, device=self.setting.device)
        return made.to(dtype)

    def choices(self) -> tuple[Tensor, Tensor]:
        """Return the choice of each row sorted by expert, and the row after the last of each expert."""
        rows, experts = self.size.tokens * self.size.active, self.size.experts
        drawn = torch.randint(experts, (rows,), generator=self._draw, device=self.setting.device)
        ends = torch.bincount(drawn, minlength=experts).cumsum(0)
        return drawn.argsort(stable=True).to(torch.int32), ends.to(torch.int32)


def _gate_up(size: Size, setting: Setting) -> Work:
    draw, steps = _Draw(size, setting), []
    expected = torch.zeros(size.experts, size.width, 2 * size.hidden, device=setting.device)
    for _ in range(PRODUCT_STEPS):
        order, ends = draw.choices()
        # the residual stream is in fp32
        tokens = draw.tensor(size.tokens, size.width, torch.float32)
        own = draw.tensor(len(order), 2 * size.hidden, setting.dtype)
        steps.append((tokens, own, order, ends))
        _add(expected, tokens[order.long() // size.active].to(setting.dtype), own, ends)
    run = partial(_run, steps, size.active, True)
    return Work(f"gradients of gate and up, {size}", run, [expected])


def _down(size: Size, setting: Setting) -> Work:
    draw, steps = _Draw(size, setting), []
    expected = torch.zeros(size.experts, size.hidden, size.width, device=setting.device)
    for _ in range(PRODUCT_STEPS):
        order, ends = draw.choices()
        own = draw.tensor(len(order), size.hidden, setting.dtype)
        tokens = draw.tensor(size.tokens, size.width, setting.dtype)
        steps.append((own, tokens, order, ends))
        _add(expected, own, tokens[order.long() // size.active], ends)
    run = partial(_run, steps, size.active, False)
    return Work(f"gradients of down, {size}", run, [expected])


def _run(steps: Sequence[tuple[Tensor, ...]], active: int, gather_left: bool) -> list[Tensor]:
    # not where triton is missing
    from blocks.expert_attention.library import expert_weights
    from blocks.expert_attention.weights_kernel import Rows

    return [expert_weights(None, [Rows(*each) for each in steps], active, gather_left)]


def _add(total: Tensor, left: Tensor, right: Tensor, ends: Tensor) -> None:
    """Add the product of each expert's rows to its total, in fp32."""
    for each, (start, end) in zip(total, pairwise([0, *ends.tolist()]), strict=True):
        each += left[start:end].float().T @ right[start:end].float()

"""torch.optim.Muon for matrices and torch.optim.AdamW for other weights, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from blocks.wiring.optimizer.adamw.optimizer import Rates, Trained, groups
from blocks.wiring.optimizer.muon.config import Muon


def muon(option: Muon, trained: Sequence[Trained], rates: Rates) -> Optimizer:
    """Return the optimizer; matrices come first, in one group per `grid`.

    Raises:
        ValueError: weights are sharded, so that no rank has a complete matrix.
    """
    if any(isinstance(each.parameter, DTensor) for each in trained):
        raise ValueError("optimizer: muon updates whole matrices, expected weights that are not sharded")
    matrices: dict[tuple[int, int], list[nn.Parameter]] = {}
    rest: list[Trained] = []
    for each in trained:
        if option.orthogonalises(each.weight, each.in_stage):
            matrices.setdefault(each.weight.grid, []).append(each.parameter)
        else:
            rest.append(each)
    return MuonAndAdamW(matrices, groups(rest, rates), rates, option.muon)


class MuonAndAdamW(Optimizer):
    """torch.optim.Muon (Jordan et al., 2024) for matrices, torch.optim.AdamW for other weights.

    A weight [.., rows, columns] is a batch of matrices, each of which may be split into a `grid` of smaller
    ones. The momentum has the shape of the weight, so that checkpoints have one state per weight.
    """

    def __init__(
        self,
        matrices: dict[tuple[int, int], list[nn.Parameter]],
        rest: list[dict[str, Any]],
        rates: Rates,
        momentum: float,
    ) -> None:
        """`matrices` are the weights for Muon by `grid`, `rest` the parameter groups of AdamW."""
        self._adamw = torch.optim.AdamW(rest, lr=rates.lr, betas=rates.betas, fused=True)
        own = [
            {
                "params": weights,
                "grid": grid,
                "lr": rates.lr,
                "weight_decay": rates.weight_decay,
                "momentum": momentum,
            }
            for grid, weights in matrices.items()
        ]
        super().__init__([*own, *self._adamw.param_groups], {"lr": rates.lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all weights that have a gradient; return the result of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "grid" in group:
                self._update(group)
        # loading a checkpoint replaces both
        self._adamw.state = self.state
        self._adamw.param_groups = [group for group in self.param_groups if "grid" not in group]
        self._adamw.step()
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        held = [weight for weight in group["params"] if weight.grad is not None]
        if not held:
            return
        views: list[nn.Parameter] = []
        buffers: list[Tensor] = []
        for weight in held:
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            divided = (
                divide(each, group["grid"]) for each in (weight, weight.grad, state["momentum_buffer"])
            )
            for matrix, gradient, buffer in zip(*divided, strict=True):
                views.append(nn.Parameter(matrix))
                views[-1].grad = gradient
                buffers.append(buffer)
        inner = torch.optim.Muon(
            views,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            adjust_lr_fn="match_rms_adamw",
        )
        for view, buffer in zip(views, buffers, strict=True):
            inner.state[view] = {"momentum_buffer": buffer}
        inner.step()  # type: ignore[no-untyped-call]


def divide(tensor: Tensor, grid: tuple[int, int]) -> Iterator[Tensor]:
    """Yield views [rows, columns] of the matrices of a tensor [.., rows * grid[0], columns * grid[1]]."""
    down, across = grid
    for matrix in tensor.detach().flatten(end_dim=-3) if tensor.ndim > 2 else [tensor.detach()]:
        for band in matrix.chunk(down, 0):
            yield from band.chunk(across, 1)

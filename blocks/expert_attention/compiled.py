"""Experts and their routing, with elementwise parts that torch.compile fuses around grouped products."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from blocks.expert_attention import reference


def route(
    query: Tensor, keys: Tensor, balance: Tensor, load: Tensor | None, active: int
) -> tuple[Tensor, Tensor]:
    """Return the same as the reference."""
    weights, indices = _choose()(query, keys, balance, active)
    if load is not None:
        reference.count_load(indices, load)
    return weights, indices


def experts_grouped(x: Tensor, weights: Tensor, indices: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Return the same as the reference."""
    return reference.experts_grouped(x, weights, indices, gate_up, down, _parts())


@cache
def _choose() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(reference.choose)


@cache
def _parts() -> reference.Parts:
    plain = reference.PLAIN
    return reference.Parts(torch.compile(plain.swiglu), torch.compile(plain.summed))

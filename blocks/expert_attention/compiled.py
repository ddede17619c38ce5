"""Routing and experts with torch.compile for the elementwise parts around grouped products."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from blocks.expert_attention import reference


def route(
    query: Tensor, keys: Tensor, balance: Tensor, load: Tensor | None, active: int, **options: Any
) -> tuple[Tensor, ...]:
    """Do the same as the reference."""
    weights, indices, *losses = _choose()(query, keys, balance, active, **options)
    if load is not None:
        reference.count_load(indices, load)
    return weights, indices, *losses


def experts_grouped(
    x: Tensor, weights: Tensor, indices: Tensor, gate_up: Tensor, down: Tensor, activation: str = "swiglu"
) -> Tensor:
    """Do the same as the reference."""
    return reference.experts_grouped(x, weights, indices, gate_up, down, _parts(), activation)


@cache
def _choose() -> Callable[..., tuple[Tensor, ...]]:
    return torch.compile(reference.choose)


@cache
def _parts() -> reference.Parts:
    plain = reference.PLAIN
    activations = {name: torch.compile(each) for name, each in plain.activations.items()}
    return reference.Parts(activations, torch.compile(plain.summed))

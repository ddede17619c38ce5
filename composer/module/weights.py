"""Initial weights: each is a function of the seed and its own name only."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from blocks.ir.graph import Graph
from blocks.ir.operation import Init, Weight
from blocks.ir.walk import Place, graphs, own_weights


def residual_writers(graph: Graph) -> int:
    """Return the number of tensors that project into the residual stream."""
    return sum(
        used.copies
        for body, place in graphs(graph)
        for _, weight, used in own_weights(body, place)
        if weight.writes_residual
    )


def initial(name: str, weight: Weight, place: Place, writers: int, seed: int, number: int = 0) -> Tensor:
    """Return the initial value of one weight; `number` counts the model's one-hot vectors so far.

    A weight that writes into the residual stream is divided by (its uses x sqrt(writers)): the contributions
    of a tied weight point the same way at each step and add up linearly, those of different weights do not.
    So the state grows by about one unit at any depth.
    """
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    start = _start(weight.init, weight.shape, generator, number)
    uses = place.executions // place.copies
    return start / (uses * math.sqrt(writers)) if weight.writes_residual else start


def _start(init: Init, shape: tuple[int, ...], generator: torch.Generator, number: int) -> Tensor:
    match init.kind:
        case "normal":
            return torch.randn(shape, generator=generator) * init.scale
        case "eye":
            return torch.eye(*shape) * init.scale
        case "powers":
            return init.scale ** (torch.arange(1, shape[0] + 1) / shape[0])
        case "constant":
            return torch.full(shape, init.scale)
        case "one_hot":
            start = torch.full(shape, init.rest)
            start[number % len(start)] = init.scale
            return start
        case "first":
            start = torch.zeros(shape)
            start[0] = init.scale
            return start

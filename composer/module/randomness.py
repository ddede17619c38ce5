"""Further inputs of a forward pass besides tokens: its random key, and which steps each row runs.

Random numbers depend on the seed, the optimizer step and the row. A Trainer's `global_step` says which step
it is; without a Trainer, training passes are counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from blocks.ir.graph import Graph
from blocks.primitives.random import digest
from blocks.wiring.train.rows import RUNS
from composer.graph.passes.row_steps import find_loop
from composer.language.schema.row_steps import RowSteps


class Randomness:
    """The state that keys of random numbers are derived from.

    Attributes:
        seed: `train.seed`.
        step: the optimizer step, from 0; without a Trainer, how many training passes there were before.
        micro_batch: the micro-batch of that step, from 0.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.start()

    def start(self) -> None:
        """Start counting from step 0."""
        self.step, self.micro_batch, self._begun = 0, 0, False

    def at(self, step: int) -> None:
        """Begin the next micro-batch of an optimizer step."""
        self.micro_batch = self.micro_batch + 1 if self._begun and step == self.step else 0
        self.step, self._begun = step, True

    def passed(self) -> None:
        """Count a training pass outside of a Trainer."""
        self.step += 1

    def keys(
        self, graph: Graph, tokens: Tensor, training: bool, steps: Mapping[str, int]
    ) -> list[Tensor | bool]:
        """Return the inputs of a model's graph besides tokens and targets, in order.

        These are, if the graph reads them: the random key of each row, int64 [batch]; whether this is
        training; and for each stage whose rows run different numbers of steps (`steps`, by place), the steps
        that each row runs, bool [batch, steps]. In training each row of an optimizer step's batch has its own
        key, however the batch is split into micro-batches and ranks; in evaluation all rows have the same.
        tokens: [batch, sequence].
        """
        given: list[Tensor | bool] = []
        for name in graph.inputs:
            if name == "key":
                given.append(self._key(tokens, training))
            elif name == "training":
                given.append(training)
            elif name.startswith(RUNS):
                given.append(_runs(graph, name, tokens, steps))
        return given

    def _key(self, tokens: Tensor, training: bool) -> Tensor:
        if not training:
            return torch.full(tokens.shape[:1], digest(f"{self.seed}:evaluation"), device=tokens.device)
        rank, ranks = this_rank()
        rows = tokens.shape[0]
        first = (self.micro_batch * ranks + rank) * rows
        numbers = [digest(f"{self.seed}:{self.step}:{row}") for row in range(first, first + rows)]
        return torch.tensor(numbers, device=tokens.device)


def _runs(graph: Graph, name: str, tokens: Tensor, steps: Mapping[str, int]) -> Tensor:
    """Return which steps each row runs: the first ones, or the last ones with truncated backpropagation."""
    place = f"stages.{name.removeprefix(RUNS)[1:].replace('_', '.')}"
    loop, given = find_loop(graph, place), steps.get(place)
    rows = given.rows if isinstance(given, RowSteps) else ()
    if rows and len(rows) != len(tokens):
        raise ValueError(f"{place}: expected numbers of steps for {len(tokens)} rows, got {len(rows)}")
    numbers = torch.tensor(rows or [loop.trips] * len(tokens), device=tokens.device).unsqueeze(1)
    at = torch.arange(loop.trips, device=tokens.device)
    return at < numbers if loop.last is None else at >= loop.trips - numbers


def this_rank() -> tuple[int, int]:
    """Return the rank of this process and the number of ranks."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1

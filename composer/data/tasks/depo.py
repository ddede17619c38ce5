"""depo: k-th successors on a cycle that the sequence gives (after Allen-Zhu 2025, "Canon layers").

A sequence is the edges of a random directed cycle in random order, each as `x y`, then queries
`<query k> q a`, where a is the k-th successor of q. Only the a are scored, at the q.

Token ids: the nodes are 0 .. nodes - 1, and `<query k>` is nodes + k - 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.invalid import independent
from composer.data.base.config import DataConfig, ModelSize
from composer.data.base.split import Split

if TYPE_CHECKING:
    import numpy as np

    from composer.data.base.stream import Batch, Ints, Stream


class Depo(DataConfig):
    """Successors on a cycle at distance k; all queries of a sequence have its k, and accuracy is per k."""

    task: Literal["depo"] = "depo"
    length: Count = 48
    """Tokens per sequence: 2 * nodes for the edges, the rest for queries of three tokens."""
    nodes: Annotated[Count, Field(ge=5)] = 12
    """Nodes of the cycle."""
    hops: Count = 4
    """The largest k; each sequence has its own k, uniform in 1 .. hops."""

    @property
    def vocab_needed(self) -> int:
        """The nodes and a query token for each k."""
        return self.nodes + self.hops

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is its k."""
        return {k: f"k{k}" for k in range(1, self.hops + 1)}

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield also where no query fits, or where k goes around the cycle."""
        yield from independent(super().problems(model), self._too_short(), self._around())

    def _too_short(self) -> Iterator[Problem]:
        if self.length < (least := 2 * self.nodes + 3):
            yield Problem("length", f"at least 2 * nodes + 3 ({least})", self.length, "raise length")

    def _around(self) -> Iterator[Problem]:
        if self.hops >= self.nodes:
            yield Problem("hops", f"fewer hops than nodes ({self.nodes})", self.hops)

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return DepoStream(self, split, seed)


class DepoStream:
    """Batches of depo; the cycle with the order of its edges decides the split."""

    def __init__(self, config: Depo, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is k."""
        import numpy as np

        from composer.data.base.groups import groups
        from composer.data.base.stream import IGNORED, Batch, generator, sample

        config, rng = self.config, generator(self.split, self.seed, step)
        edges = sample(self.split, size, lambda n: self._edges(rng, n))
        k = groups(self.split, step, size, 1, config.hops, rng)
        after = np.empty((size, config.nodes), np.int64)
        np.put_along_axis(after, edges[:, ::2], edges[:, 1::2], axis=1)
        queries = (config.length - 2 * config.nodes) // 3
        asked = rng.integers(0, config.nodes, (size, queries))
        answers = asked
        for hop in range(config.hops):
            answers = np.where(hop < k[:, None], np.take_along_axis(after, answers, axis=1), answers)
        marks = np.broadcast_to(config.nodes + k[:, None] - 1, asked.shape)
        triples = np.stack([marks, asked, answers], axis=2).reshape(size, -1)
        rest = config.length - 2 * config.nodes - 3 * queries
        tokens = np.concatenate([edges, triples, marks[:, :1].repeat(rest, axis=1)], axis=1)
        targets = np.full_like(tokens, IGNORED)
        targets[:, 2 * config.nodes + 1 : config.length - rest : 3] = answers
        return Batch(tokens, targets, k)

    def _edges(self, rng: np.random.Generator, rows: int) -> Ints:
        """Draw cycles -> [rows, 2 * nodes], edges in random order."""
        import numpy as np

        cycle = rng.permuted(np.tile(np.arange(self.config.nodes), (rows, 1)), axis=1)
        edges = np.stack([cycle, np.roll(cycle, -1, axis=1)], axis=2)
        order = rng.permuted(np.tile(np.arange(self.config.nodes), (rows, 1)), axis=1)
        return np.take_along_axis(edges, order[:, :, None], axis=1).reshape(rows, -1)

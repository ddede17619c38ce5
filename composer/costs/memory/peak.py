"""Training memory: the peak of bytes alive during the training step of one micro-batch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from blocks.ir.graph import Graph
from composer.costs.base.precision import Precision, precision
from composer.costs.memory.ledger import Moment
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.replay import moments, peak
from composer.costs.memory.saved_tensors import saved_per_token
from composer.graph.lowering.build import micro_batch_tokens
from composer.language.schema.spec import Spec, Train


class Memory:
    """Peak bytes of a training step on a compiled graph and their breakdown, computed on demand.

    Attributes:
        tokens: tokens of the micro-batch.
    """

    def __init__(self, graph: Graph, batch: Batch, train: Train | None = None) -> None:
        """`train` gives the optimizer, by default AdamW."""
        self._graph, self._batch, self._train = graph, batch, train
        self.tokens = batch.tokens

    @cached_property
    def total(self) -> int:
        """Bytes alive at the peak, found by replaying a step."""
        return round(peak(self._graph, self._batch, self._train))

    @property
    def terms(self) -> dict[str, int]:
        """Bytes alive at the peak by term, largest first; they add up to the total.

        weights, gradients, optimizer (its states), average (the moving average of the weights), prepared
        (weights joined or cast once per forward pass), activations (saved for the backward pass), recomputed,
        depth_slots (with their gradients), in_flight (other live values and gradients), scratch (workspace of
        the running operation).
        """
        terms = {name: round(size) for name, size in self._peak.terms.items()}
        return dict(sorted(((name, size) for name, size in terms.items() if size), key=lambda term: -term[1]))

    @property
    def moment(self) -> str:
        """When the peak occurs, such as `backward of stages.0 step 15: 2.expert.experts`."""
        return self._peak.what

    @property
    def weights(self) -> int:
        """Bytes of the weights; gradients take the same."""
        return round(self._peak.terms["weights"])

    @property
    def saved(self) -> int:
        """Bytes saved for the backward pass at the end of the forward pass, without depth slots."""
        tokens, length, size = self._batch
        return round(tokens * saved_per_token(self._graph, length, size))

    @cached_property
    def _peak(self) -> Moment:
        return max(moments(self._graph, self._batch, self._train), key=lambda moment: moment.total)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        facts = {"moment": self.moment, "saved": self.saved, "tokens": self.tokens}
        return {"total": self.total, **facts, **self.terms}


def trained_length(spec: Spec) -> int:
    """Return the length of a training sequence; without a `train` section, the context."""
    return spec.train.length if spec.train else spec.model.context


def train_memory(spec: Spec, graph: Graph, size: Precision | None = None) -> Memory:
    """Return the memory of a training step of the spec on one of its graphs, in its precision."""
    batch = Batch(micro_batch_tokens(spec), trained_length(spec), size or precision(spec))
    return Memory(graph, batch, spec.train)

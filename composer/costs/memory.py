"""Training memory by term: what stands in memory when the backward pass of one micro-batch begins.

The terms are summed, which bounds the peak from above except for short-lived buffers of single operations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from blocks.core.graph import Graph, Loop
from blocks.core.operations import Input
from blocks.core.slots import Slots
from composer.costs.kept import saved_per_token
from composer.costs.precision import precision
from composer.graph.walk import graphs, operations
from composer.spec.caps import MemoryLimits
from composer.spec.models import Spec


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step, by term.

    Attributes:
        weights: parameters, fp32.
        gradients: as many.
        optimizer: AdamW's two moments.
        prepared: weights joined or cast once per forward pass.
        activations: what operations keep for the backward pass.
        depth_slots: keys and values of every step, and their fp32 gradients.
        loss: logits, and the gradient that the loss sends back.
        tokens: of the micro-batch these are for.
    """

    weights: int
    gradients: int
    optimizer: int
    prepared: int
    activations: int
    depth_slots: int
    loss: int
    tokens: int

    @property
    def terms(self) -> dict[str, int]:
        """The terms in bytes, heaviest first."""
        terms = {name: size for name, size in asdict(self).items() if name != "tokens"}
        return dict(sorted(terms.items(), key=lambda term: -term[1]))

    @property
    def total(self) -> int:
        """All terms together."""
        # not of the sorted terms: their order must not decide anything
        return sum(size for name, size in asdict(self).items() if name != "tokens")

    def to_dict(self) -> dict[str, int]:
        """Return the terms with their total."""
        return {"total": self.total, **asdict(self)}


def micro_batch_tokens(spec: Spec) -> int:
    """Return the tokens of one micro-batch: as `train` says, else as the cap does, else one sequence."""
    if spec.train is None:
        cap = spec.caps.train_memory
        stated = cap.batch_tokens if isinstance(cap, MemoryLimits) else None
        return stated or spec.model.context
    return spec.train.tokens_per_step // spec.train.accumulate


def train_memory(spec: Spec, graph: Graph, params: int, compute: int) -> Memory:
    """Return the terms for the spec's micro-batch; `compute` is bytes of an element inside blocks."""
    tokens = micro_batch_tokens(spec)
    length = spec.train.length if spec.train else spec.model.context
    slots = sum(
        operation.elements() * place.executions
        for body, place in graphs(graph)
        for _, operation, _ in operations(body)
        if isinstance(operation, Slots)
    )
    return Memory(
        weights=4 * params,
        gradients=4 * params,
        optimizer=8 * params,
        prepared=_prepared(graph, compute),
        activations=round(saved_per_token(graph, length, precision(spec)) * tokens),
        depth_slots=slots * (compute + 4) * tokens,
        loss=2 * 4 * spec.model.vocab * tokens,
        tokens=tokens,
    )


def _prepared(graph: Graph, compute: int) -> int:
    total = 0
    for body, place in graphs(graph):
        for _, operation, data in operations(body):
            if isinstance(operation, (Loop, Input)):
                continue
            kernel = data["kernel"].kernel
            joined = kernel.prepared == 1
            if joined or (kernel.prepare and compute < 4):
                size = sum(body.graph["weights"][name].size for name in data["weights"])
                total += size * place.copies * (4 if joined else compute)
    return total

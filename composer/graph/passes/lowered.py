"""The graph of a spec before anything is merged or fused: what names, weights and checks are read from."""

from __future__ import annotations

from blocks.ir.graph import Graph
from composer.graph.lowering.build import build
from composer.graph.passes.dead_code import dead_code
from composer.graph.passes.infer_types import infer_types
from composer.graph.passes.number_slots import number_slots
from composer.graph.passes.tie_weights import tie_weights
from composer.language.schema.spec import Spec


def lowered(spec: Spec) -> Graph:
    """Return the graph of a spec with types and numbered slots; no kernels are chosen."""
    return numbered(build(spec))


def numbered(graph: Graph) -> Graph:
    """Return a graph as it was built, with types and numbered slots."""
    return infer_types(dead_code(tie_weights(number_slots(graph))))

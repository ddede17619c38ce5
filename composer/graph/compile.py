"""From a spec to a graph that is ready to be costed, planned and emitted."""

from __future__ import annotations

from blocks.core.graph import Graph
from blocks.core.operation import Target
from composer.graph.build import build
from composer.graph.passes.choose_kernels import Kernels, choose_kernels
from composer.graph.passes.dead_code import dead_code
from composer.graph.passes.infer_shapes import infer_shapes
from composer.graph.passes.merge_projections import merge_projections
from composer.graph.passes.number_slots import number_slots
from composer.graph.passes.tie_weights import tie_weights
from composer.spec.models import Spec


def compile_graph(spec: Spec, target: Target | None = None, kernels: Kernels = "auto") -> Graph:
    """Build the spec's graph and run every pass over it, for a CPU in fp32 unless told otherwise."""
    graph = number_slots(build(spec))
    graph = dead_code(merge_projections(tie_weights(graph)))
    return choose_kernels(infer_shapes(graph), target or Target(), kernels)

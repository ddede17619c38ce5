"""Compiles a spec to a graph that is ready for costs, plans and code generation."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from blocks.ir.graph import Graph
from blocks.ir.kernel import Target
from composer.graph.lowering.build import build
from composer.graph.other_steps import second_pass
from composer.graph.passes.active_steps import Unskippable, check_skips
from composer.graph.passes.choose_kernels import Kernels, Unfused, choose_kernels, unfused
from composer.graph.passes.dead_code import dead_code
from composer.graph.passes.fuse import fuse
from composer.graph.passes.infer_types import infer_types
from composer.graph.passes.lowered import lowered
from composer.graph.passes.mark_recompute import mark_recompute, recomputable
from composer.graph.passes.merge_projections import merge_projections
from composer.graph.passes.norm_ahead import norm_ahead
from composer.graph.passes.number_slots import number_slots
from composer.graph.passes.tie_weights import tie_weights
from composer.language.schema.spec import Spec
from composer.settings.errors import Fault, SpecError

if TYPE_CHECKING:
    from composer.graph.taps.insert import Taps


def compile_graph(
    spec: Spec,
    target: Target | None = None,
    kernels: Kernels = "auto",
    recompute: Collection[str] = (),
    apart: bool = False,
    taps: Taps | None = None,
) -> Graph:
    """Build the graph of a spec and run every pass over it; the default target is a CPU in fp32.

    `recompute` names the operations that run again in the backward pass, by their places before fusing.
    With `apart` the parts of each step, sublayers and blocks, are outlined (`composer.graph.passes.outline`).
    With `taps` values are recorded as they are made (`composer.graph.taps`).

    Raises:
        SpecError: `fused` was asked for, and an operation that has a fused kernel cannot use it there; or a
            sublayer cannot be skipped that some steps skip.
        ValueError: an operation cannot be recomputed.
    """
    target = target or Target()
    graph = _compiled(build(spec), spec, target, kernels, recompute, apart, taps)
    if (second := second_pass(spec, graph.handed)) is not None:
        graph.second = _compiled(second, spec, target, kernels, recompute, apart)
    return graph


def _compiled(
    graph: Graph,
    spec: Spec,
    target: Target,
    kernels: Kernels,
    recompute: Collection[str],
    apart: bool,
    taps: Taps | None = None,
) -> Graph:
    try:
        check_skips(graph)
    except Unskippable as error:
        raise SpecError(
            [spec.fault(("stages",), "no `at` on what others need at all steps", str(error))]
        ) from None
    graph = number_slots(graph)
    graph = infer_types(dead_code(merge_projections(tie_weights(graph), apart)))
    graph = fuse(graph, target, kernels, apart, taps.replaced_nodes if taps else ())
    if apart:
        # an operation that others are merged with stands for them
        recompute = {*recompute} & {*recomputable(graph)}
    if recompute:
        graph = mark_recompute(graph, recompute)
    if not apart:
        graph = norm_ahead(graph, target, kernels, taps.replaced_nodes if taps else ())
    # what a kernel does without may be read by no other
    graph = dead_code(choose_kernels(graph, target, kernels))
    if taps:
        from composer.graph.taps.insert import insert_taps

        graph = insert_taps(graph, lowered(spec), taps)
    if apart:
        from composer.graph.passes.outline import outline

        return outline(graph)
    if kernels == "fused" and (missed := unfused(graph, target)):
        raise SpecError([_fault(spec, each, target) for each in missed])
    return graph


def target_on(spec: Spec, device: str) -> Target:
    """Return the target of a spec on a device, cpu or cuda; precision "auto" is bf16-mixed on cuda."""
    stated = spec.train.precision if spec.train else "auto"
    mixed = stated == "bf16-mixed" or (stated == "auto" and device == "cuda")
    return Target(device, "bfloat16" if mixed else "float32")


def _fault(spec: Spec, missed: Unfused, target: Target) -> Fault:
    place = ("blocks", missed.block) if missed.block else ()
    expected = f"an operation for the fused kernel {missed.kernel} on {target.device} in {target.dtype}"
    got = f"{missed.operation}, which it cannot run: {missed.why}"
    return spec.fault(place, expected, got, "--kernels auto takes the reference there")

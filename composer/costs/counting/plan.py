"""The plan of a spec: its graph, compiled once, with what is recomputed to keep to its cap on memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph
from blocks.ir.kernel import Target
from blocks.ir.numbers import total
from blocks.ir.walk import graphs, operations
from composer.costs.base.precision import precision
from composer.costs.base.units import bytes_text, count_text
from composer.costs.memory.peak import train_memory, trained_length
from composer.costs.memory.recompute import STOPPED, choose, recompute_flops
from composer.graph.compile import compile_graph
from composer.graph.lowering.build import micro_batch_tokens
from composer.graph.passes.active_steps import segmented
from composer.graph.passes.choose_kernels import Kernels
from composer.graph.passes.mark_recompute import mark_recompute, recomputed
from composer.graph.passes.plan import plan_text
from composer.language.schema.spec import Spec

if TYPE_CHECKING:
    from composer.costs.counting.count import Costs


@dataclass(frozen=True, eq=False)
class Plan:
    """A spec's graph, compiled once for a target, with what runs again in the backward pass.

    Costs, modules, pictures and run folders take it, so that none of them compiles a graph of its own.

    Attributes:
        kernels: how kernels were chosen: auto, reference or fused.
        base: the plan for a CPU that it was made from; None for that itself.
    """

    spec: Spec
    graph: Graph
    target: Target
    kernels: Kernels
    base: Plan | None = None

    @property
    def recomputed(self) -> tuple[str, ...]:
        """The operations that run again in the backward pass, by their places."""
        return tuple(recomputed(self.graph))

    @cached_property
    def costs(self) -> Costs:
        """What the spec costs, on whatever it runs."""
        from composer.costs.counting.count import count

        return self.base.costs if self.base else count(self.spec, self.graph)

    def on(self, target: Target, kernels: Kernels | None = None) -> Plan:
        """Return the plan for another target, or by other kernels; what is recomputed stays the same.

        Raises:
            SpecError: `fused` was asked for, and an operation that has a fused kernel cannot use it there.
        """
        kernels = kernels or self.kernels
        if (target, kernels) == (self.target, self.kernels):
            return self
        graph = compile_graph(self.spec, target, kernels, self.recomputed)
        graph.graph.update({key: value for key, value in self.graph.graph.items() if key == STOPPED})
        return Plan(self.spec, graph, target, kernels, self.base or self)

    def text(self) -> str:
        """Return the plan as plain text: one operation a line, then what is recomputed."""
        return plan_text(self.graph) + "".join(f"{line}\n" for line in _recomputation(self))


def make_plan(spec: Spec, kernels: Kernels = "auto") -> Plan:
    """Compile the spec's graph for a CPU; mark what is recomputed where it would be over its cap on memory.

    Without `caps.train_memory` nothing is. Of a soft and a hard limit the soft one counts; where recomputing
    cannot keep to it, all that lowers the peak is marked. What is recomputed does not depend on the target.

    Raises:
        SpecError: `fused` was asked for, and an operation that has a fused kernel cannot use it there.
    """
    # a fused kernel is no reason to recompute less: a model may be moved, and its marks stay
    plain: Kernels = "reference" if kernels == "reference" else "auto"
    graph = compile_graph(spec, kernels=plain)
    limit = spec.caps.limit("train_memory", "soft") or spec.caps.limit("train_memory")
    graph = graph if limit is None else _capped(spec, graph, limit)
    plan = Plan(spec, graph, Target(), plain)
    return plan if kernels == plain else plan.on(Target(), kernels)


def target_on(spec: Spec, device: str) -> Target:
    """Return what a spec is planned for on a device, cpu or cuda; precision "auto" is bf16-mixed on cuda."""
    said = spec.train.precision if spec.train else "auto"
    mixed = said == "bf16-mixed" or (said == "auto" and device == "cuda")
    return Target(device, "bfloat16" if mixed else "float32")


def _capped(spec: Spec, graph: Graph, limit: float) -> Graph:
    return choose(
        graph,
        limit,
        lambda marked: train_memory(spec, marked).total,
        micro_batch_tokens(spec),
        trained_length(spec),
        precision(spec),
    )


def trained_flops(graph: Graph, length: int) -> float:
    """Return the FLOPs per token, forward and backward, on sequences of `length`; none that run again."""
    found = 0.0
    for body, place in graphs(segmented(graph)):
        at = CostContext(length, place.trips)
        each = (operation.flops(at) + operation.backward_flops(at) for _, operation, _ in operations(body))
        found = found + place.executions * total(each)
    return found


def _recomputation(plan: Plan) -> list[str]:
    spec, graph, again = plan.spec, plan.graph, plan.recomputed
    if not again:
        return []
    length = trained_length(spec)
    kept, peak = (train_memory(spec, each) for each in (mark_recompute(graph, ()), graph))
    flops = recompute_flops(graph, length, precision(spec))
    share = 100 * flops / trained_flops(graph, length)
    stopped = graph.graph.get(STOPPED, 0)
    note = f"the choice stopped after {count_text(stopped)} operations costed: fewer may suffice"
    return [
        "",
        f"recomputed in the backward pass: {', '.join(again)}",
        f"frees {bytes_text(kept.total - peak.total)}: training takes {bytes_text(peak.total)}, not "
        f"{bytes_text(kept.total)}, on a micro-batch of {count_text(peak.tokens)} tokens",
        f"costs {count_text(flops)} FLOPs per token, {share:.3g} % of those of training",
        *([note] if stopped else []),
    ]

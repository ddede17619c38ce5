"""The plan of a spec, made once and used by costs, modules, pictures, training and benchmarks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

from blocks.ir.graph import Graph
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from composer.costs.base.precision import precision
from composer.costs.base.units import bytes_text, count_text
from composer.costs.counting.count import (
    Costs,
    count_graph,
    recompute_flops_per_token,
    training_flops_per_token,
)
from composer.costs.memory.peak import Memory, train_memory, trained_length
from composer.costs.memory.recompute import choose
from composer.graph.compile import compile_graph, target_on
from composer.graph.lowering.build import micro_batch_tokens
from composer.graph.other_steps import training_graphs
from composer.graph.passes.choose_kernels import Kernels
from composer.graph.passes.mark_recompute import mark_recompute, recomputed
from composer.language.schema.spec import Spec
from composer.language.schema.steps import most_steps, with_steps


@dataclass(frozen=True, eq=False)
class Plan:
    """A spec compiled for one target, with the operations to recompute. Costs are counted on demand.

    Attributes:
        spec: the compiled spec.
        target: the device and dtype that kernels were chosen for.
        kernels: how kernels were chosen.
        graph: the compiled graph, which must not be modified.
        recomputed: the places of recomputed operations; the same on every target.
        stopped: the number of costed operations after which that choice was stopped; 0 if it was not.
        apart: whether the parts of each step are outlined, to be called one by one.
    """

    spec: Spec
    target: Target
    kernels: Kernels
    graph: Graph
    recomputed: tuple[str, ...]
    stopped: int = 0
    apart: bool = False
    _memories: dict[frozenset[str], Memory] = field(default_factory=dict, repr=False)

    def on(self, target: Target, kernels: Kernels | None = None, apart: bool = False) -> Plan:
        """Return the plan for another target, with the same operations recomputed.

        Returns this plan itself if nothing would differ.

        Raises:
            SpecError: `fused` was asked for, and an operation that has a fused kernel cannot use it there.
        """
        kernels = kernels or self.kernels
        if (kernels, apart) == (self.kernels, self.apart) and _serves(self, target):
            return self
        graph = compile_graph(self.spec, target, kernels, self.recomputed, apart)
        return replace(self, target=target, kernels=kernels, graph=graph, apart=apart, _memories={})

    def on_device(self, device: str) -> Plan:
        """Return the plan for a device, cpu or cuda, in the precision of the spec there."""
        return self.on(target_on(self.spec, device))

    @property
    def memory(self) -> Memory:
        """Training memory of one micro-batch, at the largest number of steps in training."""
        return self._joined._memory(self._joined._longest)

    @cached_property
    def costs(self) -> Costs:
        """Costs of the spec under this plan, without what hooks add."""
        return count_graph(self.spec, self._joined.graph, self.memory)

    @cached_property
    def text(self) -> str:
        """The plan as plain text: one operation per line, then the recomputed operations."""
        from composer.graph.passes.plan import plan_text

        return plan_text(self.graph) + "".join(f"{line}\n" for line in self._recompute_lines())

    @cached_property
    def _joined(self) -> Plan:
        """This plan without parts that are called one by one, whose operations are not counted."""
        return self.on(self.target, apart=False) if self.apart else self

    @cached_property
    def _longest(self) -> Graph:
        """The graph on which memory is counted."""
        if not (most := most_steps(self.spec)):
            return self.graph
        spec = with_steps(self.spec, most)
        return compile_graph(spec, self.target, self.kernels, self.recomputed, self.apart)

    def _memory(self, graph: Graph) -> Memory:
        return self._memories.setdefault(frozenset(recomputed(graph)), train_memory(self.spec, graph))

    def _recompute_lines(self) -> list[str]:
        again = [*recomputed(self.graph)]
        if not again:
            return []
        kept, peak = self._memory(mark_recompute(self._longest, ())).total, self.memory.total
        flops = recompute_flops_per_token(self.spec, self.graph)
        share = 100 * flops / training_flops_per_token(self.spec, self.graph)
        note = f"the choice stopped after {count_text(self.stopped)} operations costed: fewer may suffice"
        return [
            "",
            f"recomputed in the backward pass: {', '.join(again)}",
            f"frees {bytes_text(kept - peak)}: training takes {bytes_text(peak)}, not "
            f"{bytes_text(kept)}, on a micro-batch of {count_text(self.memory.tokens)} tokens",
            f"costs {count_text(flops)} FLOPs per token, {share:.3g} % of those of training",
            *([note] if self.stopped else []),
        ]


def make_plan(
    spec: Spec,
    target: Target | None = None,
    kernels: Kernels = "auto",
    recompute: Collection[str] | None = None,
) -> Plan:
    """Compile a spec, by default for a CPU in fp32, and choose the operations to recompute.

    By default, operations are recomputed only if the spec would exceed `caps.train_memory` (its soft limit,
    if it has one). If that is not enough, all operations that lower the peak are recomputed. The choice does
    not depend on the target, because a model may be moved and keeps its choice.

    Raises:
        SpecError: `fused` was asked for, and an operation that has a fused kernel cannot use it there; or
            training has numbers of steps that a stage cannot run.
        ValueError: an operation of `recompute` cannot be recomputed.
    """
    plain: Kernels = "reference" if kernels == "reference" else "auto"
    training_graphs(spec)  # refuses numbers of steps that the stages cannot run
    graph = compile_graph(spec, kernels=plain, recompute=recompute or ())
    plan = Plan(spec, Target(), plain, graph, (*recomputed(graph),))
    limit = spec.caps.limit("train_memory", "soft") or spec.caps.limit("train_memory")
    if recompute is None and limit is not None:
        plan = _within(plan, limit)
    return plan.on(target or Target(), kernels)


def as_plan(spec: Spec | Plan) -> Plan:
    """Return the plan of a spec; a plan is returned as it is."""
    return spec if isinstance(spec, Plan) else make_plan(spec)


def count(spec: Spec) -> Costs:
    """Count the costs of a spec as planned for a CPU in fp32."""
    return make_plan(spec).costs


def _within(plan: Plan, limit: float) -> Plan:
    """Return the plan with operations recomputed so that its memory stays within a limit."""
    spec = plan.spec
    longest, stopped = choose(
        plan._longest,
        limit,
        lambda marked: plan._memory(marked).total,
        micro_batch_tokens(spec),
        trained_length(spec),
        precision(spec),
    )
    marks = (*recomputed(longest),)
    graph = longest if plan._longest is plan.graph else mark_recompute(plan.graph, marks)
    return replace(plan, graph=graph, recomputed=marks, stopped=stopped)


def _serves(plan: Plan, target: Target) -> bool:
    """Return whether a plan also holds for a target; only kernel self-tests can tell machines apart."""
    if target == plan.target:
        return True
    tested = any(
        data.choice is not None and data.kernel.check
        for body, _ in graphs(plan.graph)
        for _, _, data in operations(body)
    )
    return not tested and target == replace(plan.target, here=target.here)

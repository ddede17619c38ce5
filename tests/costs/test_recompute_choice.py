"""What is chosen to run again: nothing without need, the cheapest bytes first, no more than it takes."""

import pytest
from cases import DREAMER
from hypothesis import Phase, given
from hypothesis import strategies as st
from models import shipped
from samples import samples
from strategies import make, specs

from blocks.ir.costs import CostContext
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from composer.costs.base.precision import FULL
from composer.costs.counting.count import count_graph, longest_graph
from composer.costs.counting.plan import count, make_plan
from composer.costs.fitting.caps import check_caps
from composer.costs.memory.peak import train_memory
from composer.costs.memory.recompute import recompute_flops
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import mark_recompute, recomputable, recomputed
from composer.settings.errors import SpecError


def capped(spec, limit):
    if limit is None:
        return spec.model_copy(update={"caps": spec.caps.model_copy(update={"train_memory": None})})
    return spec.model_copy(update={"caps": spec.caps.model_copy(update={"train_memory": limit})})


def range_of(spec):
    """The bytes without recomputing, and with everything recomputed."""
    graph = longest_graph(spec, compile_graph(spec))
    every = mark_recompute(graph, [*recomputable(graph)])
    return train_memory(spec, graph).total, train_memory(spec, every).total


def again(spec):
    return [*make_plan(spec).recomputed]


def products(graph):
    """The places of the operations that multiply matrices."""
    return {
        "".join(f"{loop}." for loop, _ in place.loops) + node
        for body, place in graphs(graph)
        for node, operation, _ in operations(body)
        if operation.flops(CostContext(4, place.trips)) > 0
    }


@samples(25)
@given(specs(room=4))
def test_without_a_cap_and_within_it_nothing_is_recomputed(spec):
    whole, _ = range_of(spec)
    for limit in (None, whole):
        assert again(capped(spec, limit)) == []
        assert count(capped(spec, limit)).recompute_flops == 0


@samples(15, phases=[phase for phase in Phase if phase != Phase.shrink])
@given(specs(room=3, levels=1), st.floats(0, 1, exclude_max=True))
def test_a_cap_that_can_be_kept_is_kept_with_no_mark_to_spare(spec, share):
    whole, least = range_of(spec)
    spec = capped(spec, round(least + share * (whole - least)))
    plan = make_plan(spec)
    graph = longest_graph(spec, plan.graph)
    assert count(spec).train_memory.total == train_memory(spec, graph).total <= max(least, whole)
    if least < whole:
        assert train_memory(spec, graph).total <= spec.caps.train_memory
        marks = {*recomputed(graph)}
        # a choice that its budget of work ended says so, and may keep more
        for place in marks if not plan.stopped else ():
            fewer = mark_recompute(graph, marks - {place})
            assert train_memory(spec, fewer).total > spec.caps.train_memory


@pytest.mark.parametrize("name", [*shipped()])
def test_no_product_runs_again_while_cheaper_bytes_suffice(name):
    spec = shipped()[name]
    graph = compile_graph(spec)
    cheap = mark_recompute(graph, {*recomputable(graph)} - products(graph))
    spec = capped(spec, train_memory(spec, cheap).total)
    marks = again(spec)
    assert marks
    assert not {*marks} & products(graph)
    assert count(spec).recompute_flops == 0


@pytest.mark.parametrize("name", [*shipped()])
def test_the_plan_is_the_same_every_time_and_what_is_counted(name):
    whole, least = range_of(shipped()[name])
    spec = capped(shipped()[name], (whole + 4 * least) // 5)
    graph = make_plan(spec).graph
    plan = make_plan(spec)
    assert [*plan.recomputed] == [*recomputed(graph)]
    assert plan.costs.train_memory.total == count_graph(spec, graph).train_memory.total <= whole
    assert plan.costs.recompute_flops == round(recompute_flops(graph, spec.train.length, FULL)) > 0


def test_a_cap_that_cannot_be_kept_says_that_recomputing_was_tried():
    spec = make(DREAMER)
    whole, least = range_of(spec)
    spec = capped(spec, least // 2)
    with pytest.raises(SpecError, match=r"train_memory: .* though all that helps is recomputed"):
        check_caps(spec)
    assert count(spec).train_memory.total < whole


def test_the_soft_limit_is_what_is_kept_to():
    whole, least = range_of(make(DREAMER))
    middle = (whole + least) // 2
    caps = {"train_memory": {"soft": middle, "hard": 2 * whole}}
    assert count(make({**DREAMER, "caps": caps})).train_memory.total <= middle


def test_the_plan_says_what_is_recomputed_and_what_it_frees_and_costs():
    spec = make(DREAMER)
    assert "recomputed" not in make_plan(spec).text
    _, least = range_of(spec)
    text = make_plan(capped(spec, least)).text.splitlines()
    marks = again(capped(spec, least))
    operations = [line for line in text if "recomputed; " in line]
    assert [line.split()[0] for line in operations] == [place.removeprefix("stages.0.") for place in marks]
    assert text[-3] == f"recomputed in the backward pass: {', '.join(marks)}"
    assert text[-2].startswith("frees ")
    costs = count(capped(spec, least))
    trained = sum(vars(costs.flops_per_token).values())
    share = 100 * costs.recompute_flops / trained
    assert text[-1].endswith(f"FLOPs per token, {share:.3g} % of those of training")


@pytest.mark.parametrize("name", ["dreamer-small", "dreamer-tiny", "transformer"])
@pytest.mark.parametrize("precision", [32, "bf16-mixed"])
def test_fused_operations_take_no_more_memory_than_what_they_stand_for(name, precision):
    spec = shipped()[name]
    if spec.train is not None:
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"precision": precision})})
    whole, _ = range_of(spec)
    for share in (0.5, 0.7):
        given = capped(spec, int(share * whole))
        target = Target("cuda", "float32" if precision == 32 else "bfloat16")
        plain, fused = (make_plan(given, *at).memory for at in ((), (target,)))
        assert fused.total <= plain.total

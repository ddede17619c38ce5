"""Branch and bound after the greedy choice of what is recomputed: fewer FLOPs at the same cap, never more."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import shipped
from samples import samples, some
from strategies import specs

from composer.costs.base.precision import precision
from composer.costs.memory import recompute
from composer.costs.memory.lightest import lighter
from composer.costs.memory.peak import train_memory, trained_length
from composer.graph.compile import compile_graph
from composer.graph.lowering.build import micro_batch_tokens
from composer.graph.passes.mark_recompute import mark_recompute, recomputable, recomputed


def choices(spec, share, without="_fewer_flops"):
    """The choice without an improvement and with it, each as (FLOPs, whether it fits, stopped, marks).

    The cap lies between the lowest peak (share 0) and that without recomputing (share 1).
    """
    graph, length, size = compile_graph(spec), trained_length(spec), precision(spec)
    least = train_memory(spec, mark_recompute(graph, [*recomputable(graph)])).total
    limit = least + share * (train_memory(spec, graph).total - least)

    def choice():
        tokens = micro_batch_tokens(spec)
        choice = recompute.choose(
            graph, limit, lambda marked: train_memory(spec, marked).total, tokens, length, size
        )
        flops = recompute.recompute_flops(choice.graph, length, size)
        fits = train_memory(spec, choice.graph).total <= limit
        return flops, fits, choice.stopped, len([*recomputed(choice.graph)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recompute, without, lambda result, *_: result)
        greedy = choice()
    return greedy, choice()


def check_improved(greedy, improved):
    assert improved[0] <= greedy[0]
    assert improved[1:3] == greedy[1:3]


@samples(20)
@given(specs(room=4), st.sampled_from([0.05, 0.2, 0.5, 0.8]))
def test_generated_specs_never_take_more_flops_than_the_greedy_choice(spec, share):
    check_improved(*choices(spec, share))


@pytest.mark.parametrize(
    "share", [pytest.param(0.05, marks=pytest.mark.slow), 0.2, pytest.param(0.5, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", [*shipped()])
def test_shipped_specs_never_take_more_flops_than_the_greedy_choice(name, share):
    check_improved(*choices(shipped()[name], share))


@pytest.mark.parametrize(("name", "share"), [("dreamer-tiny", 0.5), ("space-baseline", 0.2)])
def test_some_take_fewer(name, share):
    greedy, improved = choices(shipped()[name], share)
    assert greedy[1]
    assert improved[1]
    assert improved[0] < 0.9 * greedy[0]


def test_a_budget_that_ends_in_the_improvement_does_not_count_as_stopped(monkeypatch):
    spec = shipped()["dreamer-tiny"]
    saved = []
    for budget in (300, 1500, 2000, 4000, 4500, 5000):
        monkeypatch.setattr(recompute, "_BUDGET", budget)
        greedy, improved = choices(spec, 0.5)
        check_improved(greedy, improved)
        saved.append((greedy[2] > 0, improved[0] < greedy[0]))
    assert {(True, False), (False, False), (False, True)} == {*saved}


def check_pruned(spec, share, budget):
    """What is chosen where the budget ends: no more FLOPs or marks than before what is not needed goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recompute, "_BUDGET", budget)
        before, after = choices(spec, share, without="_pruned")
    assert after[1:3] == before[1:3]
    assert after[0] <= before[0]
    assert after[3] <= before[3]
    return before, after


@samples(20)
@given(specs(room=3, levels=1), st.sampled_from([0.05, 0.2, 0.5, 0.8]), st.sampled_from([300, 1000, 3000]))
def test_marks_that_are_dropped_once_the_budget_ends_never_add_flops(spec, share, budget):
    check_pruned(spec, share, budget)


@pytest.mark.parametrize("name", [*some(shipped(), 4)])
def test_shipped_specs_lose_spare_marks_where_the_budget_ends(name):
    before, after = check_pruned(shipped()[name], 0.5, 300)
    if before[2]:
        assert after[1]
        assert after[3] < before[3]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9)), st.data())
def test_branch_and_bound_finds_the_lightest_set(weights, data):
    wanted = (
        data.draw(st.lists(st.frozensets(st.sampled_from([*weights]), min_size=1), max_size=3))
        if weights
        else []
    )
    below = data.draw(st.integers(0, 30))

    def suffices(names):
        return all(names & each for each in wanted)

    subsets = [frozenset(each) for size in range(len(weights) + 1) for each in combinations(weights, size)]
    sums = [sum(weights[name] for name in each) for each in subsets if suffices(each)]
    results = [*lighter(weights, suffices, below)]
    assert all(map(suffices, results))
    if min(sums) < below:
        assert sum(weights[name] for name in results[-1]) == min(sums)
    else:
        assert results == []

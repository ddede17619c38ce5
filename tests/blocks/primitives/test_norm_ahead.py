"""The last sum of a step makes the norm that begins the next one, and only where it may."""

from dataclasses import replace

import pytest
import torch
from cases import FFN, SEQ, tree
from models import check_saved, shake, tokens_for
from strategies import make

import composer
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.primitives import fused, norm_kernel
from blocks.primitives.fused_operations import AddBeforeNorm, PrecomputedNorm
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.graph.passes.norm_ahead import norm_ahead
from composer.module.model import ComposedModel

GPU = Target("cuda", "bfloat16")
BLOCKS = {"f": FFN, "g": {**FFN, "hidden": 5}, "s": SEQ}
LOOP = tree({"f": FFN}, {"recur": 3, "step": ["f"]}, width=16)


def pairs(stages, target=GPU, **options):
    """How many pairs there are in the plan of a tree of feed-forward blocks, or of its stages."""
    blocks = {name: block for name, block in BLOCKS.items() if f"'{name}'" in str(stages)}
    spec = make(tree(blocks, *stages, width=16))
    graph = compile_graph(spec, target, **options)
    kinds = [type(op) for body, _ in graphs(graph) for _, op, _ in operations(body)]
    assert kinds.count(AddBeforeNorm) == kinds.count(PrecomputedNorm)
    return kinds.count(AddBeforeNorm)


def test_steps_with_one_gain_and_gradients_are_paired():
    assert pairs([{"recur": 3, "step": ["f"]}]) == 1
    assert pairs([{"recur": 3, "step": ["s", "f"]}, {"recur": 2, "step": ["g"]}]) == 2
    # the outer loop's steps end with the inner one
    assert pairs([{"recur": 3, "step": ["f", {"recur": 2, "step": ["g"]}]}]) == 1


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ([{"stack": 3, "step": ["f"]}], "each layer has a gain of its own"),
        ([{"recur": 1, "step": ["f"]}], "there is no next step"),
        ([{"recur": 3, "step": ["f"], "inject": "add"}], "the next step begins with another sum"),
    ],
)
def test_others_are_not(stages, why):
    assert pairs(stages) == 0, why


@pytest.mark.parametrize(("last", "found"), [(None, 1), (2, 0)])
def test_a_gain_keeps_its_gradient_where_that_of_the_state_ends(last, found):
    graph = compile_graph(make(LOOP), GPU, "reference")
    graph.replace("stages.0", op=replace(graph.loop("stages.0"), last=last))
    body = norm_ahead(graph, GPU).loop("stages.0").body
    assert sum(isinstance(op, AddBeforeNorm) for _, op, _ in operations(body)) == found


def test_nor_are_those_of_a_cpu_of_parts_apart_or_that_run_again():
    stage = [{"recur": 3, "step": ["f"]}]
    assert pairs(stage, Target()) == pairs(stage, kernels="reference") == pairs(stage, apart=True) == 0
    assert pairs(stage, recompute=["stages.0.0.norm"]) == 0
    assert pairs(stage, recompute=["stages.0.0.f.down"]) == 1


def test_the_norm_is_narrow_for_a_product_alone():
    graph = compile_graph(make(LOOP), GPU)
    (body,) = (body for body, place in graphs(graph) if place.loops)
    (given,) = (op for _, op, _ in operations(body) if isinstance(op, PrecomputedNorm))
    (ahead,) = (op for _, op, _ in operations(body) if isinstance(op, AddBeforeNorm))
    assert given.narrow
    assert ahead.narrow
    wide = compile_graph(make(LOOP), replace(GPU, dtype="float32"))
    assert not any(getattr(op, "narrow", False) for body, _ in graphs(wide) for _, op, _ in operations(body))


@pytest.fixture
def made(monkeypatch):
    """The number of sums that made a norm, in a list."""
    results, real = [], norm_kernel.add_norm_forward
    monkeypatch.setattr(norm_kernel, "add_norm_forward", lambda *given: results.append(1) or real(*given))
    return results


def both(where):
    plain = ComposedModel(make(LOOP), "reference", torch_compile="off")
    shake(plain)
    model = ComposedModel(plain.spec, torch_compile="off")
    model.load_state_dict(plain.state_dict())
    return model.to(where), plain


def test_every_step_but_the_last_makes_one_at_any_number_of_steps(planned_for_a_gpu, made):
    where = planned_for_a_gpu
    model, plain = both(where)
    tokens = tokens_for(plain.spec, 2, 5)
    for steps in (3, 5, 2):
        for each in (model, plain):
            each.set_steps({"stages.0": steps})
        made.clear()
        with torch.no_grad():
            torch.testing.assert_close(model(tokens.to(where)).cpu(), plain(tokens), atol=1e-4, rtol=1e-4)
        assert len(made) == steps - 1


def test_recorded_values_are_those_of_the_reference(planned_for_a_gpu):
    where = planned_for_a_gpu
    model, plain = both(where)
    tokens = tokens_for(plain.spec, 2, 5)
    names = ["stages.0.0.norm", "stages.0"]
    with composer.record(model, names) as result:
        model(tokens.to(where))
    with composer.record(plain, names) as wanted:
        plain(tokens)
    for name in names:
        torch.testing.assert_close(result[name].cpu(), wanted[name], atol=1e-4, rtol=1e-4)


def test_a_state_of_another_loop_brings_no_norm(planned_for_a_gpu):
    where = planned_for_a_gpu
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, 3, 8, generator=draw).to(where) for _ in range(2))
    own, other = (torch.full((8,), size, device=where) for size in (1.0, 2.0))
    for gain, share in ((own, 1.0), (other, 2.0)):
        total = fused.add_before_norm(a, b, own, False, index=0, last=2)
        normed = fused.precomputed_norm(total, gain, False)
        torch.testing.assert_close(normed, share * fused.precomputed_norm(total, own, False))


def test_it_keeps_what_it_declares(planned_for_a_gpu):
    where = planned_for_a_gpu
    model = ComposedModel(make(LOOP), torch_compile="off").to(where)
    # the first step's norm keeps a number of each token, and torch's on a CPU what it makes
    check_saved(model, where, more=4 if where == "cuda" else 4 + 4 * 16)


def test_marks_are_chosen_among_all_norms():
    assert "stages.0.0.norm" in {*recomputable(compile_graph(make(LOOP), GPU))}

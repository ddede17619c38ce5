"""Whole models by the kernels of `blocks.primitives`: planned for a GPU, run here."""

import pytest
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from models import check_same_training, check_saved, close, shake, tokens_for
from replaying import Replaying
from strategies import make

from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.primitives.fused_operations import AddBeforeNorm, AddNorm, NormRotate, PrecomputedNorm
from blocks.primitives.operations import Norm, Rotate, Sum
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.module.model import ComposedModel
from composer.module.passes import losses
from composer.training.capture.step_graphs import StepGraphs

pytest.importorskip("triton")

NORMED = {**SEQ, "qk_norm": True}
TREES = {
    "dreamer": tree({"s": NORMED, "d": DEPTH, "e": EXPERT}, {"recur": 3, "step": ["s", "d", "e"]}, width=16),
    "transformer": tree({"s": SEQ, "f": FFN}, {"stack": 2, "step": ["s", "f"]}, width=16),
    "loops": tree(
        {"s": SEQ, "f": FFN, "g": {**FFN, "hidden": 5}},
        {"recur": 3, "step": ["s", "f"]},
        {"recur": 2, "step": ["f", {"recur": 2, "step": ["g"]}]},
        width=16,
    ),
    "parallel": tree(
        {"s": NORMED, "f": FFN},
        {"recur": 2, "step": ["f", {"parallel": ["s", "f"], "combine": "gate"}], "inject": "add"},
    ),
}


def kinds(graph):
    return [type(op) for body, _ in graphs(graph) for _, op, _ in operations(body)]


@pytest.mark.parametrize("case", TREES)
def test_a_plan_for_a_gpu_fuses_and_a_plan_for_a_cpu_does_not(case):
    spec = make(TREES[case])
    there, here = (kinds(compile_graph(spec, target)) for target in (Target("cuda", "bfloat16"), None))
    assert not {AddNorm, NormRotate} & {*here}
    assert there.count(AddNorm) >= 1
    assert there.count(AddBeforeNorm) == there.count(PrecomputedNorm)
    fused_norms = sum(map(there.count, (AddNorm, NormRotate, PrecomputedNorm)))
    assert here.count(Norm) == there.count(Norm) + fused_norms
    assert here.count(Rotate) == there.count(Rotate) + there.count(NormRotate)
    assert here.count(Sum) == there.count(Sum) + there.count(AddNorm) + there.count(AddBeforeNorm)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("case", TREES)
def test_models_by_kernels_give_the_loss_and_gradients_of_the_reference(planned_for_a_gpu, case, again):
    where = planned_for_a_gpu
    plain = ComposedModel(make(TREES[case]), "reference", torch_compile="off")
    shake(plain)
    marks = [*recomputable(plain.graph)] if again else []
    model = ComposedModel(plain.spec, recompute=marks, torch_compile="off")
    model.load_state_dict(plain.state_dict())
    check_same_training(model.to(where).train(), plain, tokens_for(model.spec, 1, 5), where)
    assert AddNorm in kinds(model.graph)
    assert any(name.startswith("triton") for name in chosen(model.graph))


def chosen(graph):
    return {data.kernel.name for body, _ in graphs(graph) for _, _, data in operations(body) if data.choice}


@pytest.mark.parametrize("case", ["transformer", "parallel"])
def test_models_by_kernels_keep_what_they_declare(planned_for_a_gpu, attention_keeps_as_declared, case):
    where = planned_for_a_gpu
    check_saved(ComposedModel(make(TREES[case]), torch_compile="off").to(where), where)


def test_replayed_steps_of_kernels_give_the_loss_and_gradients_of_plain_ones(planned_for_a_gpu):
    model = ComposedModel(make(TREES["loops"]), torch_compile="off")
    shake(model)
    model = model.to(planned_for_a_gpu).train()
    graphs = StepGraphs(Replaying, required=True)
    results = []
    for run in (losses, graphs.losses):
        model.zero_grad()
        for step in range(3):
            # two micro-batches add up: the second must not write over what the first one left
            tokens = tokens_for(model.spec, 2, 6, step).to(planned_for_a_gpu)
            loss, _ = model._losses(tokens, tokens, run)
            loss.backward()
        results.append({name: each.grad.clone() for name, each in model.named_parameters()})
    assert {AddBeforeNorm, PrecomputedNorm} < {*kinds(model.graph)}
    assert graphs.replayed == 3
    close(*results, 1e-6)

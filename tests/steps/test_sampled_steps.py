"""Training with other numbers of steps than evaluation, and calls with numbers of their own."""

import copy
from unittest.mock import patch

import lightning
import pytest
import torch
from cases import DEPTH, FFN, SEQ, tree
from models import compiled, tokens_for
from strategies import make

import composer
from composer.costs.base.precision import BF16
from composer.costs.counting.count import longest_graph
from composer.costs.counting.plan import count
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.language.schema.steps import with_steps
from composer.module import steps as module
from composer.module.emission import stage as stages
from composer.module.model import ComposedModel
from composer.testing.memory import measured

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
TRAIN = {
    "data": {"task": "hop", "length": 32, "symbols": 4},
    "tokens": 2560,
    "batch_tokens": 512,
    "accumulate": 2,
    "precision": 32,
    "lr": 0.01,
}
SAMPLED = {"recur": {"steps": 3, "train": {"uniform": [1, 4]}}, "step": ["s", "d", "f"]}


def spec(*layout, **rest):
    plain = tree(BLOCKS, *(layout or (SAMPLED,)))
    plain["model"] = {**plain["model"], "vocab": 300, "context": 32}
    return make({**plain, **rest})


def at(result, steps):
    """The model of a spec with other numbers of steps, and the weights of `result`."""
    other = ComposedModel(with_steps(result.spec, steps))
    other.load_state_dict(result.state_dict())
    return other


@pytest.mark.parametrize("steps", [1, 5])
def test_a_call_runs_as_a_model_of_as_many_steps(steps):
    model = compiled(spec())
    tokens = tokens_for(model.spec)
    before, other = model(tokens), at(model, {"stages.0": steps})
    for given in (steps, {"stages.0": steps}):
        assert torch.equal(model(tokens, steps=given), other(tokens))
        assert torch.equal(model.loss(tokens, tokens, steps=given), other.loss(tokens, tokens))
    model.loss(tokens, tokens, steps=steps).backward()
    other.loss(tokens, tokens).backward()
    expected = {name: weight.grad for name, weight in other.named_parameters()}
    assert all(torch.equal(weight.grad, expected[name]) for name, weight in model.named_parameters())
    assert torch.equal(model(tokens), before)
    assert model.plan.spec is model.spec
    hook = model.stages[0].register_forward_hook(lambda *_: None)
    assert torch.allclose(model(tokens, steps=steps), other(tokens), atol=1e-5)
    hook.remove()
    assert torch.equal(copy.deepcopy(model)(tokens, steps=steps), other(tokens))


def test_a_number_needs_one_recurrent_stage():
    two = compiled(spec(SAMPLED, SAMPLED))
    tokens = tokens_for(two.spec)
    with pytest.raises(ValueError, match=r"got stages.0 and stages.1; name the stage, such as stages.0"):
        two(tokens, steps=2)
    with pytest.raises(ValueError, match="got none"):
        compiled(spec({"stack": 2, "step": ["s", "d", "f"]}))(tokens, steps=2)
    before = two(tokens)
    with pytest.raises(ValueError, match="expected at least 1 step, got 0"):
        two(tokens, steps={"stages.1": 0})
    assert torch.equal(two(tokens), before)
    two.set_steps({"stages.0": 2})
    assert torch.equal(two(tokens, steps={"stages.1": 4}), at(two, {"stages.0": 2, "stages.1": 4})(tokens))
    assert torch.equal(two(tokens), at(two, {"stages.0": 2})(tokens))


def test_code_is_emitted_once_for_each_number_and_not_where_it_is_the_same():
    model = compiled(spec())
    tokens = tokens_for(model.spec)
    with (
        patch.object(stages, "step_code", wraps=stages.step_code) as emitted,
        patch.object(module, "make_plan", wraps=module.make_plan) as planned,
    ):
        for number in (1, 2, 4, 2, 1, 4, 3):
            model(tokens, steps=number)
    # the code of a step does not depend on how many there are
    assert emitted.call_count == 0
    assert planned.call_count == 4
    scaled = compiled(spec({**SAMPLED, "residual": {"scale": "1/steps"}}))
    with patch.object(stages, "step_code", wraps=stages.step_code) as emitted:
        for number in (1, 2, 2, 1):
            model = scaled
            model(tokens, steps=number)
    assert emitted.call_count == 2


def trained(result, **settings):
    model = composer.compile(result)
    data = composer.datamodule(result)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    trainer = lightning.Trainer(**options, accelerator="cpu", enable_model_summary=False, **settings)
    seen = []
    real = ComposedModel._losses

    def losses(self, tokens, targets, run):
        seen.append([stage.loop.trips for stage in self.stages])
        return real(self, tokens, targets, run)

    with patch.object(ComposedModel, "_losses", losses):
        trainer.fit(model, data)
    return model, seen


@pytest.mark.parametrize("kind", ["sampled", "late", "two"])
def test_a_trainer_draws_a_number_for_each_micro_batch(kind):
    late = {**SAMPLED, "recur": {"steps": 3, "train": {"at": 0.4}}}
    layout = {"sampled": (SAMPLED,), "late": (late,), "two": (SAMPLED, late)}[kind]
    model, seen = trained(spec(*layout, train=TRAIN))
    drawn = [model.draw_steps(step, micro) for step in range(5) for micro in range(2)]
    assert seen == [[*each.values()] for each in drawn]
    assert len({*map(str, drawn)}) > 1
    if kind == "late":
        assert [each["stages.0"] for each in drawn] == [1] * 4 + [3] * 6
    assert model.plan.spec is model.spec


def test_gradients_of_a_step_are_those_of_models_of_these_numbers():
    built = spec(train={**TRAIN, "tokens": 512, "clip": 0, "weight_decay": 0})
    model = composer.compile(built)
    drawn = [model.draw_steps(0, n) for n in range(2)]
    assert drawn[0] != drawn[1]
    tokens = [tokens_for(built), tokens_for(built).flip(1)]
    for each, steps in zip(tokens, drawn, strict=True):
        model.loss(each, each, steps).backward()
    sums = {}
    for each, steps in zip(tokens, drawn, strict=True):
        other = at(model, steps)
        other.loss(each, each).backward()
        for name, weight in other.named_parameters():
            sums[name] = sums.get(name, 0) + weight.grad
    for name, weight in model.named_parameters():
        assert torch.allclose(weight.grad, sums[name], atol=1e-7), name


def test_recomputed_operations_run_as_often_as_drawn():
    limit = int(0.8 * count(spec(train=TRAIN)).train_memory.total)
    model, _ = trained(spec(train=TRAIN, caps={"train_memory": limit}))
    other, _ = trained(spec(train=TRAIN))
    assert model.plan.recomputed
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_memory_is_that_of_the_largest_number():
    built = spec()
    large = built.model.model_copy(update={"context": 64, "vocab": 64})
    built = built.model_copy(update={"model": large})
    graph = longest_graph(built, compile_graph(built))
    predicted = Memory(graph, Batch(16 * 64, 64, BF16)).total
    assert predicted == pytest.approx(measured(built, 16, fake=False), rel=1e-4)
    assert predicted > 1.2 * measured(with_steps(built, {"stages.0": 3}), 16, fake=False)


def test_a_loop_of_ones_own_that_forgets_the_numbers_is_told():
    model = composer.compile(spec())
    tokens, optimizer = tokens_for(model.spec), torch.optim.SGD(model.parameters(), lr=0.01)

    def train(steps, times):
        for n in range(times):
            model.loss(tokens, tokens, steps and steps(n)).backward()
            optimizer.step()

    train(model.draw_steps, 4)
    with pytest.warns(UserWarning, match=r"steps=model.draw_steps\(optimizer_step\)"):
        train(None, 4)

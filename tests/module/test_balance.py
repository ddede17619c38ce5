"""The balancing bias of experts moves once per optimizer step, towards equal loads, and only in training."""

import lightning
import pytest
import torch
from cases import SEQ, tree
from models import Loader, compiled, tokens_for
from strategies import make

from blocks.expert_attention import reference

EXPERT = {"type": "expert_attention", "experts": 4, "active": 2, "hidden": 8}


def spec(rate=0.01, **stage):
    stage = stage or {"recur": 3, "step": ["e"]}
    plain = tree({"e": {**EXPERT, "balance_rate": rate}}, stage, width=16)
    data = {"task": "hop", "length": 32, "symbols": 3, "hops": 2}
    train = {"data": data, "tokens": "1M", "batch_tokens": 256, "lr": 1e-2}
    return make({**plain, "model": {**plain["model"], "context": 32}, "train": train})


def batches(model, number):
    sizes = {"batch": 2, "length": 7}
    each = [tokens_for(model.spec, seed=seed, **sizes) for seed in range(number)]
    return Loader([{"tokens": tokens, "targets": tokens} for tokens in each])


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        enable_model_summary=False,
        max_epochs=1,
        num_sanity_val_steps=0,
        **quiet,
        **options,
    )


@pytest.fixture
def seen(monkeypatch):
    """Record what every routing chose and every update did."""
    events = []
    route, update = reference.route, reference.update_balance

    def spied_route(query, keys, balance, load, active):
        weights, indices = route(query, keys, balance, load, active)
        events.append(("route", load is not None, indices.detach().clone()))
        return weights, indices

    def spied_update(balance, load, rate):
        before, counted = balance.clone(), load.clone()
        update(balance, load, rate)
        events.append(("update", before, counted, balance.clone(), load.clone()))

    monkeypatch.setattr(reference, "route", spied_route)
    monkeypatch.setattr(reference, "update_balance", spied_update)
    return events


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_moves_once_per_optimizer_step_by_counts_over_steps_and_micro_batches(seen, accumulate):
    model = compiled(spec())
    model.train()
    trainer(accumulate_grad_batches=accumulate).fit(model, batches(model, 4), batches(model, 1))
    updates = [n for n, event in enumerate(seen) if event[0] == "update"]
    assert len(updates) == 4 // accumulate
    start = 0
    for end in updates:
        routed = [event[2] for event in seen[start:end] if event[0] == "route" and event[1]]
        assert len(routed) == 3 * accumulate
        _, before, counted, after, cleared = seen[end]
        expected = torch.zeros(4)
        for indices in routed:
            for expert in indices.flatten().tolist():
                expected[expert] += 1
        assert torch.equal(counted, expected)
        mean = 3 * accumulate * 2 * 7 * 2 / 4
        for expert in range(4):
            moved = 0.01 * ((expected[expert] < mean).float() - (expected[expert] > mean).float())
            assert after[expert] == before[expert] + moved
        assert not cleared.any()
        start = end + 1


def test_layers_of_a_stack_are_balanced_apart(seen):
    model = compiled(spec(stack=3, step=["e"]))
    trainer().fit(model, batches(model, 1), batches(model, 1))
    assert [event[0] for event in seen] == ["route"] * 3 + ["update"] * 3 + ["route"] * 3
    for routed, (_, _, counted, _, _) in zip(seen[:3], seen[3:6], strict=True):
        assert counted.tolist() == torch.bincount(routed[2].flatten(), minlength=4).tolist()


def test_it_evens_out_loads():
    blocks = {"s": SEQ, "e": {**EXPERT, "balance_rate": 0.02}}
    model = compiled(tree(blocks, {"recur": 3, "step": ["s", "e"]}, width=16))
    tokens = tokens_for(model.spec, 32, 8)
    balance, load = (model.get_buffer(f"stages.0.step.1.e.{name}") for name in ("balance", "load"))
    spreads = []
    for _ in range(150):
        model.loss(tokens, tokens)
        spreads.append(float((load / load.mean() - 1).abs().max()))
        reference.update_balance(balance, load, 0.02)
    assert spreads[0] > 0.3
    assert max(spreads[-5:]) < spreads[0] / 2


def test_evaluation_counts_and_moves_nothing(seen):
    model = compiled(spec())
    before = model.get_buffer("stages.0.step.0.e.balance").clone()
    trainer().validate(model, batches(model, 2), verbose=False)
    model.eval()(tokens_for(model.spec, 2, 7))
    assert {event[0] for event in seen} == {"route"}
    assert not any(event[1] for event in seen)
    assert torch.equal(model.get_buffer("stages.0.step.0.e.balance"), before)
    assert not model.get_buffer("stages.0.step.0.e.load").any()


def test_a_rate_of_0_leaves_it():
    model = compiled(spec(rate=0))
    before = model.get_buffer("stages.0.step.0.e.balance").clone()
    trainer().fit(model, batches(model, 2), batches(model, 1))
    assert torch.equal(model.get_buffer("stages.0.step.0.e.balance"), before)


def test_it_chooses_but_does_not_weight():
    query, keys = torch.randn(2, 3, 16), torch.randn(4, 16)
    chosen, indices = reference.route(query, keys, torch.tensor([100.0, 0, 0, 50]), None, 2)
    assert set(indices.flatten().tolist()) == {0, 3}
    logits = (query @ keys.T / 4).sigmoid()
    expected = logits.gather(-1, indices)
    assert torch.allclose(chosen, expected / expected.sum(-1, keepdim=True))


def test_it_is_a_state_and_no_parameter():
    model = compiled(spec())
    name = "stages.0.step.0.e.balance"
    assert name in model.state_dict()
    assert name not in dict(model.named_parameters())
    assert not any("load" in key for key in model.state_dict())


def test_the_same_seed_trains_to_the_same_losses_to_the_bit():
    def losses():
        model = compiled(spec(), shaken=None)
        results = []
        hook = lightning.pytorch.callbacks.LambdaCallback(
            on_train_batch_end=lambda trainer, module, outputs, batch, n: results.append(
                outputs["loss"].item()
            )
        )
        trainer(callbacks=[hook]).fit(model, batches(model, 8), batches(model, 1))
        return results, model.state_dict()

    (first, weights), (second, again) = losses(), losses()
    assert len(set(first)) == 8
    assert first == second
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def by_hand(model, update, steps=5):
    """Train by a plain loop; return the loads of each step."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    tokens, counted = tokens_for(model.spec, 2, 7), []
    load = model.get_buffer("stages.0.step.0.e.load")
    for _ in range(steps):
        optimizer.zero_grad()
        for half in tokens.split(1):
            model.loss(half, half).backward()
        optimizer.step()
        counted.append(load.clone())
        update(model)
    return counted


def test_a_loop_of_ones_own_balances_by_one_call_after_each_optimizer_step():
    model = compiled(spec(), shaken=None)
    counted = by_hand(model, lambda model: model.update_expert_balance())
    assert all(loads.sum() == 2 * 7 * 3 * 2 for loads in counted)
    expected = 0.01 * sum((loads.mean() - loads).sign() for loads in counted)
    assert model.get_buffer("stages.0.step.0.e.balance").allclose(expected)
    assert expected.any()
    assert not model.get_buffer("stages.0.step.0.e.load").any()


def test_experts_that_are_trained_and_never_balanced_are_told_of_once():
    with pytest.warns(UserWarning, match=r"call model\.update_expert_balance\(\) after each") as caught:
        by_hand(compiled(spec()), lambda model: None, steps=9)
    assert len(caught) == 1


def test_no_warning_where_nothing_is_to_be_balanced():
    by_hand(compiled(spec(rate=0)), lambda model: None)
    model = compiled(spec())
    # scored again and again, but not trained
    for _ in range(5):
        model.loss(tokens := tokens_for(model.spec, 2, 7), tokens)
    dense = compiled(tree({"s": SEQ}, {"recur": 2, "step": ["s"]}))
    dense.update_expert_balance()

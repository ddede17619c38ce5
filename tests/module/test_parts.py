"""Sub-modules are what they are named after: they hold its weights, show them, and their hooks fire."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, FFN, GROUPED, mix, one, tree
from models import close, compiled, gradients, shipped, tokens_for
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from blocks.ir.walk import weights
from composer.module.model import ComposedModel

SOME = [
    "dreamer, grouped",
    "prelude, core, coda, untied",
    "parallel, gate",
    "expert codes through nested loops",
    "depth before, in and after a nested stack",
    "inject inside and outside",
    "three levels",
]


def parts(model):
    """The modules below a model that run: all but lists."""
    return {
        name: each
        for name, each in model.named_modules()
        if name and not isinstance(each, nn.ModuleList | nn.ModuleDict)
    }


def watch(model, hook, names=None):
    return [
        each.register_forward_hook(hook) for name, each in parts(model).items() if not names or name in names
    ]


@pytest.mark.parametrize("case", SOME)
def test_the_hooks_of_every_module_fire_and_change_nothing(case):
    model = compiled(CASES[case]).eval()
    tokens = tokens_for(model.spec)
    expected = {**gradients(model, tokens), "logits": model(tokens)}
    fired, back = set(), set()
    names = {each: name for name, each in parts(model).items()}
    handles = watch(model, lambda module, given, made: fired.add(names[module]))
    handles += [
        each.register_full_backward_hook(lambda module, of_given, of_made: back.add(names[module]))
        for each in parts(model).values()
    ]
    close({**gradients(model, tokens), "logits": model(tokens)}, expected)
    assert fired == back == {*names.values()}
    for handle in handles:
        handle.remove()
    again = {**gradients(model, tokens), "logits": model(tokens)}
    assert all(each.equal(expected[name]) for name, each in again.items())


def test_hooks_of_a_block_see_what_it_reads_and_returns_at_every_step():
    model = compiled(one(FFN)).eval()
    sublayer = model.stages[0].step.get_submodule("0")
    block, seen = sublayer.get_submodule("b"), []
    block.register_forward_hook(lambda module, given, made: seen.append((given, made)))
    sublayer.register_forward_pre_hook(lambda module, given: states.append(given[0]))
    states = []
    with torch.no_grad():
        model(tokens_for(model.spec))
    assert len(seen) == len(states) == 3
    for step, (state, (given, made)) in enumerate(zip(states, seen, strict=True)):
        x = F.rms_norm(state, state.shape[-1:], sublayer.norm, 1e-6)
        assert torch.allclose(given[0], x, atol=1e-6)
        assert given[-1] == step
        y = (F.silu(x @ block.gate.T) * (x @ block.up.T)) @ block.down.T
        assert torch.allclose(made, y, atol=1e-5)
        if step:
            assert torch.allclose(states[step], states[step - 1] + seen[step - 1][1], atol=1e-6)


def test_what_a_hook_returns_takes_the_place_of_an_output():
    model = compiled(CASES["dreamer, grouped"]).eval()
    tokens = tokens_for(model.spec)
    plain = model(tokens)
    for name in ("0.seq", "1.depth", "2.expert"):
        handle = model.get_submodule(f"stages.0.step.{name}").register_forward_hook(
            lambda module, given, made: (0 * made[0], *made[1:]) if isinstance(made, tuple) else 0 * made
        )
        assert not torch.allclose(model(tokens), plain)
        handle.remove()
    for part in ("0", "1", "2"):
        model.get_submodule(f"stages.0.step.{part}").register_forward_hook(
            lambda module, given, made: (given[0], *made[1:]) if isinstance(made, tuple) else given[0]
        )
    start = F.embedding(tokens, model.embedding) * 4
    expected = F.rms_norm(start, (16,), model.norm, 1e-6) @ model.embedding.T
    assert torch.allclose(model(tokens), expected, atol=1e-5)


def test_hooks_for_all_modules_see_parts_too():
    model = ComposedModel(shipped()["dreamer-tiny"])
    tokens = tokens_for(model.spec, 1, 8)
    with FlopCounterMode(display=False) as counter:
        model.loss(tokens, tokens)
    whole = counter.get_total_flops()
    by_module = {name: sum(result.values()) for name, result in counter.get_flop_counts().items()}
    blocks = [result for name, result in by_module.items() if name.rpartition(".")[2] in ("seq", "depth")]
    assert len(blocks) == 2
    assert 0 < min(blocks) <= max(blocks) < whole


def test_watched_experts_count_and_balance_as_ever():
    ours, theirs = (compiled(one(GROUPED, width=16), shaken=None).train() for _ in range(2))
    watch(ours, lambda module, given, made: None)
    tokens = tokens_for(ours.spec, 4)
    for _ in range(2):
        for model in (ours, theirs):
            model.loss(tokens, tokens).backward()
            model.update_expert_balance()
    name = "stages.0.step.0.b.balance"
    assert ours.get_buffer(name).any()
    assert ours.get_buffer(name).equal(theirs.get_buffer(name))


def test_recomputed_operations_run_again_under_hooks_too():
    spec = compiled(CASES["dreamer, grouped"]).spec
    marked = ["stages.0.0.norm", "stages.0.0.seq.query", "stages.0.0.seq.out", "stages.0.2.norm"]
    model, plain = (ComposedModel(spec, recompute=each).eval() for each in (marked, ()))
    tokens, seen = tokens_for(spec), []
    watch(model, lambda module, given, made: seen.append(given[0]))
    close(gradients(model, tokens), gradients(plain, tokens))
    assert all(isinstance(each, torch.Tensor) for each in seen)


def test_watched_models_can_be_copied():
    model = compiled(CASES["dreamer, grouped"]).eval()
    tokens = tokens_for(model.spec)
    expected = model(tokens)
    watch(model, note)
    model(tokens)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        SEEN.clear()
        assert torch.allclose(other(tokens), expected, atol=1e-6)
        assert len(SEEN) == 1 + 3 * (len(parts(other)) - 1)


def test_blocks_may_be_called_like_what_stands_beside_them():
    blocks = dict.fromkeys(("norm", "add", "gate", "mix", "code", "x"), FFN)
    step = ["norm", {"parallel": ["add", "gate", "mix"], "combine": "gate"}, "code", "x"]
    model = compiled(tree(blocks, {"recur": 2, "step": step})).eval()
    tokens, fired = tokens_for(model.spec), set()
    expected = model(tokens)
    watch(model, lambda module, given, made: fired.add(module))
    assert torch.allclose(model(tokens), expected, atol=1e-5)
    assert fired == {*parts(model).values()}


SEEN = []


def note(module, given, made):
    SEEN.append(module)


@pytest.mark.parametrize("case", ["parallel, gate", "prelude, core, coda, untied", "three levels"])
def test_every_module_holds_something_under_the_name_it_has_in_checkpoints(case):
    model = compiled(CASES[case])
    assert all([*each.parameters()] for each in model.modules())
    # named as the spec alone names them
    saved = {name for name, weight, _ in weights(model.graph) if weight.saved}
    assert model.state_dict().keys() == saved


def test_print_shows_blocks_by_their_types_fields_and_weights():
    lines = [line.strip() for line in repr(compiled(mix("gate"))).splitlines()]
    for line in [
        "recur x 2",
        "(0): Sublayer(",
        "norm: [10], gate: [4, 10]",
        "(depth): DepthAttention(",
        "heads=3, kv_heads=1, head_dim=6",
        "query: [18, 10], key: [6, 10], value: [6, 10], out: [10, 18]",
    ]:
        assert line in lines
    assert not any("Code(" in line or "Module()" in line for line in lines)


def test_a_part_on_its_own_says_how_to_watch_it():
    block = compiled(tree({"f": FFN}, {"stack": 2, "step": ["f"]})).get_submodule("stages.0.layers.1.0.f")
    with pytest.raises(RuntimeError, match=r"FeedForward: a part of a model runs only where .* forward hook"):
        block(torch.zeros(1, 2, 10))


def test_costs_are_the_same_while_hooks_are_registered():
    model = compiled(CASES["dreamer, grouped"]).eval()
    tokens, plan = tokens_for(model.spec), model.plan
    handle = model.stages[0].register_forward_hook(lambda module, given, made: None)
    model(tokens)
    assert model.plan.graph is not plan.graph
    got, expected = model.plan.costs, plan.costs
    assert (got.by_block, got.flops_per_token) == (expected.by_block, expected.flops_per_token)
    assert got.train_memory.total == expected.train_memory.total
    handle.remove()

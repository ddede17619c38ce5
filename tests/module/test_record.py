"""Recorded values are the model's own, recording changes no bit, and replaced values are gone on with."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, DREAMER, GROUPED, one
from models import close, compiled, gradients, tokens_for

import composer
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from composer.graph.compile import compile_graph
from composer.graph.taps.insert import Taps
from composer.graph.taps.operation import Tap

SOME = [
    "dreamer, grouped",
    "prelude, core, coda, untied",
    "parallel, gate",
    "expert, experts choose",
    "depth over all stages of the model",
    "depth over the keys and values of sequence attention",
    "three levels",
]


def fits_a_gpu(kernel, operation, target):
    return kernel.unfit(operation, Target("cuda"))


@pytest.fixture
def fused(monkeypatch):
    """Fuse what kernels fuse on a GPU; here the references of the fused operations run."""
    monkeypatch.setattr("composer.graph.passes.fuse.unfit", fits_a_gpu)


def check_unchanged(tree, **options):
    """Record all values of a model: outputs, gradients and load counts stay as they are, bit for bit."""
    model, same = (compiled(tree, **options) for _ in range(2))
    tokens = tokens_for(model.spec)
    expected = {**gradients(same, tokens), "logits": same.eval()(tokens)}
    with composer.record(model, "*") as r:
        grads = gradients(model, tokens)
        recorded = {name for name in r.names if name in r._values}
        grads["logits"] = model.eval()(tokens)
        assert r["head"].equal(grads["logits"])
        model.loss(tokens, tokens)
        recorded |= {name for name in r.names if name in r._values}
    assert recorded == {*composer.value_names(model)}
    assert grads.keys() == expected.keys()
    assert all(grads[name].equal(expected[name]) for name in grads)
    states, others = dict(model.named_buffers()), dict(same.named_buffers())
    assert all(states[name].equal(others[name]) for name in others)
    assert model(tokens).equal(expected["logits"])
    assert not any(
        isinstance(each, Tap) for body, _ in graphs(model.graph) for _, each, _ in operations(body)
    )


@pytest.mark.parametrize("case", SOME)
def test_recording_all_values_changes_no_bit(case):
    check_unchanged(CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_recording_all_values_of_any_model_changes_no_bit(case):
    check_unchanged(CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_recording_on_any_fused_plan_changes_no_bit(case, fused):
    check_unchanged(CASES[case])


def test_recording_on_a_fused_plan_changes_no_bit(fused):
    check_unchanged(CASES["dreamer, grouped"])


def test_recorded_values_are_those_of_a_model_run_by_hand():
    model = compiled(one(GROUPED, width=16)).eval()
    tokens = tokens_for(model.spec)
    weights = model.state_dict()

    def norm(x, gain):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain

    state = F.embedding(tokens, weights["embedding"]) * 16**0.5
    with torch.no_grad(), composer.record(model, ["stages.0", "stages.0.x", "*.route.?", "norm"]) as r:
        model(tokens)
    for step in range(3):
        torch.testing.assert_close(r["stages.0.x", step], state)
        experts, chosen = r["stages.0.0.b.route.0", step], r["stages.0.0.b.route.1", step]
        x = norm(state, weights["stages.0.step.0.norm"])
        gate, up = (
            (x.unsqueeze(-2).unsqueeze(-2) @ weights["stages.0.step.0.b.gate_up"][chosen])
            .squeeze(-2)
            .chunk(2, -1)
        )
        each = ((F.silu(gate) * up).unsqueeze(-2) @ weights["stages.0.step.0.b.down"][chosen]).squeeze(-2)
        state = state + (each * experts.unsqueeze(-1)).sum(-2)
        torch.testing.assert_close(r["stages.0", step], state)
    assert r["stages.0"].shape == (3, *state.shape)


def test_what_a_fused_kernel_does_not_make_is_computed_by_the_reference(monkeypatch):
    tree = CASES["dreamer, grouped"]
    plain = compiled(tree, "reference").eval()
    tokens = tokens_for(plain.spec)
    monkeypatch.setattr("composer.graph.passes.fuse.unfit", fits_a_gpu)
    model = compiled(tree).eval()
    fused = [node for body, _ in graphs(model.graph) for _, _, node in operations(body) if node.parts]
    assert len(fused) > 3
    with torch.no_grad(), composer.record(plain, "*") as expected, composer.record(model, "*") as r:
        plain(tokens)
        model(tokens)
    close({n: r[n] for n in r.names if n != "loss"}, {n: expected[n] for n in r.names if n != "loss"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("apart", [False, True])
def test_every_name_is_tapped_on_the_plan_of_a_gpu(dtype, apart):
    spec = compiled(CASES["dreamer, grouped"]).spec
    names = frozenset(composer.value_names(spec))
    graph = compile_graph(spec, Target("cuda", dtype), apart=apart, taps=Taps(0, names))
    results = [name for each in _taps(graph) for name in each.names if name]
    assert sorted(results) == sorted(names)


def _taps(graph):
    for _, operation, _ in operations(graph):
        if isinstance(operation, Tap):
            yield operation
        elif hasattr(operation, "body"):
            yield from _taps(operation.body)


def test_replaced_values_are_gone_on_with(fused):
    model = compiled(CASES["dreamer, grouped"]).eval()
    tokens = tokens_for(model.spec)
    other = (tokens + 1) % model.spec.model.vocab
    names = [*composer.value_names(model)]
    with torch.no_grad():
        with composer.record(model, names) as clean:
            expected = model(tokens)
        # the whole state at one step decides all that comes after
        with composer.record(model, "stages.0", replace={("stages.0", 1): clean["stages.0", 1]}) as r:
            patched = model(other)
        assert not r["stages.0", 0].equal(clean["stages.0", 0])
        assert r["stages.0", 1].equal(clean["stages.0", 1])
        assert not patched.equal(expected)
        assert not patched.equal(model(other))
        with composer.record(model, [], replace={("stages.0", 2): clean["stages.0", 2]}):
            torch.testing.assert_close(model(other), expected)
        # values inside of fused operations too
        for name in (
            "stages.0.2.expert.route.0",
            "stages.0.1.depth.key_rotated",
            "stages.0.1.norm",
            "stages.0.0.add",
        ):
            with composer.record(model, [], replace={name: lambda value, step: value}):
                torch.testing.assert_close(model(tokens), expected)
            seen = []

            def zero(value, step, seen=seen):
                seen.append(step)
                return value * 0

            with composer.record(model, [], replace={name: zero}):
                assert not torch.allclose(model(tokens), expected)
            assert seen == [0, 1, 2]
    assert model(tokens).equal(expected)


def test_steps_limit_what_is_recorded_and_nested_stages_have_two_numbers():
    model = compiled(CASES["expert codes through nested loops"]).eval()
    tokens = tokens_for(model.spec)
    with composer.record(model, ["stages.0.1", "stages.0"], steps=[1]) as r:
        model(tokens)
    assert r.steps("stages.0") == [1]
    assert r.steps("stages.0.1") == [(0, 1), (1, 1)]
    with composer.record(model, ["stages.0.1", "stages.0"], steps=[(0, 2)]) as r:
        model(tokens)
    assert r.steps("stages.0.1") == [(0, 2)]
    with pytest.raises(ValueError, match=r"stages\.0: the last pass did not make it at any recorded step"):
        r["stages.0"]


def test_other_numbers_of_steps_autocast_and_hooks_are_recorded_too():
    model = compiled(DREAMER).eval()
    tokens = tokens_for(model.spec)
    expected = model(tokens, steps=5)
    with composer.record(model, ["stages.0", "head"]) as r:
        assert model(tokens, steps=5).equal(expected)
        assert r.steps("stages.0") == [0, 1, 2, 3, 4]
        model(tokens)
        assert r.steps("stages.0") == [0, 1, 2]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            low = model(tokens)
        assert r["head"].equal(low)
        assert low.dtype == torch.bfloat16
        seen = []
        handle = model.stages[0].register_forward_hook(lambda module, given, made: seen.append(made))
        again = model(tokens)
        assert r["head"].equal(again)
        assert r.steps("stages.0") == [0, 1, 2]
        assert seen
        handle.remove()
        model.set_steps({"stages.0": 2})
        model(tokens)
    assert r.steps("stages.0") == [0, 1]
    assert model(tokens).equal(model(tokens, steps=2))


def test_recorded_values_have_gradients_where_autograd_records():
    model = compiled(DREAMER)
    tokens = tokens_for(model.spec)
    with composer.record(model, "stages.0") as r:
        loss = model.loss(tokens, tokens)
    (gradient,) = torch.autograd.grad(loss, r["stages.0", 0])
    assert gradient.shape == r["stages.0", 0].shape
    assert gradient.abs().sum() > 0


def test_a_model_that_torch_compiles_is_recorded_without_gradients_or_refused():
    model = compiled(DREAMER)
    model.torch_compile = "on"
    tokens = tokens_for(model.spec)
    expected = model.eval()(tokens).detach()
    with composer.record(model, "head") as r:
        with torch.no_grad():
            assert model(tokens).equal(r["head"])
            torch.testing.assert_close(expected, r["head"])
        with pytest.raises(RuntimeError, match="torch compiles this model's code where gradients"):
            model(tokens)
    wrapped = torch.compile(model, backend="eager")
    message = r"expected a composed model, got OptimizedModule \(record the model that"
    with pytest.raises(ValueError, match=message), composer.record(wrapped, "head"):
        pass


def test_what_does_not_fit_is_refused_with_the_place():
    model = compiled(DREAMER).eval()
    tokens = tokens_for(model.spec)
    cases = [
        (
            ("stages.0.2.expert.rout.1",),
            {},
            r"stages.0.2.expert.rout.1: expected a value .*mean stages.0.2.expert.route.1",
        ),
        (
            ("head",),
            {"replace": {"hea": tokens}},
            r"replace: hea: expected a value of the model .did you mean head",
        ),
        (("head",), {"replace": {"tokens": tokens}}, "replace: expected no 'tokens'; call the model with"),
        (("head",), {"replace": {("stages.0", (0, 1)): tokens}}, "stages.0: expected a step of 1 numbers"),
    ]
    for names, options, message in cases:
        with pytest.raises(ValueError, match=message), composer.record(model, *names, **options):
            pass
    with composer.record(model, "head") as r:
        with pytest.raises(ValueError, match="nothing is recorded before the model is called"):
            r["head"]
        with pytest.raises(ValueError, match="norm: it is not recorded"):
            r["norm"]
        with (
            pytest.raises(ValueError, match=r"record: not inside of composer\.record"),
            composer.record(model, "head"),
        ):
            pass
        with pytest.raises(ValueError, match=r"generate: not inside of composer\.record"):
            model.generate(tokens, 1)
    bad = {"stages.0": lambda value, step: value[:, :1]}
    message = r"stages\.0 at step 0: expected \[2, 8, 10\] of float32 on cpu, got \[2, 1"
    with composer.record(model, "head", replace=bad), pytest.raises(ValueError, match=message):
        model(tokens)
    # an error in the context leaves the model as it was
    assert model._taps is None
    pickle.loads(pickle.dumps(model))

"""Gated residual sums by Triton kernels: outputs and gradients of the references, at odd sizes."""

from dataclasses import replace

import pytest
import torch
from cases import FFN, SEQ, tree
from models import check_same_training, check_saved, shake, tokens_for
from strategies import make

import composer
from blocks.ir.costs import CostContext, IOBytes
from blocks.ir.kernel import Target
from blocks.ir.operation import LoopIndex
from blocks.ir.walk import graphs, operations
from blocks.primitives.fused import precomputed_norm
from blocks.wiring.residual.gate import reference
from blocks.wiring.residual.gate.operations import Gated, GatedAddBeforeNorm, GatedAddNorm, GatedSum
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.launches.fake_gpu import fake_gpu
from composer.launches.launches import counted
from composer.module.emission.emit import resolve
from composer.module.model import ComposedModel
from composer.testing.memory import LiveBytes

pytest.importorskip("triton")
check = pytest.importorskip("blocks.wiring.residual.gate.check", exc_type=ImportError)
from blocks.wiring.residual.gate import fused, kernel  # noqa: E402

GATES = ("scalar", "channel", "token")
KINDS = {
    "sum": lambda width, gate: GatedSum((width,), gate=gate),
    "norm": lambda width, gate: GatedAddNorm((width,), False, gate=gate),
    "sum and norm": lambda width, gate: GatedAddNorm((width,), True, gate=gate),
    "norm ahead": lambda width, gate: GatedAddBeforeNorm((width,), False, LoopIndex(), 1, gate=gate),
}
SIZES = {"a tail": (2, 37, 40), "one element": (1, 1, 1), "a wide row": (1, 3, 1025), "no token": (1, 0, 8)}


def drawn(shape, where, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(where)


def called(operation, functions, values, weights, summed):
    """Return the outputs of an operation of a step that is not the last."""
    (own, _, plain) = operation.kernels
    arguments = operation.arguments() | ({"index": 0} if "index" in operation.arguments() else {})
    if functions is reference:
        return resolve(plain.function)(*values, *weights, **arguments)
    prepared = [*resolve(own.prepare)(*weights)]
    if not summed:
        # as under torch.compile
        prepared = [each.view_as(each) for each in prepared]
    return resolve(own.function)(*values, *prepared, **arguments)


def leaves_of(operation, shape, where, dtypes):
    """Return a and b, then the weights."""
    values = [drawn(shape, where, n).to(dtype).requires_grad_() for n, dtype in enumerate(dtypes)]
    weights = [drawn(each, where, 7 + n).requires_grad_() for n, each in enumerate(operation.weight_shapes())]
    return values, weights


def near(made, wanted, tolerance):
    for number, (one, other) in enumerate(zip(made, wanted, strict=True)):
        error = (one.double() - other.double()).norm() / other.double().norm().clamp(min=0.1)
        assert error <= tolerance, f"{number}: off by {error:.2g} of its norm"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", GATES)
def test_gated_sums_and_their_gradients_are_those_of_the_reference(here, monkeypatch, gate, kind, size):
    # each program has several tiles
    monkeypatch.setattr(kernel, "PROGRAMS", 2)
    operation = KINDS[kind](SIZES[size][-1], gate)
    for dtypes, tolerance in (((torch.float32,) * 2, 1e-5), ((torch.float32, torch.float16), 2e-3)):
        results = []
        for functions, summed in ((fused, True), (fused, False), (reference, False)):
            (a, b), weights = leaves_of(operation, SIZES[size], here, dtypes)
            if functions is reference:
                a, b, *weights = (each.detach().double().requires_grad_() for each in (a, b, *weights))
            made = called(operation, functions, (a, b), weights, summed)
            outputs = made if isinstance(made, tuple) else (made,)
            if kind == "norm ahead":
                outputs = (*outputs, precomputed_norm(made, weights[0], False))
            given = [torch.linspace(-1, 2, y.numel(), device=here).view_as(y).to(y.dtype) for y in outputs]
            grads = torch.autograd.grad(outputs, (a, b, *weights), given, retain_graph=True)
            again = torch.autograd.grad(outputs, (a, b, *weights), given)
            assert all(torch.equal(one, other) for one, other in zip(grads, again, strict=True))
            results.append([*(each.detach() for each in outputs), *grads])
        *own, wanted = results
        for each in own:
            near(each, wanted, tolerance)


def test_a_sum_whose_norm_alone_or_that_alone_is_used_gets_its_gradients(here):
    operation = KINDS["sum and norm"](24, "token")
    for output in (0, 1):
        results = []
        for functions in (fused, reference):
            (a, b), weights = leaves_of(operation, (1, 5, 24), here, (torch.float32,) * 2)
            made = called(operation, functions, (a, b), weights, True)[output]
            grads = torch.autograd.grad(made.square().sum(), (a, b, *weights), allow_unused=True)
            results.append([torch.zeros(1, device=here) if each is None else each for each in grads])
        # the gain of a norm that nobody reads has a gradient of 0, or none
        near([each.sum() for each in results[0]], [each.sum() for each in results[1]], 1e-4)


@pytest.mark.parametrize("gate", GATES)
def test_off_a_gpu_the_references_run(monkeypatch, gate):
    monkeypatch.setattr(kernel, "forward", None)
    operation = KINDS["norm"](6, gate)
    (a, b), weights = leaves_of(operation, (1, 2, 6), "cpu", (torch.float32,) * 2)
    results = [called(operation, functions, (a, b), weights, True) for functions in (fused, reference)]
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", GATES)
def test_kernels_allocate_and_move_what_they_declare(here, monkeypatch, gate, kind):
    if here != "cpu":
        pytest.skip("storages are counted on a CPU")
    # partial sums that do not grow with the tokens are gradients of weights
    monkeypatch.setattr(kernel, "PROGRAMS", 1)
    operation = replace(KINDS[kind](12, gate), fused=True)
    few, many = (_peaks(operation, tokens) for tokens in (64, 192))
    outputs = 2 if kind == "sum and norm" else 1
    flow = IOBytes(2 * 48, outputs * 48, 0)
    at = CostContext(192, tokens=192, device="cuda")
    declared = operation.workspace(at, flow)
    per_token = [(large - small) / 128 for small, large in zip(few, many, strict=True)]
    assert per_token == [declared.forward, declared.backward]
    with fake_gpu("float32"), counted() as launches:
        (a, b), weights = leaves_of(operation, (1, 64, 12), "cpu", (torch.float32,) * 2)
        called(operation, fused, (a, b), weights, True)
    moved = operation.traffic(at, 2 * 48, outputs * 48)
    assert launches.made[-1].bytes == 64 * moved + 4 * sum(each.numel() for each in weights)


def _peaks(operation, tokens):
    """Return the bytes that the forward and the backward pass at most add to those in use."""
    (a, b), weights = leaves_of(operation, (1, tokens, 12), "cpu", (torch.float32,) * 2)
    gradient = drawn((1, tokens, 12), "cpu", 5)
    with LiveBytes() as alive:
        alive.count(a, b, *weights, gradient)
        there, alive.peak = alive.now, 0
        made = called(operation, fused, (a, b), weights, True)
        forward, after, alive.peak = alive.peak - there, alive.now, 0
        outputs = made if isinstance(made, tuple) else (made,)
        torch.autograd.grad(outputs, [a, b], [gradient] * len(outputs))
    return forward, alive.peak - after


@pytest.mark.parametrize("operation", [None, KINDS["norm"](40, "token"), KINDS["sum"](1, "channel")])
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_right_kernels_pass_their_self_test(where, operation, dtype):
    before = torch.get_rng_state()
    with torch.autocast(where, torch.bfloat16), torch.inference_mode():
        assert check.check(operation, Target(where, dtype)) == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("owner", "function", "message"),
    [
        (kernel, "forward", "scalar: sum is off"),
        (kernel, "backward", "scalar: gradient of the stream is off"),
        (check, "summed_shares", "scalar: gradient of the gate's weights is off"),
    ],
)
def test_the_self_test_names_what_is_wrong(where, monkeypatch, owner, function, message):
    right = getattr(owner, function)

    def off(*given):
        made = right(*given)
        return made * 1.2 if isinstance(made, torch.Tensor) else (made[0] * 1.2, *made[1:])

    monkeypatch.setattr(owner, function, off)
    assert check.check(None, Target(where)).startswith(message)


STEP = {"step": ["s", "f"], "residual": {"gate": "token"}}
TREES = {
    "token": {"recur": 3, **STEP},
    "token, no norm": {"recur": 2, **STEP, "norm": "none"},
    "channel, sandwich": {"recur": 2, **STEP, "residual": {"gate": "channel"}, "norm": "sandwich"},
    "channel": {"stack": 2, **STEP, "residual": {"gate": "channel"}},
    "scalar": {"recur": 2, **STEP, "residual": {"gate": "scalar"}},
    "scale": {"recur": 2, **STEP, "residual": {"scale": "learned"}},
}


def spec_of(case):
    return make(tree({"s": SEQ, "f": FFN}, TREES[case], width=12))


def chosen(graph):
    every = (each for body, _ in graphs(graph) for each in operations(body))
    return {data.kernel.name for _, operation, data in every if isinstance(operation, Gated)}


SUMS = {"triton_gated_sum", "triton_gated_add_norm", "triton_gated_add_before_norm"}


def test_a_plan_for_a_gpu_gates_within_sums_and_a_plan_for_a_cpu_beside_them():
    for case in TREES:
        names = chosen(compile_graph(spec_of(case), Target("cuda", "bfloat16")))
        assert names <= SUMS | {"gated_sum_of_logit"}
        assert names
        assert not chosen(compile_graph(spec_of(case), Target("cuda", "float64")))
        assert not chosen(compile_graph(spec_of(case)))
    assert chosen(compile_graph(spec_of("token"), Target("cuda"))) == SUMS - {"triton_gated_sum"}


def test_a_gate_in_a_sum_changes_no_flops_and_no_parameters():
    for case in TREES:
        plans = [compile_graph(spec_of(case), target) for target in (None, Target("cuda"))]
        here, there = (
            sum(op.flops(CostContext(12)) for body, _ in graphs(plan) for _, op, _ in operations(body))
            for plan in plans
        )
        assert here == there
        assert plans[0].weights.keys() == plans[1].weights.keys()


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("case", TREES)
def test_models_by_kernels_give_the_loss_and_gradients_of_the_reference(planned, case, again):
    plain = ComposedModel(spec_of(case), "reference", torch_compile="off")
    shake(plain)
    marks = [*recomputable(plain.graph)] if again else []
    model = ComposedModel(plain.spec, recompute=marks, torch_compile="off")
    model.load_state_dict(plain.state_dict())
    check_same_training(model.to(planned).train(), plain, tokens_for(model.spec, 1, 5), planned)
    assert chosen(model.graph)


@pytest.mark.parametrize("case", ["token", "channel", "token, no norm"])
def test_models_by_kernels_keep_what_they_declare(planned, attention_keeps_as_declared, case):
    # the first step's norm keeps a number of each token, and torch's on a CPU what it makes
    ahead = 4 if planned == "cuda" else 4 + 4 * 12
    model = ComposedModel(spec_of(case), torch_compile="off").to(planned)
    check_saved(model, planned, more=ahead if case == "token" else 0)


def test_values_inside_a_gated_sum_are_recorded_as_by_the_reference(planned):
    plain = ComposedModel(spec_of("token"), "reference", torch_compile="off")
    shake(plain)
    model = ComposedModel(plain.spec, torch_compile="off")
    model.load_state_dict(plain.state_dict())
    tokens, names = tokens_for(plain.spec, 2, 5), ["stages.0.0.gate", "stages.0.0.residual_token_gate"]
    with composer.record(model.to(planned), names) as result:
        model(tokens.to(planned))
    with composer.record(plain, names) as wanted:
        plain(tokens)
    for name in names:
        torch.testing.assert_close(result[name].cpu(), wanted[name], atol=1e-4, rtol=1e-4)

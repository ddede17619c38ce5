"""Residual mixes by Triton kernels: outputs and gradients of the references, at odd sizes."""

from dataclasses import replace
from functools import partial as bound

import pytest
import torch
from cases import FFN, SEQ, tree
from models import check_same_training, check_saved, shake, tokens_for
from strategies import make

from blocks.ir.costs import CostContext, IOBytes
from blocks.ir.kernel import Target
from blocks.ir.operation import LoopIndex
from blocks.ir.walk import graphs, operations
from blocks.wiring.residual.mix import reference, relu_reference, token_reference
from blocks.wiring.residual.mix.operations import AttendValues, MixValues, SumValues
from blocks.wiring.residual.mix.relu_operations import RectifyValues
from blocks.wiring.residual.mix.token_operations import NormLatest, SumByToken
from composer.graph.compile import compile_graph
from composer.module.emission.emit import resolve
from composer.module.model import ComposedModel
from composer.testing.memory import LiveBytes

pytest.importorskip("triton")
check = pytest.importorskip("blocks.wiring.residual.mix.mix_kernels.check", exc_type=ImportError)
from blocks.wiring.residual.mix.mix_kernels import (  # noqa: E402
    attend_kernel,
    fused,
    latest_kernel,
    rectify_kernel,
    weigh_kernel,
)

# the operation of each mix, and the module of its reference
MIXES = {
    "learned_query": (AttendValues, reference),
    "static": (SumValues, reference),
    "token": (SumByToken, token_reference),
    "relu_query": (RectifyValues, relu_reference),
}
# batch, sequence, width, heads, values
SIZES = {
    "one element": (1, 1, 1, 1, 1),
    "three heads": (2, 5, 12, 3, 3),
    "a width of 1025": (1, 3, 1025, 1, 2),
    "padded twice": (3, 7, 35, 5, 4),
    "40 values": (1, 7, 8, 1, 39),
}


def drawn(shape, where, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw).to(where)


def operation_of(mix, width, heads, most, partial=False):
    sizes = (width, heads) if mix == "learned_query" else (width, heads, most)
    return MIXES[mix][0](*sizes, partial=partial, fused=True)


def states(plain, operation, start, values, weights, by_token):
    """Return what each sublayer reads, where it writes a value made of that."""
    kernel = operation.kernels[-1 if plain else 0]
    weights = resolve(kernel.prepare)(*weights) if kernel.prepare else weights
    memory, token = reference.values(start[..., 0], len(values), start.shape[-1])
    made = []
    for slot, value in enumerate([*values, None]):
        own = [start] if value is None or operation.own == 1 else [start, value * 2]
        # of many, some
        if slot < 3 or slot == 20 or value is None:
            dynamic = [by_token * slot] if isinstance(operation, SumByToken) else []
            read = bound(resolve(kernel.function), **operation.arguments() | {"reads": slot})
            made.append(read(*own, *dynamic, token, memory, *weights))
            if dynamic:
                norm = (token_reference if plain else fused).norm_latest
                made.append(norm(own[-1], token, memory, 0 if len(own) > 1 else slot))
        if value is not None:
            token = reference.write(value + made[-1], token, memory, slot)
    return torch.stack(made)


def near(made, wanted, tolerance):
    for number, (one, other) in enumerate(zip(made, wanted, strict=True)):
        error = (one.double() - other.double()).norm() / other.double().norm().clamp(min=0.1)
        assert error <= tolerance, f"{number}: off by {error:.2g} of its norm"


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mix", MIXES)
def test_mixes_and_their_gradients_are_those_of_the_reference(here, monkeypatch, mix, size, partial):
    *shape, heads, count = SIZES[size]
    # so few that some have several tiles
    monkeypatch.setattr(attend_kernel, "PROGRAMS", 2)
    monkeypatch.setattr(rectify_kernel, "PROGRAMS", 2 * (count + 1))
    most = count + 3
    operation = operation_of(mix, shape[-1], heads, most, partial)
    given = [drawn(shape, here, n) for n in range(count + 1)]
    # a slice, as of a joined projection
    given.append(drawn((*shape[:2], 2, most, heads), here, 98))
    given += [drawn(each, here, 99) * each[-1] ** -0.5 for each in operation.weight_shapes()]
    results = []
    for plain, dtype in ((False, torch.float32), (True, torch.float64)):
        leaves = [each.to(dtype).requires_grad_() for each in given]
        (start, *values), (joined, *weights) = leaves[: count + 1], leaves[count + 1 :]
        made = states(plain, operation, start, values, weights, joined[:, :, 1])
        gradient = torch.linspace(-1, 1, made.numel(), device=here, dtype=dtype).view_as(made)
        wanted = {"allow_unused": True, "materialize_grads": True}
        grads = torch.autograd.grad(made, leaves, gradient, retain_graph=True, **wanted)
        again = torch.autograd.grad(made, leaves, gradient, **wanted)
        assert all(torch.equal(one, other) for one, other in zip(grads, again, strict=True))
        results.append([made.detach(), *grads])
    near(*results, 1e-5)


def test_a_relu_query_gets_a_gradient_from_its_initial_value_of_zero(here):
    operation = operation_of("relu_query", 12, 3, 3)
    start, value, b = (drawn(shape, here, 1) for shape in ((1, 5, 12), (1, 5, 12), (3, 12)))
    grads = []
    for plain in (False, True):
        w = torch.zeros(12, device=here, requires_grad=True)
        (grad,) = torch.autograd.grad(states(plain, operation, start, [value], [b, w], None).sum(), w)
        grads.append(grad)
    assert grads[0].abs().min() > 0
    near(grads[:1], grads[1:], 1e-5)


@pytest.mark.parametrize("mix", MIXES)
def test_off_a_gpu_the_references_run(monkeypatch, mix):
    for each in (attend_kernel, latest_kernel, rectify_kernel, weigh_kernel):
        monkeypatch.setattr(each, "Launch", None)
    operation = operation_of(mix, 6, 1, 3, partial=True)
    start, value = (drawn((1, 2, 6), "cpu", n) for n in range(2))
    weights = [drawn(shape, "cpu", 9) for shape in operation.weight_shapes()]
    by_token = drawn((1, 2, 3, 1), "cpu", 8)
    both = (states(plain, operation, start, [value], weights, by_token) for plain in (False, True))
    assert torch.equal(*both)


def peaks(operation, tokens):
    """Return the bytes that the forward and the backward pass at most add to those in use."""
    draw = bound(drawn, (1, tokens, operation.width), "cpu")
    own = [draw(n).requires_grad_() for n in range(operation.own)]
    if isinstance(operation, SumByToken):
        own.append(drawn((1, tokens, operation.most, operation.heads), "cpu", 7).requires_grad_())
    weights = [drawn(shape, "cpu", 9).requires_grad_() for shape in operation.weight_shapes()]
    memory, token = reference.values(own[0][..., 0], 2, operation.width)
    for slot in range(2):
        memory.write(slot, draw(slot))
    read = bound(resolve(operation.kernels[0].function), **operation.arguments() | {"reads": 2})
    gradient = draw(9)
    with LiveBytes() as alive:
        alive.count(*own, *weights, memory.values, gradient)
        there, alive.peak = alive.now, 0
        made = read(*own, token, memory, *weights)
        forward, after, alive.peak = alive.peak - there, alive.now, 0
        torch.autograd.grad(made, [*own, *weights], gradient)
    return forward, alive.peak - after


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("mix", MIXES)
def test_kernels_allocate_what_they_declare(here, monkeypatch, mix, partial):
    if here != "cpu":
        pytest.skip("storages are counted on a CPU")
    # partial sums that do not grow with the tokens are gradients of weights
    for each in (attend_kernel, rectify_kernel):
        monkeypatch.setattr(each, "PROGRAMS", 1)
    operation = replace(operation_of(mix, 12, 3, 5, partial), reads=LoopIndex(2))
    few, many = (peaks(operation, tokens) for tokens in (64, 192))
    size = 4 * 12
    flow = IOBytes(operation.own * size + (4 * 5 * 3) * (mix == "token"), size, 0)
    # of many tokens, among which partial sums do not count
    declared = operation.workspace(CostContext(192, tokens=10**12, device="cuda"), flow)
    per_token = [(large - small) / 128 for small, large in zip(few, many, strict=True)]
    # the first read allocates the gradients of the slots
    assert per_token == pytest.approx([declared.forward, declared.backward + 2 * size], rel=1e-6)


CHECKS = {
    "check_attend": lambda width, heads: AttendValues(width, heads),
    "check_weigh": lambda width, heads: SumByToken(width, heads, 4),
    "check_rectify": lambda width, heads: RectifyValues(width, heads, 4),
    "check_norm": lambda width, heads: NormLatest(width),
}


@pytest.mark.parametrize("sizes", [None, (12, 1), (35, 5), (1025, 1)])
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_right_kernels_pass_their_self_test(where, name, sizes, dtype):
    before = torch.get_rng_state()
    with torch.autocast(where, torch.bfloat16), torch.inference_mode():
        assert getattr(check, name)(sizes and CHECKS[name](*sizes), Target(where, dtype)) == ""
    assert torch.equal(torch.get_rng_state(), before)


WRONG = [
    ("check_attend", attend_kernel, "attend_forward", "output"),
    ("check_attend", attend_kernel, "attend_backward", "gradient of the start"),
    ("check_weigh", weigh_kernel, "weigh_forward", "output"),
    ("check_weigh", weigh_kernel, "weigh_backward", "gradient of the weights"),
    ("check_rectify", rectify_kernel, "rectify_forward", "output"),
    ("check_rectify", rectify_kernel, "rectify_backward", "gradient of b"),
    ("check_norm", latest_kernel, "norm_forward", "norm"),
]


@pytest.mark.parametrize(("name", "owner", "function", "what"), WRONG)
def test_self_tests_name_what_is_wrong(where, monkeypatch, name, owner, function, what):
    right = getattr(owner, function)

    def off(*given):
        made = right(*given)
        return made * 1.2 if isinstance(made, torch.Tensor) else (made[0] * 1.2, *made[1:])

    monkeypatch.setattr(owner, function, off)
    assert getattr(check, name)(None, Target(where)).startswith(f"{what} is off by ")


TREES = {
    "learned_query": {"recur": 3, "step": ["s", "f"], "residual": {"mix": "learned_query", "heads": 2}},
    "learned_query, blocks": {
        "stack": 2,
        "step": ["s", "f"],
        "residual": {"mix": "learned_query", "over": "blocks"},
    },
    "static": {"recur": 2, "step": ["s", "f"], "residual": {"mix": "static", "heads": 3, "over": 2}},
    "relu_query": {"recur": 2, "step": ["s", "f"], "residual": {"mix": "relu_query", "views": ["k"]}},
    "token": {"recur": 2, "step": ["s", "f"], "residual": {"mix": "token", "views": ["q", "v"]}},
    "token, states": {
        "stack": 2,
        "step": ["s", "f"],
        "residual": {"mix": "token", "of": "states", "over": 2},
    },
}


def spec_of(case):
    return make(tree({"s": SEQ, "f": FFN}, TREES[case], width=12))


def chosen(graph):
    every = (each for body, _ in graphs(graph) for each in operations(body))
    return {data.kernel.name for _, operation, data in every if isinstance(operation, MixValues | NormLatest)}


@pytest.mark.parametrize("case", TREES)
def test_a_plan_for_a_gpu_has_kernels_and_a_plan_for_a_cpu_has_none(case):
    spec = spec_of(case)
    for target, own in (
        (Target("cuda", "bfloat16"), True),
        (Target("cuda", "float64"), False),
        (None, False),
    ):
        names = chosen(compile_graph(spec, target))
        assert names
        assert all(name.startswith("triton_") == own for name in names)


@pytest.mark.parametrize("case", TREES)
def test_models_by_kernels_give_the_loss_and_gradients_of_the_reference(planned, case):
    plain = ComposedModel(spec_of(case), "reference", torch_compile="off")
    shake(plain)
    model = ComposedModel(plain.spec, recompute=(), torch_compile="off")
    model.load_state_dict(plain.state_dict())
    check_same_training(model.to(planned).train(), plain, tokens_for(model.spec, 1, 5), planned)
    assert all(name.startswith("triton_") for name in chosen(model.graph))


@pytest.mark.parametrize("case", TREES)
def test_models_by_kernels_keep_what_they_declare(planned, attention_keeps_as_declared, case):
    check_saved(ComposedModel(spec_of(case), torch_compile="off").to(planned), planned)

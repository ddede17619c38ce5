"""Residual mixes by Triton kernels: outputs and gradients of the references, at odd sizes."""

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
from blocks.kernels.tensors import DTYPES
from blocks.primitives.fused import sum_gain
from blocks.wiring.residual.mix import reference
from blocks.wiring.residual.mix.operations import AttendValues, MixValues
from composer.graph.compile import compile_graph
from composer.module import model as module
from composer.module.emission.emit import resolve
from composer.module.model import ComposedModel
from composer.testing.memory import LiveBytes

pytest.importorskip("triton")
check = pytest.importorskip("blocks.wiring.residual.mix.check", exc_type=ImportError)
from blocks.wiring.residual.mix import fused, kernel  # noqa: E402


@pytest.fixture
def here(where, monkeypatch):
    from blocks.primitives import fused as primitives

    if where == "cpu":
        for each in (fused, primitives):
            monkeypatch.setattr(each, "fits", lambda *given: all(x.dtype in DTYPES for x in given))
    return where


@pytest.fixture
def planned(here, monkeypatch):
    """Plan models for a GPU wherever they run."""
    real = module.target_of
    monkeypatch.setattr(module, "target_of", lambda weight: Target("cuda", real(weight).dtype))
    return here


MIXES = {"learned_query": "attend"}
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


def weights_of(mix, width, heads, most, where):
    return [drawn((width,), where, 99) * width**-0.5]


def states(functions, mix, heads, partial, start, values, weights):
    """Return what each sublayer reads, where it writes a value made of that."""
    memory, token = reference.values(start[..., 0], len(values), start.shape[-1])
    made = []
    for slot, value in enumerate([*values, None]):
        own = [start, value * 2] if partial and value is not None else [start]
        # of many, some
        if slot % 13 < 3 or value is None:
            read = bound(getattr(functions, MIXES[mix]), reads=slot, heads=heads)
            made.append(read(*own, token, memory, *weights))
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
    # each program has several tiles
    monkeypatch.setattr(kernel, "PROGRAMS", 2)
    *shape, heads, count = SIZES[size]
    given = [drawn(shape, here, n) for n in range(count + 1)]
    given += weights_of(mix, shape[-1], heads, count + 2, here)
    results = []
    for functions, dtype in ((fused, torch.float32), (reference, torch.float64)):
        leaves = [each.to(dtype).requires_grad_() for each in given]
        (start, *values), weights = leaves[: count + 1], leaves[count + 1 :]
        if functions is fused and mix == "learned_query":
            weights = sum_gain(*weights)
        made = states(functions, mix, heads, partial, start, values, weights)
        gradient = torch.linspace(-1, 1, made.numel(), device=here, dtype=dtype).view_as(made)
        grads = torch.autograd.grad(made, leaves, gradient, retain_graph=True)
        again = torch.autograd.grad(made, leaves, gradient)
        assert all(torch.equal(one, other) for one, other in zip(grads, again, strict=True))
        results.append([made.detach(), *grads])
    near(*results, 1e-5)


def test_off_a_gpu_the_references_run(monkeypatch):
    monkeypatch.setattr(kernel, "attend_forward", None)
    start, value, query = (drawn((1, 2, 6), "cpu", n) for n in range(3))
    results = [
        states(functions, "learned_query", 1, True, start, [value], [query[0, 0]])
        for functions in (fused, reference)
    ]
    assert torch.equal(*results)


def peaks(operation, tokens):
    """Return the bytes that the forward and the backward pass at most add to those in use."""
    draw = bound(drawn, (1, tokens, operation.width), "cpu")
    own = [draw(n).requires_grad_() for n in range(operation.own)]
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
@pytest.mark.parametrize("kind", [AttendValues])
def test_kernels_allocate_what_they_declare(here, monkeypatch, kind, partial):
    if here != "cpu":
        pytest.skip("storages are counted on a CPU")
    # partial sums that do not grow with the tokens are gradients of weights
    monkeypatch.setattr(kernel, "PROGRAMS", 1)
    reads = LoopIndex(2)
    operation = kind(12, 3, *[4] * (kind is not AttendValues), partial=partial, reads=reads, fused=True)
    few, many = (peaks(operation, tokens) for tokens in (64, 192))
    size = 4 * 12
    flow = IOBytes(operation.own * size, size, 0)
    declared = operation.workspace(CostContext(192, tokens=192, device="cuda"), flow)
    per_token = [(large - small) / 128 for small, large in zip(few, many, strict=True)]
    # the first read allocates the gradients of the slots
    assert per_token == [declared.forward, declared.backward + 2 * size]


CHECKS = {"check_attend": (AttendValues, ())}


@pytest.mark.parametrize("sizes", [None, (12, 1), (35, 5), (1025, 1)])
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.gpu)])
def test_right_kernels_pass_their_self_test(where, name, sizes, dtype):
    kind, more = CHECKS[name]
    operation = None if sizes is None else kind(*sizes, *more)
    before = torch.get_rng_state()
    with torch.autocast(where, torch.bfloat16), torch.inference_mode():
        assert getattr(check, name)(operation, Target(where, dtype)) == ""
    assert torch.equal(torch.get_rng_state(), before)


WRONG = [
    ("check_attend", kernel, "attend_forward", "output is off"),
    ("check_attend", kernel, "attend_backward", "gradient of the start is off"),
]


@pytest.mark.parametrize(("name", "owner", "function", "message"), WRONG)
def test_self_tests_name_what_is_wrong(where, monkeypatch, name, owner, function, message):
    right = getattr(owner, function)

    def off(*given):
        first, *others = right(*given)
        return first * 1.2, *others

    monkeypatch.setattr(owner, function, off)
    assert getattr(check, name)(None, Target(where)).startswith(message)


TREES = {
    "learned_query": {"recur": 3, "step": ["s", "f"], "residual": {"mix": "learned_query", "heads": 2}},
    "learned_query, blocks": {
        "stack": 2,
        "step": ["s", "f"],
        "residual": {"mix": "learned_query", "over": "blocks"},
    },
}


def spec_of(case):
    return make(tree({"s": SEQ, "f": FFN}, TREES[case], width=12))


def chosen(graph):
    every = (each for body, _ in graphs(graph) for each in operations(body))
    return {data.kernel.name for _, operation, data in every if isinstance(operation, MixValues)}


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

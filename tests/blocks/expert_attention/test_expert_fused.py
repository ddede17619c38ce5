"""Routing and experts by kernels: outputs and gradients against fp64, and models that run them."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from cases import GROUPED, tree
from depth_kernels import check
from expert_kernels import SIZES, drawn, exact
from models import close, compiled, gradients, kept_of, tokens_for
from strategies import make

from blocks.expert_attention import reference
from blocks.expert_attention.fused_operations import RotaryExperts, RoutedExperts
from blocks.expert_attention.operations import Experts, Route
from blocks.ir.costs import CostContext, IOBytes
from blocks.ir.kernel import Target
from blocks.ir.operation import ORIGIN
from blocks.ir.walk import graphs, operations
from blocks.kernels.tensors import DTYPES
from blocks.primitives.reference import rotate
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.module.emission.stage import states
from composer.module.model import ComposedModel

fused = pytest.importorskip("blocks.expert_attention.fused", exc_type=ImportError)
rows_kernel = pytest.importorskip("blocks.expert_attention.rows_kernel", exc_type=ImportError)
from blocks.expert_attention import pending_rows, weights_kernel  # noqa: E402

KINDS = [
    *(pytest.param(name, torch.float32, id=name) for name in SIZES),
    pytest.param("most experts empty", torch.float16, id="fp16"),
    pytest.param("most experts empty", torch.bfloat16, id="bf16", marks=pytest.mark.gpu),
]


@pytest.fixture
def kernels(where, monkeypatch):
    """The kernels run wherever the tensors are."""
    monkeypatch.setattr(fused, "fits", lambda tensor: tensor.dtype in DTYPES)
    return where


def run(inputs, active, load=None):
    """Output and gradients of x, query, gate_up, down and keys."""
    *weighed, balance, gradient = inputs
    leaves = [each.clone().requires_grad_() for each in weighed]
    y = fused.routed_experts(*leaves, balance, load, active)
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient)]


@pytest.mark.parametrize(("size", "dtype"), KINDS)
def test_outputs_and_gradients_equal_fp64(kernels, size, dtype):
    inputs, active = drawn(SIZES[size], dtype, kernels), SIZES[size][4]
    load = torch.zeros(SIZES[size][3], device=kernels)
    got, expected = run(inputs, active, load), exact(*inputs, active)
    check(got, expected, dtype)
    assert [each.dtype for each in got] == [dtype, dtype, torch.float32, dtype, dtype, torch.float32]
    assert int(load.sum()) == inputs[0].shape[0] * inputs[0].shape[1] * active


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_errors_are_at_most_those_of_the_reference(dtype):
    sizes = (2, 300, 256, 64, 4, 128)
    inputs = drawn(sizes, device="cuda")
    expected = exact(*inputs, 4)

    def errors(function):
        leaves = [each.clone().requires_grad_() for each in inputs[:5]]
        with torch.autocast("cuda", dtype):
            narrow = reference.cast_experts(*leaves[2:])
            y = function(*leaves[:2], *narrow, inputs[5], None, 4)
        made = [y.detach(), *torch.autograd.grad(y, leaves, inputs[6].to(dtype))]
        pairs = zip(made, expected, strict=True)
        return [float((one.double() - other).norm() / other.norm()) for one, other in pairs]

    ours, theirs = errors(fused.routed_experts), errors(reference.routed_experts)
    assert all(one <= 1.5 * other for one, other in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements_of_rows():
    tokens, active, width = 2**18 + 37, 8, 1024
    x = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16)
    place = torch.arange(tokens * active, device="cuda", dtype=torch.int32).flip(0).view(tokens, active)
    rows = rows_kernel.spread(x, place, x.dtype)
    assert rows.numel() > 2**31
    assert torch.equal(rows[:active], x[-1:].expand(active, -1))
    assert torch.equal(rows[-active:], x[:1].expand(active, -1))
    torch.testing.assert_close(rows_kernel.total(rows, place, x.dtype), active * x)


def test_inputs_may_be_slices_and_gradients_expanded(kernels):
    x, query, gate_up, down, keys, balance, gradient = drawn(
        SIZES["fewer tokens than a tile"], device=kernels
    )
    sliced = torch.cat((torch.full_like(x, torch.nan), x), -1)[..., x.shape[-1] :]
    across = query.transpose(1, 2).contiguous().transpose(1, 2)
    inputs = (sliced, across, gate_up, down, keys, balance, gradient[:1, :1, :1].expand(gradient.shape))
    leaves = [*inputs[:2], *(each.clone() for each in inputs[2:5])]
    for leaf in leaves:
        leaf.requires_grad_()
    y = fused.routed_experts(*leaves, balance, None, 2)
    check([y, *torch.autograd.grad(y, leaves, inputs[-1])], exact(*inputs, 2), torch.float32)
    place = torch.arange(3, device=kernels, dtype=torch.int32)[:, None]
    assert torch.equal(rows_kernel.spread(x[0].t().contiguous().t(), place, x.dtype), x[0])


def test_it_runs_without_gradients_and_with_some(kernels):
    *weighed, balance, gradient = drawn(SIZES["fewer tokens than a tile"], device=kernels)
    expected = exact(*weighed, balance, gradient, 2)
    with torch.no_grad():
        check([fused.routed_experts(*weighed, balance, None, 2)], expected[:1], torch.float32)
    x = weighed[0].requires_grad_()
    y = fused.routed_experts(*weighed, balance, None, 2)
    check(torch.autograd.grad(y, [x], gradient), expected[1:2], torch.float32)


def test_off_a_gpu_and_in_fp64_the_reference_runs():
    *weighed, balance, gradient = (each.double() for each in drawn(SIZES["fewer tokens than a tile"]))
    y = fused.routed_experts(*weighed, balance, None, 2)
    assert torch.equal(y, reference.routed_experts(*weighed, balance, None, 2))
    check([y], exact(*weighed, balance, gradient, 2)[:1], torch.float32)


def test_the_same_twice_is_the_same_to_the_bit(kernels):
    inputs = drawn(SIZES["all experts active"], device=kernels)
    for one, other in zip(run(inputs, 5), run(inputs, 5), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("size", "dtype"), KINDS)
def test_keys_turned_back_give_what_turned_queries_give(kernels, size, dtype):
    *weighed, balance, gradient = drawn(SIZES[size], dtype, kernels)
    active, width = SIZES[size][4], SIZES[size][2]
    angle = torch.linspace(0.1, 1, width // 2, device=kernels)
    leaves = [each.clone().requires_grad_() for each in weighed]
    y = fused.rotary_experts(*leaves[:2], angle, *leaves[2:], balance, None, active, 40)
    got = [y.detach(), *torch.autograd.grad(y, leaves, gradient)]
    exactly = [each.detach().double().requires_grad_() for each in weighed]
    query = rotate(exactly[1], torch.polar(torch.ones_like(angle), 40 * angle).to(torch.complex128))
    weights, indices = reference.route(query, exactly[4], balance.double(), None, active)
    y = reference.experts_plain(exactly[0], weights, indices, *exactly[2:4])
    check(got, [y.detach(), *torch.autograd.grad(y, exactly, gradient.double())], dtype)
    assert [each.dtype for each in got[1:]] == [each.dtype for each in weighed]


@pytest.mark.parametrize("turned", [False, True])
def test_a_query_that_is_the_input_gets_one_gradient(kernels, monkeypatch, turned):
    size = SIZES["fewer tokens than a tile"]
    x, _, *weighed, balance, gradient = drawn(size, device=kernels)
    angle = torch.linspace(0.1, 1, size[2] // 2, device=kernels)
    added = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *given: added.append(1) or addmm(*given))
    leaves = [each.clone().requires_grad_() for each in (x, *weighed)]
    # what a model normed is no leaf
    given = leaves[0].cos()
    if turned:
        y = fused.rotary_experts(given, given, angle, *leaves[1:], balance, None, size[4], 3)
    else:
        y = fused.routed_experts(given, given, *leaves[1:], balance, None, size[4])
    got = [y.detach(), *torch.autograd.grad(y, leaves, gradient)]
    assert added == [1]
    exactly = [each.detach().double().requires_grad_() for each in (x, *weighed)]
    query = exactly[0].cos()
    if turned:
        query = rotate(query, torch.polar(torch.ones_like(angle), 3 * angle).to(torch.complex128))
    weights, indices = reference.route(query, exactly[3], balance.double(), None, size[4])
    y = reference.experts_plain(exactly[0].cos(), weights, indices, *exactly[1:3])
    check(got, [y.detach(), *torch.autograd.grad(y, exactly, gradient.double())], torch.float32)


def waiting(dtype, device, steps, gathered=None):
    """Rows of steps, left factors gathered: an expert has none, one all of a step, one a single row."""
    draw = torch.Generator().manual_seed(2)
    ends = [[0, 14, 14], [0, 1, 14], [5, 9, 14], [14, 14, 14], [0, 0, 14]]
    return [
        weights_kernel.Rows(
            torch.randn(7, 40, generator=draw).to(device, gathered or dtype),
            torch.randn(14, 24, generator=draw).to(device, dtype),
            torch.randperm(14, generator=draw).to(device, torch.int32),
            torch.tensor(ends[step], device=device, dtype=torch.int32),
        )
        for step in range(steps)
    ]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("gathered", [None, torch.float32])
@pytest.mark.parametrize("left", [True, False])
def test_products_of_rows_add_up_over_steps(kernels, steps, gathered, left):
    given = waiting(torch.float16, kernels, steps, gathered)
    total = pending_rows.PendingRows(2, left)
    exact = torch.zeros((3, 40, 24) if left else (3, 24, 40), dtype=torch.float64)
    for rows in given:
        a, b, order, ends = rows if left else (rows.right, rows.left, *rows[2:])
        total.add(weights_kernel.Rows(a, b, order, ends))
        # what is gathered is cast to the precision of products first
        full = [rows.left.half().double().cpu()[order.cpu() // 2], rows.right.double().cpu()]
        for expert, (first, end) in enumerate(pairwise([0, *ends.tolist()])):
            one, other = (each[first:end] for each in (full if left else full[::-1]))
            exact[expert] += one.T @ other
    check([total.multiply().cpu()], [exact], torch.float32)


def test_a_pass_over_a_part_leaves_no_rows_for_the_next(kernels):
    *weighed, balance, gradient = drawn(SIZES["fewer tokens than a tile"], device=kernels)
    x, query, gate_up, down, keys = (each.clone().requires_grad_() for each in weighed)
    cast = fused.sum_experts(gate_up, down)
    y = fused.routed_experts(x, query, *cast, keys, balance, None, 2)
    alone = torch.autograd.grad(y, [x], gradient, retain_graph=True)
    made = [torch.autograd.grad(y, [gate_up, down], gradient, retain_graph=True) for _ in range(2)]
    expected = exact(*weighed, balance, gradient, 2)
    check(alone, expected[1:2], torch.float32)
    for each in made:
        check(each, expected[3:5], torch.float32)
    assert all(map(torch.equal, *made))


# models


DREAMER = tree({"e": GROUPED}, {"recur": 2, "step": ["e"]}, width=16)


@pytest.fixture
def anywhere(kernels, monkeypatch):
    """Experts absorb their routing on any device that tests run on."""
    for kind in (RoutedExperts, RotaryExperts):
        first, *others = kind.kernels
        monkeypatch.setattr(kind, "kernels", (replace(first, unfit=lambda *_: "", dtypes=()), *others))
    return kernels


def experts_of(graph):
    return [
        (node, data)
        for body, _ in graphs(graph)
        for node, operation, data in operations(body)
        if isinstance(operation, RoutedExperts | Route | Experts)
    ]


@pytest.mark.parametrize("code", ["rotary", "none"])
def test_on_a_gpu_experts_absorb_their_routing_and_the_rotation_of_queries(code):
    spec = make(tree({"e": {**GROUPED, "depth_code": code}}, {"recur": 2, "step": ["e"]}, width=16))
    graph = compile_graph(spec, Target("cuda", "bfloat16"))
    ((node, data),) = experts_of(graph)
    turned = code == "rotary"
    kind = RotaryExperts if turned else RoutedExperts
    expected = kind(16, 5, 2, 8, 1e-3, sums=True, gathered=True)
    assert replace(data.op, **({"index": ORIGIN} if turned else {})) == expected
    assert node.endswith("e.experts")
    before = [node.replace("experts", each) for each in ("query_rotated", "route")[not turned :]]
    assert [*data.parts] == [*before, node]
    assert [name.rsplit(".")[-1] for name in data.weights] == [
        "gate_up",
        "down",
        "keys",
        "balance",
        "load",
    ]
    assert data.inputs[0] == data.inputs[1]
    assert data.kernel.name == ("triton_experts_rotated_gathered" if turned else "triton_experts_gathered")


@pytest.mark.parametrize(
    ("changes", "device"), [({}, "cpu"), ({"hidden": 7}, "cuda"), ({"experts": 1025}, "cuda")]
)
def test_elsewhere_they_do_not(changes, device):
    graph = compile_graph(
        make(tree({"e": {**GROUPED, **changes}}, {"recur": 2, "step": ["e"]}, width=16)), Target(device)
    )
    assert [type(data.op) for _, data in experts_of(graph)] == [Route, Experts]


@pytest.mark.parametrize("code", ["rotary", "none", "bias"])
@pytest.mark.parametrize("again", [False, True])
def test_a_model_that_routes_in_kernels_is_the_same_model(anywhere, code, again):
    # more steps than one product of weights takes
    spec = make(tree({"e": {**GROUPED, "depth_code": code}}, {"recur": 5, "step": ["e"]}, width=16))
    plain = compiled(spec, "reference").to(anywhere)
    marks = [*recomputable(compile_graph(spec, Target(anywhere)))]
    model = ComposedModel(spec, recompute=marks if again else []).to(anywhere)
    model.load_state_dict(plain.state_dict())
    tokens = tokens_for(spec).to(anywhere)
    close(gradients(model, tokens), gradients(plain, tokens))
    ((_, data),) = experts_of(model.graph)
    assert bool(data.recompute) == again
    counted = [[each.clone() for _, held, _ in states(m, m.graph) for each in held] for m in (model, plain)]
    # counted once per step, and not again when it is recomputed
    for one, other in zip(*counted, strict=True):
        assert torch.equal(one, other)
    model.eval()
    torch.testing.assert_close(model(tokens), plain.eval()(tokens))
    assert torch.equal(counted[0][1], model.get_buffer("stages.0.step.0.e.load"))


# costs


def kept_by_experts(sizes, tokens, device, turned):
    """The bytes that the backward pass keeps, weights apart."""
    _, _, width, experts, active, hidden = sizes
    *weighed, balance, _ = drawn((1, tokens, width, experts, active, hidden), device=device)
    x, query, *leaves = [each.requires_grad_() for each in weighed]
    if not turned:
        return kept_of(lambda: fused.routed_experts(x, query, *leaves, balance, None, active), leaves)
    angle = torch.ones(width // 2, device=device)
    return kept_of(lambda: fused.rotary_experts(x, query, angle, *leaves, balance, None, active, 3), leaves)


@pytest.mark.parametrize("kind", [RoutedExperts, RotaryExperts])
@pytest.mark.parametrize("size", ["fewer tokens than a tile", "most experts empty"])
def test_what_is_kept_is_declared_and_less_than_the_reference_keeps(kernels, size, kind):
    sizes = SIZES[size]
    _, _, width, experts, active, hidden = sizes
    turned = kind is RotaryExperts
    more, less = (kept_by_experts(sizes, tokens, kernels, turned) for tokens in (16, 8))
    at = CostContext(8, {})
    saved = kind(width, experts, active, hidden, 0.0).saved(at)
    if turned:
        assert less - (more - less) == saved.once + 4 * experts  # where experts end
    assert saved.inputs == (0, 1)
    assert (more - less) / 8 == saved.extra + 2 * 4 * width
    apart = Route(width, experts, active, 0.0).saved(at), Experts(width, experts, active, hidden).saved(at)
    assert saved.extra < sum(each.extra for each in apart)


def test_it_computes_what_its_parts_compute():
    at, flow = CostContext(8, {}, compute_bytes=2), IOBytes(8 * 16, 2 * 16, 0)
    whole, parts = RoutedExperts(16, 5, 2, 8, 1e-3), (Route(16, 5, 2, 1e-3), Experts(16, 5, 2, 8))
    assert whole.flops(at) == sum(part.flops(at) for part in parts)
    assert {*whole.weight_shapes()} == {*parts[0].weight_shapes(), *parts[1].weight_shapes()}
    assert (whole.update, whole.update_arguments()) == (parts[0].update, parts[0].update_arguments())
    assert whole.workspace(at, flow).forward >= whole.saved(at).extra
    narrow = CostContext(8, {}, 2, 2, 2)
    assert whole.saved(narrow).inputs == (0,)
    turned = RotaryExperts(16, 5, 2, 8, 1e-3)
    assert turned.saved(narrow).inputs == (0, 1)
    assert whole.saved(narrow).extra - turned.saved(narrow).extra == 4 * 16

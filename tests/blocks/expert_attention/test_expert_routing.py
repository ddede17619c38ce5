"""The kernels of routing against plain torch: whole numbers equal, at odd sizes, from poisoned memory."""

import pytest
import torch
from depth_kernels import check
from expert_kernels import routed

from blocks.expert_attention.tiles import BITS, LARGEST, MEASURED, Shape, Tile, padded, tile

kernel = pytest.importorskip("blocks.expert_attention.route_kernel", exc_type=ImportError)

# tokens, experts, active
SIZES = [(1, 5, 1), (3, 7, 2), (65, 100, 8), (65, 5, 5), (17, 257, 16), (9, 1024, 3), (41, 64, 4), (8, 1, 1)]


def drawn(tokens, experts, where, seed=0):
    draw = torch.Generator().manual_seed(seed)
    products, balance = torch.randn(tokens, experts, generator=draw), torch.randn(experts, generator=draw)
    return products.to(where), 0.3 * balance.to(where)


def equal(result, expected):
    for name in ("indices", "order", "place", "ends", "counts"):
        got, wanted = getattr(result, name), expected[kernel.Routed._fields.index(name)]
        assert got.dtype == torch.int32
        assert torch.equal(got.long(), wanted), name


@pytest.mark.parametrize("sizes", SIZES)
def test_choices_counts_and_order_are_those_of_a_stable_sort(where, sizes):
    tokens, experts, active = sizes
    products, balance = drawn(tokens, experts, where)
    got = kernel.route(products, balance, 0.25, active)
    expected = routed(products, balance, 0.25, active)
    equal(got, expected)
    check([got.weights, got.totals], [expected[0], expected[2]], torch.float32)
    # the last expert's end is the number of rows: none is left that nobody writes
    assert int(got.ends[-1]) == tokens * active == len(got.order)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_gradient_of_products_equals_fp64(where, sizes):
    tokens, experts, active = sizes
    products, balance = drawn(tokens, experts, where)
    result = kernel.route(products, balance, 0.25, active)
    leaf = products.double().requires_grad_()
    gradient = torch.randn(tokens, active, generator=torch.Generator().manual_seed(1)).to(where)
    weights = routed(leaf, balance.double(), 0.25, active)[0]
    (expected,) = torch.autograd.grad(weights, leaf, gradient.double())
    made = kernel.route_backward(gradient, result.weights, result.indices, result.totals, 0.25, experts)
    check([made], [expected], torch.float32)


def test_many_rounds_and_programs_add_up(where, monkeypatch):
    products, balance = drawn(23, 7, where)
    architecture = kernel.architecture(products.device)
    for step, sizes in {"choose": (2, 8, 1), "scan": (2, 4, 1), "place": (4, 8, 1)}.items():
        monkeypatch.setitem(MEASURED, Shape(step, architecture, 7), Tile(*sizes))
    result = kernel.route(products, balance, 0.25, 3)
    equal(result, routed(products, balance, 0.25, 3))


def test_equal_logits_choose_the_lower_numbers(where):
    products = torch.zeros(9, 20, device=where)
    products[:, 7] = 1
    routed = kernel.route(products, torch.zeros(20, device=where), 1.0, 4)
    assert routed.indices.tolist() == [[7, 0, 1, 2]] * 9


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's
def test_infinities_and_nan_choose_experts_that_exist(where):
    products, balance = drawn(11, 6, where)
    products[0], products[1], products[2, 3] = float("nan"), float("-inf"), float("inf")
    products[4, 2], products[5, 1:] = -float("nan"), float("-inf")
    routed = kernel.route(products.clone(), balance, 1.0, 3)
    assert routed.indices[0].tolist() == [0, 1, 2]
    assert routed.indices[2, 0] == 3
    assert routed.indices[4, 0] == 2
    assert routed.indices[5, 0] == 0
    for row in routed.indices.tolist():
        assert len({*row}) == 3
        assert 0 <= min(row) <= max(row) < 6
    assert torch.equal(routed.order.sort().values, torch.arange(33, device=where, dtype=torch.int32))


def test_products_are_rounded_before_the_bias_is_added(where):
    # as the reference does: a fused multiply-add would rank these two the other way round
    scale, first = 0.1, 1 + 2**-23
    exact = torch.tensor(scale).double() * torch.tensor(first).double()
    rounded = torch.tensor(scale) * torch.tensor(first)
    assert exact < rounded
    products = torch.tensor([[first, 0.0]], device=where)
    balance = torch.tensor([-float(rounded), 0.0], device=where)
    assert kernel.route(products, balance, scale, 2).indices.tolist() == [[0, 1]]


def test_inputs_may_be_slices(where):
    products, balance = drawn(10, 6, where)
    wide = torch.cat((torch.full_like(products, torch.nan), products), 1)[:, 6:]
    spread = torch.stack((balance, balance.new_full((6,), torch.nan)), 1)[:, 0]
    equal(kernel.route(wide, spread, 1.0, 2), routed(products, balance, 1.0, 2))


def test_no_token_is_no_work(where):
    products, balance = drawn(0, 5, where)
    routed = kernel.route(products, balance, 1.0, 2)
    assert routed.ends.tolist() == routed.counts.tolist() == [0] * 5
    assert kernel.route_backward(routed.weights, *routed[:3], 1.0, 5).shape == (0, 5)


@pytest.mark.gpu
def test_sixteen_thousand_tokens_over_256_experts():
    products, balance = drawn(16384, 256, "cuda")
    first, again = (kernel.route(products, balance, 0.25, 8) for _ in range(2))
    equal(first, routed(products, balance, 0.25, 8))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_tiles_are_as_measured_or_fit_the_registers(monkeypatch):
    for experts in (1, 5, 64, 100, 256, 257, LARGEST):
        for step in ("choose", "unchoose"):
            tokens, columns, warps = tile(Shape(step, 90, experts))
            assert tokens <= BITS
            assert columns == padded(experts)
            assert tokens * columns / (32 * warps) <= 64
    for width in (8, 24, 128, 384, 640, 1024, 1536, 4096):
        rows, columns, warps = tile(Shape("spread", 90, width))
        assert rows * columns / (32 * warps) <= 16
        assert columns in (padded(width), 128, 256, 512, 1024)
        assert -(-width // columns) * columns < 2 * max(width, 5)
    shape = Shape("sum", 90, 384)
    monkeypatch.setitem(MEASURED, shape, Tile(2, 128, 8))
    assert tile(shape) == (2, 128, 8)
    assert tile(shape._replace(architecture=100)) != (2, 128, 8)

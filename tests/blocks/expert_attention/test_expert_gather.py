"""The first product of experts reads its rows from tokens; it equals fp64 however rows are spread."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from cases import GROUPED, one
from depth_kernels import check
from expert_kernels import SIZES, drawn, exact
from strategies import make

from blocks.expert_attention.fused_operations import RotaryExperts, RoutedExperts
from blocks.expert_attention.tiles import GatherTile
from blocks.ir.kernel import Target
from blocks.ir.walk import graphs, operations
from blocks.kernels.tensors import DTYPES
from composer.graph.compile import compile_graph

fused = pytest.importorskip("blocks.expert_attention.fused", exc_type=ImportError)
from blocks.expert_attention import check as self_test  # noqa: E402
from blocks.expert_attention import gather_kernel  # noqa: E402

TOKENS, ACTIVE = 37, 2
# rows of each expert
COUNTS = {
    "one has all": [74, 0, 0, 0],
    "one alone has a single row": [0, 1, 73, 0],
    "tiles are filled": [32, 16, 16, 10],
    "tiles have tails": [20, 17, 30, 7],
    "the first and the last are empty": [0, 33, 41, 0],
}


@pytest.fixture
def kernels(where, monkeypatch):
    """The kernels run wherever the tensors are."""
    monkeypatch.setattr(fused, "fits", lambda tensor: tensor.dtype in DTYPES)
    return where


def compared(where, counts, width, hidden, kind):
    """What the kernel makes, and fp64 makes of the same rows."""
    draw = torch.Generator().manual_seed(0)
    rows = TOKENS * ACTIVE
    x = torch.randn(TOKENS, width, generator=draw).to(where, kind)
    matrices = torch.randn(len(counts), width, 2 * hidden, generator=draw) * width**-0.5
    weights = torch.rand(TOKENS, ACTIVE, generator=draw).to(where)
    order = torch.randperm(rows, generator=draw).to(where, torch.int32)
    ends = torch.tensor(counts).cumsum(0).to(where, torch.int32)
    matrices = matrices.to(where, torch.float16)
    result = gather_kernel.gate_up(x, weights, order, ends, matrices)
    chosen = x.half().double()[order.long() // ACTIVE].split(counts)
    both = torch.cat([part @ each for part, each in zip(chosen, matrices.double(), strict=True)])
    gate, up = both.chunk(2, -1)
    return result, (both, F.silu(gate) * up * weights.flatten()[order.long(), None].double())


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
@pytest.mark.parametrize("counts", COUNTS)
def test_rows_equal_fp64_however_they_are_spread(where, monkeypatch, counts, kind):
    monkeypatch.setattr(gather_kernel, "gather_tile", lambda shape: GatherTile(16, 16, 16, 4, 2))
    check(*compared(where, COUNTS[counts], 40, 24, kind), torch.float16)


def test_tiles_of_a_gpu_hold_widths_that_fill_none(where):
    check(*compared(where, COUNTS["tiles have tails"], 264, 136, torch.float32), torch.float16)


@pytest.mark.parametrize("turned", [False, True])
def test_experts_give_the_outputs_and_gradients_of_those_with_sorted_rows(kernels, turned):
    size = SIZES["most experts empty"]
    *weighed, balance, gradient = drawn(size, torch.float16, kernels)
    angle = torch.linspace(0.1, 1, size[2] // 2, device=kernels)
    made = []
    for gathered in (False, True):
        x, query, *weights = leaves = [each.clone().requires_grad_() for each in weighed]
        rest = (*weights, balance, None, size[4])
        if turned:
            y = fused.rotary_experts(x, query, angle, *rest, 3, gathered)
        else:
            y = fused.routed_experts(x, query, *rest, gathered)
        made.append([y.detach(), *torch.autograd.grad(y, leaves, gradient)])
    check(made[1], made[0], torch.float16)
    if not turned:
        check(made[1], exact(*weighed, balance, gradient, size[4]), torch.float16)


def kernel_of(dtype):
    graph = compile_graph(make(one(GROUPED, width=16)), Target("cuda", dtype))
    (result,) = (
        (node, op)
        for body, _ in graphs(graph)
        for _, op, node in operations(body)
        if isinstance(op, RoutedExperts)
    )
    return result


def test_the_plan_says_which_product_runs_and_why():
    node, op = kernel_of("bfloat16")
    assert node.kernel.name == "triton_experts_rotated_gathered"
    assert op.gathered
    assert "the second is torch's" in node.choice.why
    node, op = kernel_of("float32")
    assert node.kernel.name == "triton_experts_rotated_summed"
    assert not op.gathered
    assert "no tensor cores in float32" in node.choice.why


def test_a_self_test_finds_a_product_that_is_wrong(kernels, monkeypatch):
    target = Target(kernels, "float16", here=True)
    operation = RoutedExperts(width=24, experts=5, active=2, hidden=16, balance_rate=0.0)
    assert self_test.check_gathered(operation, target) == ""
    right = gather_kernel.gate_up

    def wrong(*given):
        both, inner = right(*given)
        return both, inner.roll(1, 0)

    monkeypatch.setattr(gather_kernel, "gate_up", wrong)
    assert "output is off" in self_test.check_gathered(operation, target)
    # torch's own is not touched by it
    assert self_test.check_sums(replace(operation, gathered=False), target) == ""


def test_both_operations_try_it_first():
    assert [kind.kernels[0].name for kind in (RoutedExperts, RotaryExperts)] == [
        "triton_experts_gathered",
        "triton_experts_rotated_gathered",
    ]

"""The operators of expert attention: torch's own checks, gradients, FLOPs."""

import pytest
import torch
from depth_kernels import check
from expert_kernels import SIZES, drawn, exact
from torch.utils.flop_counter import FlopCounterMode

fused = pytest.importorskip("blocks.expert_attention.fused", exc_type=ImportError)
library = pytest.importorskip("blocks.expert_attention.library", exc_type=ImportError)

SIZE = SIZES["fewer tokens than a tile"]


@pytest.fixture
def inputs(where):
    torch.use_deterministic_algorithms(False)  # opcheck compares what was never written
    return [each.requires_grad_(n < 5) for n, each in enumerate(drawn(SIZE, device=where))]


def ran(x, query, gate_up, down, keys, balance, *_):
    """Route and run the experts by operators; return what both return."""
    products = query.flatten(0, 1) @ keys.t()
    routed = library.expert_route(products, balance, query.shape[-1] ** -0.5, 2)
    rows = (routed[3], routed[4], routed[5])
    return routed, library.experts(x.flatten(0, 1), routed[0], *rows, gate_up, down)


def test_routing_and_its_backward_pass_the_checks_of_torch(inputs):
    products = torch.randn(11, 7, device=inputs[0].device, requires_grad=True)
    torch.library.opcheck(library.expert_route, (products, inputs[5].detach(), 0.5, 2))
    weights, indices, totals, *_ = library.expert_route(products.detach(), inputs[5], 0.5, 2)
    gradient = torch.randn_like(weights)
    torch.library.opcheck(library.expert_route_backward, (gradient, weights, indices, totals, 0.5, 7))


def test_experts_and_their_backward_pass_the_checks_of_torch(inputs):
    x, _, gate_up, down, *_, gradient = inputs
    routed, (_, both) = ran(*inputs)
    rows = (routed[3], routed[4], routed[5])
    leaves = [x.detach().flatten(0, 1).requires_grad_(), routed[0].detach().requires_grad_()]
    torch.library.opcheck(library.experts, (*leaves, *rows, gate_up, down))
    kept = [each.detach() for each in (*leaves, *rows, gate_up, down, both)]
    torch.library.opcheck(library.experts_backward, (gradient.flatten(0, 1), *kept))


def test_gradients_equal_fp64(inputs):
    _, (y, _) = ran(*inputs)
    made = torch.autograd.grad(y, inputs[:5], inputs[6].flatten(0, 1))
    check([y.view(inputs[0].shape), *made], exact(*inputs, 2), torch.float32)


def test_only_weights_and_sums_have_a_gradient(inputs):
    routed, (y, both) = ran(*inputs)
    assert [each.requires_grad for each in (*routed, y, both)] == [True, *[False] * 6, True, False]


def test_flops_are_three_products_forward_and_six_backward(inputs):
    _, length, width, _, active, hidden = SIZE
    with FlopCounterMode(display=False) as counter:
        _, (y, _) = ran(*inputs)
    scores = 2 * length * width * SIZE[3]
    assert counter.get_total_flops() == scores + 6 * length * active * width * hidden
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * (scores + 6 * length * active * width * hidden)


def test_torch_compile_traces_routed_experts_as_one_graph_and_counts_their_load(inputs, monkeypatch):
    monkeypatch.setattr(fused, "fits", lambda *tensors: True)
    *leaves, balance, gradient = inputs

    def ran(function):
        load = torch.zeros(SIZE[3], device=balance.device)
        y = function(*leaves, balance, load, 2)
        return [y, load, *torch.autograd.grad(y, leaves, gradient)]

    traced = torch.compile(fused.routed_experts, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, ran(fused.routed_experts), ran(traced)))

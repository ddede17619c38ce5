"""Self-test of the expert attention kernels: routing and a few experts, compared with fp64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch

from blocks.expert_attention import library, reference, route_kernel
from blocks.expert_attention.fused_operations import RoutedExperts
from blocks.expert_attention.pending_rows import PendingRows
from blocks.expert_attention.tiles import PRODUCT_STEPS
from blocks.expert_attention.weights_kernel import Rows
from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch

TOKENS = 13
"""More than a tile has, and not a multiple, so that sums over tiles and masks are tested."""

_DEFAULT = RoutedExperts(width=64, experts=24, active=4, hidden=40, balance_rate=0.0)


def check(operation: RoutedExperts | None, target: Target) -> str:
    """Test the kernels in an operation's sizes (None: 24 experts of 40, 4 active) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    with isolated(target):
        draw = torch.Generator().manual_seed(0)
        operation = operation or _DEFAULT
        return _routing(operation, target, draw) or _experts(operation, target, draw)


def check_sums(operation: RoutedExperts | None, target: Target) -> str:
    """Do the same with gradients of weights from rows of several steps."""
    with isolated(target):
        draw = torch.Generator().manual_seed(0)
        return check(operation, target) or _sums(operation or _DEFAULT, target, draw)


def check_gathered(operation: RoutedExperts | None, target: Target) -> str:
    """Do the same with a first product that gathers its rows."""
    return check_sums(replace(operation or _DEFAULT, gathered=True), target)


def _sums(operation: RoutedExperts, target: Target, draw: torch.Generator) -> str:
    """Test sums of products of random rows over several launches; one expert has no rows, one has all."""
    width, active, hidden = operation.width, operation.active, operation.hidden
    dtype, experts = getattr(torch, target.dtype), 5
    # under autocast the gathered factor may be in fp32
    kinds = dict.fromkeys((dtype, torch.float32))
    shapes = ((True, width, 2 * hidden), (False, hidden, width))
    for gathered, (left, n, m) in product(kinds, shapes):
        waiting = PendingRows(active, left)
        exact = torch.zeros(experts, n, m, dtype=torch.float64, device=target.device)
        for step in range(PRODUCT_STEPS + 1):
            rows = TOKENS * active
            sizes = (TOKENS, rows) if left else (rows, TOKENS)
            factors = [torch.randn(k, size, generator=draw) for k, size in zip(sizes, (n, m), strict=True)]
            a, b = (each.to(target.device, dtype) for each in factors)
            a, b = (a.to(gathered), b) if left else (a, b.to(gathered))
            order = torch.randperm(rows, generator=draw).to(target.device)
            ends = [0, 1, rows // 2, rows - step, rows] if step else [rows] * experts
            waiting.add(Rows(a, b, order.int(), torch.tensor(ends, device=target.device).int()))
            full = [each.double() for each in (a, b)]
            full[not left] = full[not left][order // active]
            first = 0
            for expert, end in enumerate(ends):
                exact[expert] += full[0][first:end].T @ full[1][first:end]
                first = end
        names = ("gradient of gate and up over steps" if left else "gradient of down over steps",)
        if fault := mismatch(names, (waiting.multiply(),), (exact,), target.dtype):
            return fault
    return ""


def _routing(operation: RoutedExperts, target: Target, draw: torch.Generator) -> str:
    """Test routing with random products; integers must be equal."""
    experts, active = operation.experts, operation.active
    products, balance, gradient = (
        torch.randn(shape, generator=draw).to(target.device)
        for shape in ((TOKENS, experts), (experts,), (TOKENS, active))
    )
    routing = route_kernel.route(products, balance, 0.5, active)
    exact = products.double().requires_grad_()
    indices = (0.5 * products.double() + balance).topk(active, -1).indices
    scores = (0.5 * exact).sigmoid().gather(-1, indices)
    weights = scores / scores.sum(-1, keepdim=True)
    order = indices.flatten().argsort(stable=True)
    counts = (indices.flatten() == torch.arange(experts, device=target.device)[:, None]).sum(1)
    for name, got, wanted in (
        ("chosen experts", routing.indices, indices),
        ("order of rows", routing.order, order),
        ("places of rows", routing.place.flatten(), order.argsort()),
        ("ends of experts", routing.ends, counts.cumsum(0)),
    ):
        if not torch.equal(got.long(), wanted):
            return f"{name}: {int((got.long() != wanted).sum())} of {wanted.numel()} are wrong"
    kept = (routing.weights, routing.indices, routing.totals)
    made = route_kernel.route_backward(gradient, *kept, 0.5, experts)
    (expected,) = torch.autograd.grad(weights, exact, gradient.double())
    return mismatch(("weights", "gradient of the logits"), (routing.weights, made), (weights, expected))


def _experts(operation: RoutedExperts, target: Target, draw: torch.Generator) -> str:
    """Test two experts without tokens and `active` + 1 others."""
    width, active, hidden = operation.width, operation.active, operation.hidden
    experts = active + 3
    shapes = ((1, TOKENS, width), (experts, width, 2 * hidden), (experts, hidden, width), (1, TOKENS, width))
    draws = [torch.randn(shape, generator=draw) for shape in shapes]
    scales = (1, width**-0.5, hidden**-0.5, 1)
    dtype = getattr(torch, target.dtype)
    x, gate_up, down, gradient = (
        (scale * each).to(target.device, dtype) for scale, each in zip(scales, draws, strict=True)
    )
    logits = torch.randn(TOKENS, experts, generator=draw)
    logits[:, [0, experts - 1]] = -100.0
    logits = logits.to(target.device)
    routed = route_kernel.route(logits, torch.zeros_like(logits[0]), 1.0, active)
    rows = (routed.order, routed.place, routed.ends)
    # elements that a product does not write become visible
    poison = [torch.full_like(each, torch.nan) for each in (gate_up, down, x, x)]
    del poison
    y, both = library.experts(x[0], routed.weights, *rows, gate_up, down, operation.gathered)
    made = library.experts_backward(gradient[0], x[0], routed.weights, *rows, gate_up, down, both)
    leaves = [each.double().requires_grad_() for each in (x, routed.weights[None], gate_up, down)]
    indices = routed.indices[None].long()
    expected = reference.experts_plain(leaves[0], leaves[1], indices, leaves[2], leaves[3])
    gradients = torch.autograd.grad(expected, leaves, gradient.double())
    results = [got.view(wanted.shape) for got, wanted in zip((y, *made), (expected, *gradients), strict=True)]
    return mismatch(_NAMES, results, (expected, *gradients), target.dtype)


_NAMES = (
    "output",
    *(f"gradient of {name}" for name in ("the input", "the weights", "gate and up", "down")),
)

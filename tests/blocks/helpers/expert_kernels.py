"""What tests of the kernels of expert attention share: random inputs, exact results."""

import torch

from blocks.expert_attention import reference

# batch, sequence, width, experts, active, hidden
SIZES = {
    "one token, one active": (1, 1, 8, 5, 1, 8),
    "fewer tokens than a tile": (1, 3, 24, 7, 2, 16),
    "most experts empty": (5, 13, 40, 100, 8, 24),
    "all experts active": (1, 9, 16, 5, 5, 8),
    "blocks with a tail": (2, 5, 264, 6, 2, 136),
}


def drawn(sizes, dtype=torch.float32, device="cpu", seed=0):
    """Random x, query, gate_up, down, keys, balance and gradient; routing is in fp32."""
    batch, length, width, experts, _, hidden = sizes
    draw = torch.Generator().manual_seed(seed)
    x = (batch, length, width)
    shapes = [x, x, (experts, width, 2 * hidden), (experts, hidden, width), (experts, width), (experts,), x]
    scales = [1, 1, width**-0.5, hidden**-0.5, 1, 0.3, 1]
    made = [scale * torch.randn(s, generator=draw) for s, scale in zip(shapes, scales, strict=True)]
    narrow = (dtype, torch.float32, dtype, dtype, torch.float32, torch.float32, dtype)
    return [each.to(device, kind) for each, kind in zip(made, narrow, strict=True)]


def exact(x, query, gate_up, down, keys, balance, gradient, active):
    """Output and gradients of x, query, gate_up, down and keys in fp64."""
    leaves = [each.detach().double().requires_grad_() for each in (x, query, gate_up, down, keys)]
    weights, indices = reference.route(leaves[1], leaves[4], balance.double(), None, active)
    y = reference.experts_plain(leaves[0], weights, indices, *leaves[2:4])
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient.double())]


def routed(products, balance, scale, active):
    """What `route` returns, by plain torch: weights, indices, totals, order, place, ends, counts."""
    logits = products * scale
    # of equal ones the first, which `topk` does not promise
    indices = (logits + balance).sort(dim=-1, descending=True, stable=True).indices[..., :active]
    scores = logits.sigmoid().gather(-1, indices)
    totals = scores.sum(-1, keepdim=True)
    order = indices.flatten().argsort(stable=True)
    counts = torch.bincount(indices.flatten().cpu(), minlength=len(balance)).to(order.device)
    place = order.argsort().view_as(indices)
    return scores / totals, indices, totals[:, 0], order, place, counts.cumsum(0), counts

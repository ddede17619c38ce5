"""Routing and experts by Triton kernels: `routed_experts` as in `reference.py`, with the same gradients.

Logits are a product in fp32, which is torch's, and so are the grouped products of the experts; kernels do
what lies between them. Kept for the backward pass are the inputs as they came, gate and up, and per choice
its weight, its expert and two places. Sorted rows are copied again, and what the second product read is
computed again by the kernel that makes the gradients of gate and up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.expert_attention import library, reference
from blocks.expert_attention.route_kernel import Routed
from blocks.kernels.tensors import fits
from blocks.primitives.reference import wide


def routed_experts(
    x: Tensor,
    query: Tensor,
    gate_up: Tensor,
    down: Tensor,
    keys: Tensor,
    balance: Tensor,
    load: Tensor | None,
    active: int,
) -> Tensor:
    """Choose experts for each token by its query, run them on x, sum what they return by weight.

    x and query: [batch, sequence, width]; gate_up: [experts, width, 2 * hidden]; down: [experts, hidden,
    width], in one dtype; keys: [experts, width]; balance: [experts]; load: [experts], counted up in place,
    None outside training. Off a GPU, where a model that was planned for one may be moved, the reference runs.
    """
    if not (fits(x) and fits(gate_up)):
        return reference.routed_experts(x, query, gate_up, down, keys, balance, load, active)
    routed = Routed(*library.expert_route(products(query, keys), balance, query.shape[-1] ** -0.5, active))
    if load is not None:
        load += routed.counts
    rows = (routed.order, routed.place, routed.ends)
    y: Tensor = library.experts(x.flatten(0, 1), routed.weights, *rows, gate_up, down)[0]
    return y.view(x.shape)


def products(query: Tensor, keys: Tensor) -> Tensor:
    """Return the products of queries with keys [tokens, experts], in fp32 whatever the autocast dtype."""
    with torch.autocast(query.device.type, enabled=False):
        return F.linear(wide(query.flatten(0, 1)), wide(keys))

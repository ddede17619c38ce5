"""Self-test of the kernels of gated residual sums: one tile, compared with fp64."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.primitives.fused import summed_shares
from blocks.primitives.reference import rms_norm_plain
from blocks.wiring.residual.gate import fused, kernel, reference
from blocks.wiring.residual.gate.operations import Gate, Gated, GatedSum

TOKENS = 5
"""Fewer than a tile has, so that masks are tested."""


def check(operation: Gated | None, target: Target) -> str:
    """Test the kernels with an operation's gate and width (None: all gates, width 96) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    width = operation.shape[-1] if operation else 96
    gates: list[Gate] = [operation.gate] if operation else ["scalar", "channel", "token"]
    norms = [not isinstance(operation, GatedSum)] if operation else [False, True]
    with isolated(target):
        for gate, norm in product(gates, norms):
            size = {"scalar": 1, "channel": width}.get(gate, width + 1)
            given = random_tensors([(1, TOKENS, width)] * 4 + [(width,), (size,)], target)
            # also as under autocast: the stream and the weights in fp32
            wide = [each if number in (1, 2) else each.float() for number, each in enumerate(given)]
            if fault := _wrong(gate, norm, given) or _wrong(gate, norm, wide):
                return f"{gate}: {fault}"
    return ""


def _wrong(gate: Gate, norm: bool, given: list[Tensor]) -> str:
    a, b, of_norm, of_total, gain, weights = given
    leaves = [each.double().requires_grad_() for each in (a, b, weights, gain)[: 3 + norm]]
    total = reference.gated_sum(*leaves[:2], *fused.apart(leaves[2], gate), gate=gate)
    wanted, gradients = [total], [of_total]
    if norm:
        wanted, gradients = [total, rms_norm_plain(total, leaves[3])], [of_total, of_norm]
    wanted += torch.autograd.grad(wanted, leaves, [each.double() for each in gradients])
    results = kernel.forward(a, b, gain if norm else None, weights, gate, of_norm.dtype)
    kept = (a, b, results[0], gain, weights) if norm else (a, b, None, None, weights)
    shares: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
    terms = kernel.backward(of_total, of_norm if norm else None, kept, gate, a.dtype, shares)
    sums = [summed_shares(each).to(gain.dtype) for each in (shares[1], shares[0])[: 1 + norm]]
    return mismatch(_names(norm), [*results[: 1 + norm], *terms, *sums], wanted)  # type: ignore[list-item]


def _names(norm: bool) -> list[str]:
    of = ("stream", "update", "gate's weights", "gain")[: 3 + norm]
    return [*("sum", "norm")[: 1 + norm], *(f"gradient of the {each}" for each in of)]

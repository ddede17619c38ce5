"""Self-test of flash-linear-attention's kernels: two chunks, the second partial, compared with fp64."""

from __future__ import annotations

import torch

from blocks.gated_delta import fla_kernels
from blocks.gated_delta.operations import CHUNK, GatedDelta
from blocks.gated_delta.reference import mix_plain
from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch, random_tensors

_DEFAULT = GatedDelta(heads=2, key_dim=64, value_dim=64)
_INPUTS = ("queries", "keys", "values", "write gate", "forget gate")
_NAMES = ("output", *(f"gradient of the {name}" for name in (*_INPUTS, "rate", "shift")))


def check(operation: GatedDelta | None, target: Target) -> str:
    """Test the kernels in an operation's sizes (None: 2 heads of 64) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    sizes = operation or _DEFAULT
    tokens = (1, CHUNK + 5, sizes.heads)
    keys, values = (*tokens, sizes.key_dim), (*tokens, sizes.value_dim)
    with isolated(target):
        *inputs, gradient = random_tensors((keys, keys, values, tokens, tokens, values), target)
        weights = random_tensors(sizes.weight_shapes(), Target(target.device))
        # states decay slowly, as they do at first, so that the second chunk reads what the first wrote
        inputs += [weights[0], weights[1] - 4.6]
        leaves = [each.requires_grad_() for each in inputs]
        out = fla_kernels.mix(*leaves)
        results = [out, *torch.autograd.grad(out, leaves, gradient)]
        exact = [each.detach().double().requires_grad_() for each in inputs]
        wanted = mix_plain(*exact)
        expected = [wanted, *torch.autograd.grad(wanted, exact, gradient.double())]
        return mismatch(_NAMES, results, expected, target.dtype)

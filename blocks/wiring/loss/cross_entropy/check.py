"""Self-test of the loss kernel: two chunks of head and loss, compared with fp64."""

from __future__ import annotations

import torch

from blocks.ir.kernel import Target
from blocks.ir.operation import Operation
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.primitives.reference import project
from blocks.wiring.loss.cross_entropy import fused
from blocks.wiring.loss.cross_entropy.reference import IGNORED, cross_entropy

TOKENS, WIDTH = 13, 64
_NAMES = ("loss", "gradient of the rows", "gradient of the weight")


def check(operation: Operation | None, target: Target) -> str:
    """Test the kernel with an operation's vocabulary (None: 1000) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    vocab = getattr(operation, "vocab", 1000)
    with isolated(target):
        rows, weight = random_tensors([(TOKENS, WIDTH), (vocab, WIDTH)], target)
        weight *= WIDTH**-0.5
        targets = torch.arange(TOKENS, device=target.device) * 7 % vocab
        targets[3:5] = IGNORED
        with torch.no_grad():
            first = fused.sums(rows, weight, targets, rows.dtype, (True, True))
            results = fused.sums(rows, weight, targets, rows.dtype, (True, True), to_weight=first[2])
        leaves = [each.double().requires_grad_() for each in (rows, weight)]
        logits = project(leaves[0][None], leaves[1], (vocab,))
        loss = cross_entropy(logits, targets[None]) * (TOKENS - 2)
        to_rows, to_weight = torch.autograd.grad(loss, leaves)
        made = [each for each in results if each is not None]
        return mismatch(_NAMES, made, (loss, to_rows, 2 * to_weight), target.dtype)

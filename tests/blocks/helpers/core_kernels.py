"""What tests of the kernels of `blocks.primitives` share: sizes, random inputs, exact results."""

import torch

from blocks.primitives import reference

# batch, sequence, heads, head_dim
HEADS = {
    "one token": (1, 1, 1, 32),
    "an odd length": (2, 37, 3, 64),
    "heads of 48": (1, 5, 4, 48),
    "heads of 80": (2, 3, 1, 80),
    "heads of 96": (1, 7, 2, 96),
    "heads of 112": (1, 3, 5, 112),
    "heads of 128": (3, 5, 2, 128),
    "tiny heads": (2, 9, 3, 6),
}
# batch, sequence, width
ROWS = {
    "one token": (1, 1, 32),
    "an odd length": (2, 37, 10),
    "a width of 96": (1, 5, 96),
    "wide": (1, 3, 1025),
}


def drawn(shapes, dtype=torch.float32, device="cpu", seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]


def table_for(shape, device, base=100.0):
    tokens = torch.zeros(shape[:2], dtype=torch.int64, device=device)
    return reference.sequence_table(tokens, shape[-1], base)


def exact_add_norm(a, b, gain, of_norm, of_total):
    """Norm, sum and the gradients of a, b and the gain in fp64."""
    leaves = [each.detach().double().requires_grad_() for each in (a, b, gain)]
    total = leaves[0] + leaves[1]
    normed = reference.rms_norm_plain(total, leaves[2])
    outputs = [(normed, of_norm), (total, of_total)]
    given = [(out, gradient.double()) for out, gradient in outputs if gradient is not None]
    made, gradients = zip(*given, strict=True)
    wanted = {"allow_unused": True, "materialize_grads": True}
    grads = torch.autograd.grad(made, leaves, gradients, **wanted)
    return [normed.detach(), total.detach(), *grads]


def exact_rotary(x, gain, table, gradient):
    """Output and the gradients of x, and of the gain if there is one, in fp64."""
    leaves = [each.detach().double().requires_grad_() for each in (x, gain) if each is not None]
    normed = leaves[0] if gain is None else reference.rms_norm_plain(*leaves)
    out = reference.rotate(normed, table.to(torch.complex128))
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient.double())]

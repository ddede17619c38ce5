"""What tests of the depth kernels share: random inputs, a loop of steps, distances."""

import torch

from blocks.depth_attention import reference
from blocks.kernels.slot_memory import slots

# batch, sequence, heads, kv_heads, head_dim, slots
SIZES = {
    "a tail of tokens": (2, 37, 4, 1, 64, 3),
    "one token, one slot": (1, 1, 3, 1, 40, 1),
    "64 slots": (1, 3, 1, 1, 32, 64),
    "a group of 3, padded twice": (3, 7, 6, 2, 40, 4),
    "a group of 8, padded": (1, 5, 8, 1, 96, 3),
    "own keys for each head": (2, 9, 3, 3, 128, 2),
}


def drawn(sizes, dtype=torch.float32, device="cpu", seed=0):
    """Random query, keys, values and gradient."""
    batch, length, heads, kv_heads, head_dim, count = sizes
    draw = torch.Generator().manual_seed(seed)
    kv = (count, batch, length, kv_heads, head_dim)
    shapes = [(batch, length, heads, head_dim), kv, kv, (batch, length, heads, head_dim)]
    return [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]


def exact(query, keys, values, gradient):
    """Output and gradients of query, keys, values in fp64."""
    leaves = [each.detach().double().requires_grad_() for each in (query, keys, values)]
    out = reference.attend_stacked(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient.double())]


def far(got, expected):
    """The norm of the error over that of what is expected, which at one slot may be 0."""
    error = (got.double() - expected.double()).detach().norm()
    return float(error / expected.double().norm().clamp(min=1e-3))


def check(got, expected, dtype):
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert len(got) == len(expected)
    for number, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.shape == other.shape
        assert far(one, other) <= tolerance, f"{number}: off by {far(one, other):.2g} of its norm"


def weights(sizes, dtype=torch.float32, device="cpu"):
    """Leaves of `run`: the first state, and scales of queries, keys and values of each step."""
    batch, length, heads, kv_heads, head_dim, count = sizes
    draw = torch.Generator().manual_seed(1)
    joined = (count, 1, 1, (heads + 2 * kv_heads) * head_dim)
    shapes = [(batch, length, heads * head_dim), joined]
    return [torch.randn(s, generator=draw).to(device, dtype).requires_grad_() for s in shapes]


def run(functions, sizes, leaves, span="inclusive", detached=(), again=None, turned=False):
    """Run steps that append and read, each from what the last one made; return the last state.

    With `turned`, queries and keys are rotated on their way, by other angles at each step.

    Queries, keys and values are slices of one tensor, as those of a joined projection. `detached` steps
    append without gradients; `again` wraps a step.
    """
    _, _, heads, kv_heads, head_dim, count = sizes
    x, scales = leaves
    memory, token = slots(x[..., 0], count, kv_heads, head_dim)
    angle = torch.linspace(0.1, 1, head_dim // 2, dtype=x.dtype, device=x.device)

    def step(x, token, scale, t):
        joined = torch.cat((x, x[..., : 2 * kv_heads * head_dim], x), -1)[..., : scale.shape[-1]] * scale
        parts = joined.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], -1)
        q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in parts)
        if t in detached:
            k, v = k.detach(), v.detach()
        reads = t + (span == "inclusive")
        if turned:
            token = functions.append_rotated(k, v, token, memory, angle, t, t + 1)
            y = functions.attend_rotated(q, token, memory, angle, reads=reads, index=t + 1)
        else:
            token = functions.append(k, v, token, memory, t)
            y = functions.attend(q, token, memory, reads=reads)
        return x + y.flatten(2), token

    for t in range(count):
        x, token = (again or (lambda call, *given: call(*given)))(step, x, token, scales[t], t)
    return x

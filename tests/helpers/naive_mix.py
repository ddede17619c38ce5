"""Residual mixes and activations in `naive`, as plainly as possible; vectors are 1-D."""

import math

import torch


def mixed(row, residual, values, name):
    """For each token a sum of its values, by learned weights or a softmax, a head at a time."""
    out = []
    size = row.width // residual.heads
    for vectors in zip(*values, strict=True):
        parts = []
        for i in range(0, row.width, size):
            if residual.mix == "static":  # by distance, the latest first
                shares = row.w[name][: len(vectors), i // size].flip(0)
            else:
                normed = [v / torch.sqrt((v * v).mean() + 1e-6) * row.w[name] for v in vectors]
                scores = [vector[i : i + size].sum() for vector in normed]
                shares = torch.stack(scores).softmax(0)
            parts.append(sum(a * vector[i : i + size] for a, vector in zip(shares, vectors, strict=True)))
        out.append(torch.cat(parts))
    return out


def activated(kind, x):
    match kind:
        case "swiglu":
            return x / (1 + torch.exp(-x))
        case "gelu" | "geglu":
            return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        case "gelu_tanh":
            return x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "relu":
            return x * (x > 0)
        case "relu2":
            return x * x * (x > 0)

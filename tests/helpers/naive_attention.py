"""What attention is made of, as plainly as possible; vectors are 1-D."""

import math

import torch


def rotated(x, position, base=10000.0):
    """Turn the pair (2i, 2i + 1) by position * base ** (-2i / size)."""
    out = []
    for i in range(0, len(x), 2):
        angle = position * base ** (-i / len(x))
        c, s = math.cos(angle), math.sin(angle)
        out += [x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c]
    return torch.stack(out)


def softmax_mix(query, keys, values, lower=(), cap=None):
    """softmax(q k / sqrt(d) - lower) v over lists of keys and values; scores may be capped."""
    scores = torch.stack([query @ key for key in keys]) / math.sqrt(len(query))
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if lower:
        scores = scores - torch.stack(lower)
    return sum(share * value for share, value in zip(scores.softmax(0), values, strict=True))

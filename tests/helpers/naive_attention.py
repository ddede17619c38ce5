"""What attention is made of, as plainly as possible; vectors are 1-D."""

import math

import torch


def rotated(x, position, base=10000.0, yarn=None):
    """Turn the pair (2i, 2i + 1) by position * base ** (-2i / size), some of them less under YaRN."""
    out, length = [], max(1, 0.1 * math.log(yarn.factor) + 1) if yarn else 1
    for i in range(0, len(x), 2):
        angle = position * base ** (-i / len(x))
        if yarn:
            slow = slowed(i // 2, len(x), base, yarn)
            angle *= (1 - slow) + slow / yarn.factor
        c, s = length * math.cos(angle), length * math.sin(angle)
        out += [x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c]
    return torch.stack(out)


def slowed(pair, size, base, yarn):
    """The share of a pair's frequency that YaRN divides, by how often it turns in the training's context."""

    def turning(turns):  # the pair that turns so often, as a number with a fraction
        return size / 2 * math.log(yarn.context / (2 * math.pi * turns), base)

    first = max(0, math.floor(turning(yarn.beta_fast)))
    last = min(size - 1, math.ceil(turning(yarn.beta_slow)))
    return min(max((pair - first) / max(last - first, 0.001), 0), 1)


def softmax_mix(query, keys, values, lower=(), cap=None):
    """softmax(q k / sqrt(d) - lower) v over lists of keys and values; scores may be capped."""
    scores = torch.stack([query @ key for key in keys]) / math.sqrt(len(query))
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if lower:
        scores = scores - torch.stack(lower)
    return sum(share * value for share, value in zip(scores.softmax(0), values, strict=True))

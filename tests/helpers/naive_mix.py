"""Residual mixes and activations in `naive`, as plainly as possible; vectors are 1-D."""

import math

import torch


class Mix:
    """The residual mix of a stage of a row: the values so far, those of a block so far last."""

    def __init__(self, row, residual, start, sublayers):
        self.row, self.residual, self.sublayers = row, residual, sublayers
        self.values, self.partial = [start], []
        self.size = {"sublayers": 1, "blocks": sublayers}.get(residual.over, residual.over)

    def read(self, x, at, number):
        """What a sublayer reads where the state is x."""
        return x if number % self.residual.period else self.mixed(f"{at}.mix")

    def add(self, x, y, number):
        """The next state after an output y of a sublayer that read x."""
        x = [a + b for a, b in zip(x, y, strict=True)]
        output = [a + b for a, b in zip(*self.partial, y, strict=True)] if self.partial else y
        self.partial = [x if self.residual.of == "states" else output]
        if (number + 1) % self.size == 0 or number + 1 == self.sublayers:
            self.values, self.partial = self.values + self.partial, []
        return x

    def mixed(self, name):
        """For each token a sum of its values, by learned weights or a softmax, a head at a time."""
        size = self.row.width // self.residual.heads
        out = []
        for vectors in zip(*self.values, *self.partial, strict=True):
            parts = []
            for i in range(0, self.row.width, size):
                shares = self.shares(vectors, name, i, size)
                parts.append(sum(a * vector[i : i + size] for a, vector in zip(shares, vectors, strict=True)))
            out.append(torch.cat(parts))
        return out

    def shares(self, vectors, name, i, size):
        """The weight of each value of a token in the head that begins at element i."""
        weight = self.row.w[name]
        if self.residual.mix == "static":  # by distance, the latest first
            return weight[: len(vectors), i // size].flip(0)
        if self.residual.mix == "token":
            latest = vectors[-1] / torch.sqrt((vectors[-1] * vectors[-1]).mean() + 1e-6)
            hidden = activated("gelu", self.row.w[f"{name}_up"] @ latest)
            dynamic = (self.row.w[f"{name}_down"] @ hidden).view(weight.shape)
            return (weight + dynamic)[: len(vectors), i // size].flip(0)
        normed = [v / torch.sqrt((v * v).mean() + 1e-6) * weight for v in vectors]
        return torch.stack([vector[i : i + size].sum() for vector in normed]).softmax(0)


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

"""Residual streams from the equations of their papers, one token at a time.

A token's streams are the rows of a matrix h [streams, width]. Hyper-connections (arXiv 2409.19606, equations
5 and 10 to 13), mHC (arXiv 2512.24880, equations 7 to 9), Hyperloop (arXiv 2604.21254).
"""

import torch


def opened(x, option):
    return [torch.stack([vector] * option.streams) for vector in x]


def closed(x):
    return [h.sum(0) / len(h) for h in x]


class Connection:
    """What one sublayer, or step, has: `at` is the place of its weights."""

    def __init__(self, option, weights, at):
        self.option = option
        self.read, self.write, self.mix = (weights[f"{at}.{role}"] for role in ("read", "write", "mix"))
        if option.mix == "dynamic":
            self.projection, self.scales = weights[f"{at}.maps"], weights[f"{at}.scales"]

    def input(self, h):
        a, _, _ = self.maps(h)
        return sum(share * stream for share, stream in zip(a, h, strict=True))

    def output(self, h, y):
        _, b, mix = self.maps(h)
        rows = [sum(share * stream for share, stream in zip(row, h, strict=True)) for row in mix]
        return torch.stack([row + share * y for row, share in zip(rows, b, strict=True)])

    def maps(self, h):
        a, b, mix = self.logits(h)
        match self.option.constrain:
            case "doubly_stochastic":
                return torch.sigmoid(a), 2 * torch.sigmoid(b), sinkhorn(mix)
            case "diagonal":
                return torch.sigmoid(a), 2 * torch.sigmoid(b), torch.diag(torch.sigmoid(mix))
            case _:
                return a, b, mix

    def logits(self, h):
        if self.option.mix == "static":
            return self.read, self.write, self.mix
        n = len(h)
        if self.option.constrain == "none":
            normed = [stream / torch.sqrt((stream**2).mean() + 1e-6) for stream in h]
            results = [torch.tanh(self.projection @ stream) for stream in normed]
        else:
            every = torch.cat(list(h))
            results = (self.projection @ (every / torch.sqrt((every**2).mean() + 1e-6))).split(
                len(self.projection) // n
            )
        a = torch.stack([self.read[j] + self.scales[0] * results[j][0] for j in range(n)])
        b = torch.stack([self.write[j] + self.scales[1] * results[j][1] for j in range(n)])
        if self.option.constrain == "diagonal":
            mix = torch.stack([self.mix[j] + self.scales[2] * results[j][2] for j in range(n)])
        else:
            mix = torch.stack(
                [
                    torch.stack([self.mix[i, j] + self.scales[2] * results[j][2 + i] for j in range(n)])
                    for i in range(n)
                ]
            )
        return a, b, mix


def sinkhorn(logits):
    matrix = torch.exp(logits)
    for _ in range(20):
        matrix = matrix / matrix.sum(0)
        matrix = matrix / matrix.sum(1, keepdim=True)
    return matrix

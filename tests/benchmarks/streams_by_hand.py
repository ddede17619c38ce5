"""Residual streams as one would write them by hand: h is [batch, sequence, streams, width]."""

import torch
import torch.nn.functional as F


def opened(x, streams):
    return torch.stack([x] * streams, 2)


def closed(h):
    return h.mean(2)


class Connection:
    """How a sublayer, or a whole step, reads and writes the streams of all tokens."""

    def __init__(self, option, w, at, h):
        self.h, n = h, option.streams
        read, write, mix, maps, scales = (
            w[f"{at}.{role}"] for role in ("read", "write", "mix", "maps", "scales")
        )
        if option.constrain == "none":
            result = torch.tanh(F.linear(F.rms_norm(h, h.shape[-1:], None, 1e-6), maps))
        else:
            every = h.flatten(2)
            result = F.linear(F.rms_norm(every, every.shape[-1:], None, 1e-6), maps).unflatten(-1, (n, -1))
        self.a = read + scales[0] * result[..., 0]
        self.b = write + scales[1] * result[..., 1]
        self.diagonal = option.constrain == "diagonal"
        self.mix = mix + scales[2] * (result[..., 2] if self.diagonal else result[..., 2:].mT)
        if option.constrain != "none":
            self.a, self.b = self.a.sigmoid(), 2 * self.b.sigmoid()
            self.mix = self.mix.sigmoid() if self.diagonal else _sinkhorn(self.mix)

    def input(self):
        return (self.a.unsqueeze(-1) * self.h).sum(2)

    def output(self, y):
        mixed = self.mix.unsqueeze(-1) * self.h if self.diagonal else self.mix @ self.h
        return mixed + self.b.unsqueeze(-1) * y.unsqueeze(2)


def _sinkhorn(logits):
    matrix = logits.exp()
    for _ in range(20):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    return matrix

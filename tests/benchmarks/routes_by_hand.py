"""Steps that run on some of the tokens (Mixture-of-Recursions) as one would write them by hand.

`x` is [batch, sequence, width]. `take` returns the states of the tokens that run step n and their places
[batch, chosen]; `put` returns the states of all tokens after the step, which returned y for those.
"""

import math

import torch
import torch.nn.functional as F


def routing(stage, w, path, losses):
    """Return how a stage routes its tokens, None where all run all steps."""
    if stage.route.name == "none":
        return None
    if stage.route.by == "expert_choice":
        return ExpertChoice(stage.route, w[f"{path}.step.router"], losses)
    return TokenChoice(stage.route, w[f"{path}.router"], losses)


def rows(x, places):
    return x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class ExpertChoice:
    """Each step takes the tokens with the highest logits among those that ran the step before."""

    def __init__(self, route, router, losses):
        self.route, self.router, self.losses = route, router, losses
        self.places = None

    def take(self, x, n):
        steps, (batch, length, _) = len(self.router), x.shape
        before = torch.arange(length).expand(batch, -1) if self.places is None else self.places
        here = rows(x, before)
        logits = here @ self.router[n]
        chosen = logits.topk(math.ceil(length * (steps - n) / steps)).indices.sort().values
        wanted = torch.zeros_like(logits).scatter(1, chosen, 1.0)
        self.losses.append(self.route.loss * F.binary_cross_entropy_with_logits(logits, wanted))
        self.gates = self.route.scale * logits.gather(1, chosen).sigmoid()
        self.places = before.gather(1, chosen)
        return rows(here, chosen), self.places

    def put(self, x, y):
        return x.scatter_add(1, self.places.unsqueeze(-1).expand_as(y), self.gates.unsqueeze(-1) * y)


class TokenChoice:
    """Each token chooses its number of steps before the first one.

    Rows with fewer tokens that run a step than others are filled up by tokens that do not.
    """

    def __init__(self, route, router, losses):
        self.route, self.router, self.losses = route, router, losses

    def take(self, x, n):
        if n == 0:
            self.start = x
            chances = F.linear(x, self.router).softmax(-1)
            best, self.last = chances.max(-1)
            self.gates = self.route.scale * best
            shares = F.one_hot(self.last, len(self.router)).float().mean((0, 1))
            balance = len(self.router) * (shares * chances.mean((0, 1))).sum()
            self.losses.append(self.route.loss * balance)
        self.n, self.runs = n, self.last >= n
        self.places = self.runs.byte().argsort(dim=1, descending=True, stable=True)[
            :, : self.runs.sum(1).max()
        ]
        return rows(x, self.places), self.places

    def put(self, x, y):
        last, runs, gates = (
            each.gather(1, self.places).unsqueeze(-1) for each in (self.last, self.runs, self.gates)
        )
        y = torch.where(last == self.n, rows(self.start, self.places) + gates * y, y)
        y = torch.where(runs, y, rows(x, self.places))
        return x.scatter(1, self.places.unsqueeze(-1).expand_as(y), y)

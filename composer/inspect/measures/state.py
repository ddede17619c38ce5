"""How far the state and what it says move from step to step."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from composer.inspect.base.measure import Measure, Result, Tell
from composer.inspect.base.subject import Subject
from composer.inspect.base.views import Choice, Lines


def run(subject: Subject, tell: Tell) -> Result:
    """Compare the states before and after each step, and their logits."""
    states = subject.states
    norm = [root_mean_square(state) for state in states]
    pairs = [*pairwise(states)]
    turned = [cosine(before, after) for before, after in pairs]
    change = [
        root_mean_square(after.float() - before.float()) / max(root_mean_square(before), 1e-30)
        for before, after in pairs
    ]
    moved = [each.kl for each in subject.said if each.kl is not None]
    values = {"norm": norm, "cosine": turned, "change": change, "kl": moved}
    views = {
        "KL": Lines("KL between successive steps", "step", "nats", {"KL": _from_1(moved)}),
        "cosine": Lines("Cosine of successive states", "step", "cosine", {"cosine": _from_1(turned)}),
        "change": Lines(
            "Size of the change by a step", "step", "relative change", {"change": _from_1(change)}
        ),
        "norm": Lines("Size of the state", "steps done", "root mean square", {"norm": [*enumerate(norm)]}),
    }
    return Result(values, [Choice("Show", views)])


def root_mean_square(state: Tensor) -> float:
    """Return the root mean square over all elements of a state."""
    return state.double().square().mean().sqrt().item()


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean over tokens of the cosine of their states [batch, sequence, ...]."""
    return F.cosine_similarity(first.double().flatten(2), second.double().flatten(2), dim=-1).mean().item()


def _from_1(values: list[float]) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in enumerate(values, 1)]


MEASURE = Measure(
    "state",
    20,
    "State",
    "How the state moves",
    (
        "KL(p_t || p_(t-1)) in nats, where p_t is what the lens says after step t, as a mean over the "
        "scored targets: 0 means that a step changes no answer. The cosine is that of each token's "
        "state before and after a step, as a mean over all tokens; with several residual streams they "
        "count as one vector.",
        "The change is the root mean square of what a step adds to the state, divided by that of the "
        "state before it. The size is the root mean square of the state itself.",
    ),
    run,
)

"""Plain PyTorch for token-choice routing.

x: [batch, sequence, width]; numbers of steps and gates: [batch, sequence]; places: [batch, chosen], indices
in the flattened batch of the tokens that run a step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.kernels.past import Past
from blocks.primitives.reference import wide
from blocks.wiring.route.by.reference import running_first


def choose_steps(x: Tensor, router: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the number of steps with the highest logit for each token; router: [steps, width].

    Returns numbers from 1; gates, `scale` times the softmax probability of the chosen number; and the balance
    loss: steps * sum over numbers of the share of tokens that chose it * its mean probability.
    """
    # fp32 under any autocast dtype: a rounded logit can change the number
    with torch.autocast(x.device.type, enabled=False):
        chances = F.linear(wide(x), wide(router)).softmax(-1)
    numbers = most_likely(chances.detach())
    gates = scale * chances.gather(-1, numbers.unsqueeze(-1) - 1).squeeze(-1)
    steps = chances.shape[-1]
    shares = torch.stack([(numbers == number).float().mean() for number in range(1, steps + 1)])
    loss = steps * (shares.to(chances.dtype) * chances.flatten(0, -2).mean(0)).sum()
    return numbers, gates, loss


def most_likely(chances: Tensor) -> Tensor:
    """Return the number, from 1, with the highest probability of [.., steps]."""
    return chances.argmax(-1) + 1


def running_tokens(numbers: Tensor, index: int) -> Tensor:
    """Return the places of the tokens that run step `index`, in order.

    Sequences with fewer of them than others are padded at the end with other tokens.
    """
    length = numbers.shape[1]
    rows = torch.arange(0, numbers.numel(), length, device=numbers.device)
    return running_first(numbers > index) + rows[:, None]


def next_running_tokens(numbers: Tensor, past: Past, *, index: int, place: str, use: int) -> Tensor:
    """Do the same with new tokens, and record in the KV caches which of them run."""
    places = running_tokens(numbers, index)
    past.chosen(place, numbers > index, places)
    return places


def put_on(
    x: Tensor, start: Tensor, places: Tensor, numbers: Tensor, gates: Tensor, y: Tensor, index: int
) -> Tensor:
    """Return the states of all tokens after step `index`, which returned y [batch, chosen, width].

    The state is y for tokens that run the next step, start + gate * y for tokens that ran their last step,
    and x for others.
    """
    runs, ends = (numbers > index).unsqueeze(-1), (numbers == index + 1).unsqueeze(-1)
    base = torch.where(ends, start, x.masked_fill(runs, 0))
    factors = torch.where(ends, gates.unsqueeze(-1), runs.to(gates.dtype))
    chosen = places.flatten().unsqueeze(1)
    weighted = (y.flatten(0, 1) * factors.flatten(0, 1).gather(0, chosen)).to(x.dtype)
    # unlike index_add, it saves no rows for the backward pass
    return base.flatten(0, 1).scatter_add(0, chosen.expand_as(weighted), weighted).view(x.shape)

"""Plain PyTorch for early exit: exit probabilities, the expected loss, and each token's exit state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import product_dtype, project, wide
from blocks.wiring.loss.cross_entropy.reference import IGNORED


def exit_cross_entropy(
    states: Sequence[Tensor], targets: Tensor, weight: Tensor, gate: Tensor, bias: Tensor, entropy: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the expected loss minus `entropy` times the entropy of exits, the last step's loss, the entropy.

    All are means over the targets [batch, sequence] that are not -100. states: the normed state [batch,
    sequence, width] of each step; weight: [vocab, width]; gate: [1, width]; bias: [1].
    """
    # cast once for both products
    states = [state.to(product_dtype(state)) for state in states]
    scored = targets != IGNORED
    counted = scored.sum().clamp(min=1)
    losses = torch.stack([_losses(project(x, weight, weight.shape[:1]), targets) for x in states], -1)
    logs = log_exits(states, gate, bias)
    shares = logs.exp()
    expected = (shares * losses).sum() / counted
    spread = -(shares * logs * scored.unsqueeze(-1)).sum() / counted
    last = losses[..., -1].detach().sum() / counted
    return expected - entropy * spread, last, spread.detach()


def log_exits(states: Sequence[Tensor], gate: Tensor, bias: Tensor) -> Tensor:
    """Return the log-probabilities of exits [batch, sequence, steps]."""
    return _log_shares(torch.cat([F.linear(state, gate, bias) for state in states[:-1]], -1))


def _log_shares(logits: Tensor) -> Tensor:
    """Return the log-probabilities of exits [.., steps] from the gates' logits [.., steps - 1]."""
    logits = wide(logits)
    leaves, stays = F.logsigmoid(logits), F.logsigmoid(-logits).cumsum(-1)
    return torch.cat([leaves[..., :1], leaves[..., 1:] + stays[..., :-1], stays[..., -1:]], -1)


class ExitCollector:
    """Collects each token's state at the first step where its total exit probability reaches a threshold.

    Attributes:
        state: [batch, sequence, width]; that of the latest step for tokens that have not exited.
    """

    state: Tensor

    def __init__(self, gate: Tensor, bias: Tensor, threshold: float, steps: int) -> None:
        """gate: [1, width]; bias: [1]. All tokens exit at the last of the `steps`."""
        self.gate, self.bias, self.threshold, self.steps = gate, bias, threshold, steps
        self._logits: list[Tensor] = []
        self._left: Tensor | None = None  # [batch, sequence, 1]

    def add(self, state: Tensor) -> bool:
        """Add the normed state [batch, sequence, width] of the next step; return whether all have exited."""
        self.state = state if self._left is None else torch.where(self._left, self.state, state)
        if len(self._logits) == self.steps - 1:
            return True
        self._logits.append(F.linear(state, self.gate, self.bias))
        shares = _log_shares(torch.cat(self._logits, -1))[..., :-1].exp()
        reached = shares.sum(-1, keepdim=True) >= self.threshold
        self._left = reached if self._left is None else self._left | reached
        return bool(self._left.all())


def exit_state(states: Sequence[Tensor], gate: Tensor, bias: Tensor, threshold: float) -> Tensor:
    """Return each token's state at the first step where its total exit probability reaches `threshold`."""
    collector = ExitCollector(gate, bias, threshold, len(states))
    for state in states:
        if collector.add(state):
            break
    return collector.state


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    rows = wide(logits).flatten(0, 1)
    each = F.cross_entropy(rows, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return each.view_as(targets)

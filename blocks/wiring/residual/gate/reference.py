"""Plain PyTorch for gated residual sums.

`given` are the values a, b [batch, sequence, width], or with `logit` a, logit [.., 1], b; then the weights:
the gain of the norm if there is one, the numbers of the gate, and with `token` its projection [1, width].
"""

from __future__ import annotations

from torch import Tensor

from blocks.primitives import reference
from blocks.wiring.residual.gain import gain, token_gain
from blocks.wiring.residual.gate.operations import Gate


def gated_sum(*given: Tensor, gate: Gate) -> Tensor:
    """Return a + gate * b."""
    count = _values(gate)
    return given[0] + _update(given[:count], given[count:], gate)


def gated_add_norm(*given: Tensor, gate: Gate, narrow: bool, shared: bool) -> Tensor | tuple[Tensor, Tensor]:
    """Return the norm of a + gate * b, and the sum if `shared`; with `narrow` it is in the autocast dtype."""
    count = _values(gate)
    update = _update(given[:count], given[count + 1 :], gate)
    return reference.add_norm(given[0], update, given[count], narrow, shared)


def gated_add_before_norm(*given: Tensor, gate: Gate, narrow: bool, index: int, last: int) -> Tensor:
    """Return a + gate * b; `precomputed_norm` computes the norm."""
    count = _values(gate)
    return gated_sum(*given[:count], *given[count + 1 :], gate=gate)


def _values(gate: Gate) -> int:
    return 3 if gate == "logit" else 2


def _update(values: tuple[Tensor, ...], weights: tuple[Tensor, ...], gate: Gate) -> Tensor:
    if gate in ("scalar", "channel"):
        return gain(values[1], weights[0])
    logit = reference.project(values[0], weights[1], (1,)) if gate == "token" else values[1]
    return token_gain(logit, values[-1], weights[0])

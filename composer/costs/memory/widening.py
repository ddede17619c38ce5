"""The end of a backward pass under autocast: gradients of weights prepared before all operations are widened.

Their casts are the first nodes of autograd, so their backward functions are the last to run.
"""

from __future__ import annotations

from blocks.ir.graph import Loop
from blocks.ir.numbers import total
from composer.costs.memory.ledger import Ledger
from composer.costs.memory.memory_model import Body


def widen(body: Body, ledger: Ledger, where: str = "") -> None:
    """Replay the widening of the gradients of a body's weights, of the one prepared last first."""
    for step in reversed(body.steps):
        if isinstance(loop := step.operation, Loop):
            inner = body.inner[step.node]
            # all copies grow alike, so that the most bytes are alive at the last
            ledger.add("gradients", 0 if loop.tied else (loop.trips - 1) * _growth(inner))
            widen(inner, ledger, f"{where}{step.node}: ")
            continue
        for growth, before in reversed(step.last):
            ledger.add("gradients", growth)
            ledger.moment(("widening gradients of ", where, step.node), before)


def _growth(body: Body) -> float:
    """Return by how much the gradients of one copy of a body's weights grow."""
    own = total(growth for step in body.steps for growth, _ in step.last)
    return own + total((1 if each.tied else each.trips) * _growth(each) for each in body.inner.values())

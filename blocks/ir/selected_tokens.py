"""Operations on selected tokens of a sequence, as in Mixture-of-Depths, and their costs. Torch-free.

A `SelectsTokens` returns the indices of the selected tokens. Operations that read these indices, and the
readers of their outputs, run on the selected tokens only, until a `ScattersTokens` writes them back. Types
are the same for selected and all tokens; costs differ.

If each token decides how many steps it runs, FLOPs and traffic are those of the expected number of tokens,
and memory is that of all tokens, the upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

from blocks.ir.cost_wrapper import CostWrapper
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.operation import LoopIndex, Operation


def selected_count(tokens: int, share: float) -> int:
    """Return the number of tokens that a share of a sequence selects, at least one."""
    # a share without an exact binary form must not round up to one more
    count: int = ceil(tokens * share - 1e-6)
    return count


@dataclass(frozen=True)
class SelectsTokens(Operation):
    """Base class of operations that select tokens.

    Attributes:
        keep: the share of all tokens that each step runs on; the last one holds for all further steps.
        index: the step.
    """

    keep: tuple[float, ...]
    index: LoopIndex

    some: ClassVar[tuple[int, ...]] = (0,)
    """Positions of the outputs that contain the selected tokens only."""

    decides: ClassVar[str] = ""
    """`module:name` of the function that returns each token's number of steps, if tokens choose it; else "".

    `keep` then contains expected shares. Checks of costs replace the function.
    """

    def share(self, tokens: int) -> float:
        """Return the share of a sequence of `tokens` that the step `index.base` runs on."""
        return selected_count(tokens, self.keep[min(self.index.base, len(self.keep) - 1)]) / tokens

    def most(self, tokens: int) -> float:
        """Return the largest possible share."""
        return 1.0 if self.decides else self.share(tokens)


class ScattersTokens(Operation):
    """Base class of operations that read selected tokens and return all tokens."""


@dataclass(frozen=True)
class OnSelectedTokens(CostWrapper):
    """Costs of an operation on selected tokens, per token of the whole sequence."""

    selection: SelectsTokens

    def _at(self, at: CostContext, share: float) -> CostContext:
        return at._replace(context=round(share * at.context), sequence=at.context)

    def flops(self, at: CostContext) -> float:
        """Return the FLOPs of the expected share of tokens."""
        share = self.selection.share(at.context)
        return share * self.inner.flops(self._at(at, share))

    def backward_flops(self, at: CostContext) -> float:
        """Return the FLOPs of the expected share of tokens."""
        share = self.selection.share(at.context)
        return share * self.inner.backward_flops(self._at(at, share))

    def saved(self, at: CostContext) -> SavedTensors | None:
        """Return the operation's, with `extra` for the largest share of tokens."""
        share = self.selection.most(at.context)
        saved = self.inner.saved(self._at(at, share))
        return saved and saved._replace(extra=share * saved.extra)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Return the bytes of the expected share; `read` and `written` are for the largest share."""
        share, most = self.selection.share(at.context), self.selection.most(at.context)
        return share * self.inner.traffic(self._at(at, share), read / most, written / most)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Return the peak for the largest share; `flow` is per token of the whole sequence."""
        share = self.selection.most(at.context)
        needs = self.inner.workspace(self._at(at, share), IOBytes(*(each / share for each in flow)))
        forward, backward, weights, early = (share * each for each in (*needs[:3], needs.early))
        return needs._replace(forward=forward, backward=backward, weights=weights, early=early)

    def sequence_cache(self, at: CostContext) -> int:
        """Return the elements of the largest share."""
        share: Any = self.selection.most(at.context)
        elements: int = share * self.inner.sequence_cache(self._at(at, share))
        return elements

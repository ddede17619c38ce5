"""Operations on some tokens of a sequence: how many they are, and what that costs. Torch-free.

Where tokens decide for themselves, FLOPs and traffic are those of the expected number, and memory is that of
all tokens, the most there can be.

An operation that chooses tokens returns where they are. What reads that runs on the chosen tokens alone,
and so does what reads its outputs, until an operation puts them back among all. Types do not tell the two
apart; costs do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.counted import Counted
from blocks.ir.operation import LoopIndex, Operation


def chosen_of(tokens: int, share: float) -> int:
    """Return how many of the tokens of a sequence a share is, at least one."""
    # a share that is no binary number must not take one more
    count: int = ceil(tokens * share - 1e-6)
    return count


@dataclass(frozen=True)
class ChoosesTokens(Operation):
    """The base of operations that choose tokens: `keep` is the share of all at each step.

    The last share holds for all further steps.
    """

    keep: tuple[float, ...]
    index: LoopIndex

    some: ClassVar[tuple[int, ...]] = (0,)
    """The outputs that have the chosen tokens alone."""

    decides: ClassVar[str] = ""
    """Where tokens decide for themselves how many steps they run, the function that does: `module:name`.

    It returns a number of steps for each token; the checks of costs put another in its place. The shares
    are expected ones.
    """

    def share(self, tokens: int) -> float:
        """Return the share of a sequence of `tokens` that the step at the base of `index` runs on."""
        return chosen_of(tokens, self.keep[min(self.index.base, len(self.keep) - 1)]) / tokens

    def most(self, tokens: int) -> float:
        """Return the largest share that it can run on."""
        return 1.0 if self.decides else self.share(tokens)


class PutsBack(Operation):
    """The base of operations that read some of the tokens and return all."""


@dataclass(frozen=True)
class OnSome(Counted):
    """An operation on some of the tokens, with its costs per token of all."""

    chooses: ChoosesTokens

    def _at(self, at: CostContext, share: float) -> CostContext:
        return replace(at, context=round(share * at.context), sequence=at.context)

    def flops(self, at: CostContext) -> float:
        """Return the share of them."""
        share = self.chooses.share(at.context)
        return share * self.inner.flops(self._at(at, share))

    def backward_flops(self, at: CostContext) -> float:
        """Return the share of them."""
        share = self.chooses.share(at.context)
        return share * self.inner.backward_flops(self._at(at, share))

    def saved(self, at: CostContext) -> SavedTensors | None:
        """Return the same values, and the share of what nothing else sees."""
        share = self.chooses.most(at.context)
        saved = self.inner.saved(self._at(at, share))
        return saved and saved._replace(extra=share * saved.extra)

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Return the share of it; values are counted as the most there can be."""
        share, most = self.chooses.share(at.context), self.chooses.most(at.context)
        return share * self.inner.traffic(self._at(at, share), given / most, made / most)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Return the share of it; `flow` is that of the values, which are counted per token of all."""
        share = self.chooses.most(at.context)
        needs = self.inner.scratch(self._at(at, share), IOBytes(*(each / share for each in flow)))
        forward, backward, weights, early = (share * each for each in (*needs[:3], needs.early))
        return needs._replace(forward=forward, backward=backward, weights=weights, early=early)

    def sequence_cache(self, at: CostContext) -> int:
        """Return the share of it."""
        share: Any = self.chooses.most(at.context)
        found: int = share * self.inner.sequence_cache(self._at(at, share))
        return found

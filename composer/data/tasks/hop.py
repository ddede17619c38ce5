"""hop: k-hop induction, a task whose difficulty is the depth it needs (after Sanford et al. 2024).

A sequence is one token that names k, then symbols without equal neighbours. The target at a position is
found by going k times from the current symbol to the symbol after its previous occurrence; where there
is no previous occurrence on the way, and at the first token, nothing is scored. With k = 0 the target is
the current symbol itself.

Token ids: the symbols are 0 .. symbols - 1, and k is written as symbols + k.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from blocks.base.config import Problem
from blocks.base.fields import Count, Natural
from blocks.base.invalid import independent
from composer.data.base.config import DataConfig, ModelSize
from composer.data.base.split import Split

if TYPE_CHECKING:
    import numpy as np

    from composer.data.base.stream import Batch, Ints, Stream

_FEWEST_SEQUENCES = 4096


class Hop(DataConfig):
    """k-hop induction over a small alphabet, with endless fresh sequences; accuracy is reported per k."""

    other_names: ClassVar[Mapping[str, str]] = {
        "hops": "k max_hops max_k n_hops difficulty",
        "symbols": "alphabet alphabet_size n_symbols num_symbols",
        "task": "induction khop k_hop hops multi_hop induction_heads synthetic",
    }

    task: Literal["hop"] = "hop"
    length: Count = 48
    """Tokens per sequence, including the one that encodes k."""
    symbols: Annotated[Count, Field(ge=3)] = 4
    """Size of the alphabet; at least 3, because two symbols without equal neighbours can only alternate."""
    hops: Natural = 4
    """The largest k; each sequence has its own k, uniform in 0 .. hops."""

    @property
    def vocab_needed(self) -> int:
        """The symbols and one token for each k."""
        return self.symbols + self.hops + 1

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is its k."""
        return {k: f"k{k}" for k in range(self.hops + 1)}

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield also where no sequence has room for the hardest k, or where there are too few of them."""
        yield from independent(super().problems(model), self._too_short())

    def _too_short(self) -> Iterator[Problem]:
        # going k times takes k + 2 symbols at least: A B A has one hop, A B A B two
        if self.length < self.hops + 3:
            yield Problem(
                "length", f"at least hops + 3 ({self.hops + 3})", self.length, "raise length or lower hops"
            )
        # two symbols or more to choose from at each place: twelve places make 4096 sequences
        elif self.symbols * (self.symbols - 1) ** min(self.length - 2, 12) < _FEWEST_SEQUENCES:
            yield Problem(
                "length", f"room for {_FEWEST_SEQUENCES} different sequences", self.length, "raise length"
            )

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return HopStream(self, split, seed)


class HopStream:
    """Batches of hop; in eval every k has the same share of each batch."""

    def __init__(self, config: Hop, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is k."""
        import numpy as np

        from composer.data.base.stream import Batch, generator, sample

        config, rng = self.config, generator(self.split, self.seed, step)
        # the split is decided by the symbols alone, so no k shows train a sequence of eval
        symbols = sample(self.split, size, lambda n: self._symbols(rng, n))
        if self.split == "eval":
            k = (step * size + np.arange(size)) % (config.hops + 1)
        else:
            k = rng.integers(0, config.hops + 1, size)
        tokens = np.concatenate([config.symbols + k[:, None], symbols], axis=1)
        return Batch(tokens, hop_targets(symbols, k), k)

    def _symbols(self, rng: np.random.Generator, rows: int) -> Ints:
        """Draw [rows, length - 1] without equal neighbours: each is 1 .. symbols - 1 on from the last."""
        moves = rng.integers(1, self.config.symbols, (rows, self.config.length - 1))
        moves[:, 0] = rng.integers(0, self.config.symbols, rows)
        return moves.cumsum(axis=1) % self.config.symbols


def hop_targets(symbols: Ints, k: Ints) -> Ints:
    """Compute the targets [n, 1 + m] of symbol rows [n, m] without equal neighbours, for k [n] hops."""
    import numpy as np

    from composer.data.base.stream import IGNORED

    rows, count = symbols.shape
    nowhere = count
    # a stable sort puts each occurrence of a symbol right behind its previous one
    order = symbols.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(symbols, order, axis=1)
    after = np.where(ordered[:, 1:] == ordered[:, :-1], order[:, :-1] + 1, nowhere)
    jump = np.full((rows, count + 1), nowhere)
    np.put_along_axis(jump, order[:, 1:], after, axis=1)
    place = np.broadcast_to(np.arange(count), (rows, count))
    for hop in range(int(k.max(initial=0))):
        place = np.where(hop < k[:, None], np.take_along_axis(jump, place, axis=1), place)
    values = np.concatenate([symbols, np.full((rows, 1), IGNORED)], axis=1)
    scored = np.take_along_axis(values, place, axis=1)
    return np.concatenate([np.full((rows, 1), IGNORED), scored], axis=1)

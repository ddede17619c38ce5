"""The KV cache over steps: keys and values of all steps of a token, or fewer entries that steps share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Loop
from blocks.ir.walk import Place, operations
from composer.module.generation.decoding_graph import Next

Cache = Literal["full", "last_step"] | Mapping[str, int]
"""`full`, `last_step`, or `{"budget": k}`."""


class _Kept(NamedTuple):
    """An operation with a cache, its place, and the indices of its executions."""

    operation: Next
    path: str
    place: Place
    loops: tuple[Loop, ...]
    indices: Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class CachePolicy:
    """How many keys and values of a token are cached over the steps of the recurrent stages.

    Step i writes entry i modulo `budget` and reads the entries that earlier tokens wrote there last, as in
    Huginn's cache with a budget (arXiv 2502.05171). With a budget of 1 all steps read the last step of
    earlier tokens. Layers of stacks have their own entries.

    Attributes:
        budget: the number of entries; None for one entry per step.
    """

    budget: int | None = None

    def sharing(self, graph: Graph) -> Callable[[str, int], int]:
        """Return a function that maps a place and a use in a decoding graph to an entry.

        Raises:
            ValueError: an operation's steps cannot share entries.
        """
        if self.budget is None:
            return lambda _, use: use
        entries = {each.path: self._entries(each) for each in _keeping(graph)}
        return lambda place, use: entries[place][use] if place in entries else use

    def bytes_per_token(self, graph: Graph, context: int, size: int) -> int:
        """Return the bytes of cache per token for `context` tokens, at `size` bytes per element.

        Raises:
            ValueError: an operation's steps cannot share entries.
        """
        kept = sum(
            len({*self._entries(each).values()}) * _elements(each, context, size) for each in _keeping(graph)
        )
        return size * kept

    def _entries(self, kept: _Kept) -> dict[int, int]:
        """Return the entry of each use, by its number."""
        entries = {}
        for indices in kept.indices:
            use = step = layer = 0
            for loop, index in zip(kept.loops, indices, strict=True):
                use = use * loop.trips + index
                if loop.tied:
                    step = step * loop.trips + index
                else:
                    layer = layer * loop.trips + index
            assert self.budget is not None
            entries[use] = layer * self.budget + step % self.budget
        return entries


def as_policy(cache: Cache) -> CachePolicy:
    """Return the policy that the argument `cache` of `generate` names.

    Raises:
        ValueError: it names none.
    """
    match cache:
        case "full":
            return CachePolicy()
        case "last_step":
            return CachePolicy(1)
        case {"budget": int(budget)} if len(cache) == 1 and budget >= 1 and budget is not True:
            return CachePolicy(budget)
    raise ValueError(f"cache: expected full, last_step or {{'budget': a number from 1}}, got {cache!r}")


def _keeping(graph: Graph) -> Iterator[_Kept]:
    """Yield the operations in recurrent stages that have a cache."""
    for each in _executed(graph, Place(), (), [()]):
        if not _elements(each, 1, 4):
            continue
        inner, around = each.operation.operation, any(loop.tied for loop in each.loops)
        why = "runs on some of the tokens" if each.operation.chosen_by else inner.keeps_every_step
        if around and why:
            raise ValueError(
                f"cache: expected full, since a step cannot share what it keeps where {each.path} {why}"
            )
        yield each


def _elements(kept: _Kept, context: int, size: int) -> int:
    at = CostContext(context, kept.place.trips, compute_bytes=size)
    return kept.operation.operation.sequence_cache(at)


def _executed(
    graph: Graph, place: Place, loops: tuple[Loop, ...], indices: list[tuple[int, ...]]
) -> Iterator[_Kept]:
    """Yield the decoding operations of a graph and of the loops in it."""
    for name, operation, node in operations(graph):
        ran = indices
        if node.active is not None:
            steps = {*node.active.among(loops[-1].trips)}
            ran = [each for each in indices if each[-1] in steps]
        if isinstance(operation, Loop):
            inner = [(*each, n) for each in ran for n in range(operation.trips)]
            yield from _executed(operation.body, place.inside(name, operation), (*loops, operation), inner)
        elif isinstance(operation, Next):
            yield _Kept(operation, f"{place.path}{name}", place, loops, ran)

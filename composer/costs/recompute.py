"""Which operations run again in the backward pass so that training fits into memory, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from math import inf

import networkx as nx

from blocks.core.graph import Graph
from blocks.core.numbers import total
from blocks.core.operation import At
from composer.costs.kept import Kept, kept, saved_per_token
from composer.costs.precision import FULL, Precision
from composer.graph.passes.mark_recompute import mark_recompute, recomputable
from composer.graph.walk import Place, graphs, operations

Places = frozenset[str]
_FREE, _COSTLY, _USELESS = range(3)


def recompute_flops(graph: Graph, length: int, size: Precision = FULL, *, full_mask: bool = False) -> float:
    """Return the FLOPs per token of the operations that run again, at sequences of `length`."""
    return _flops(graph, Place(), kept(graph, Place(), length, size), length, full_mask)


def choose(
    graph: Graph, limit: float, measured: Callable[[Graph], float], tokens: int, length: int, size: Precision
) -> Graph:
    """Return the graph with those operations marked that bring it to a limit; none where it is there already.

    The cheapest bytes go first: those that no product has to run again for, the most of them first, then by
    bytes freed for each FLOP. A move is one operation, or one with all of its step that it is made from. It
    stops at the first set that suffices and takes back what that does not need. Where no set suffices, it is
    the one with the least total.

    Args:
        measured: gives the bytes that the limit is about.
        tokens: of the micro-batch they are for.
        length: tokens of a sequence.
        size: the precision that trains.
    """
    over = measured(graph) - limit
    if over <= 0:
        return graph
    prices = _Prices(graph, length, size)
    every = frozenset(recomputable(graph))
    if tokens * prices.freed(every) < over:
        # no peak falls by more than what is freed
        return mark_recompute(graph, prices.used(every))
    best, least = graph, limit + over
    for chosen in prices.cheapest_first():
        if tokens * prices.freed(chosen) < over:
            continue
        marked = mark_recompute(graph, chosen)
        found = measured(marked)
        if found < least:
            best, least = marked, found
        if found <= limit:
            return _needed(graph, chosen, prices, lambda marked: measured(marked) <= limit)
    return best


class _Prices:
    """What sets of marks free and cost, per token."""

    def __init__(self, graph: Graph, length: int, size: Precision) -> None:
        self.graph, self.length, self.size = graph, length, size
        self._known: dict[Places, tuple[float, float]] = {}
        self._unmarked = saved_per_token(graph, length, size)

    def freed(self, chosen: Places) -> float:
        """Return the bytes that need not be kept."""
        return self._of(chosen)[0]

    def flops(self, chosen: Places) -> float:
        """Return the FLOPs that run again."""
        return self._of(chosen)[1]

    def used(self, chosen: Places) -> Places:
        """Return those that really run again."""
        marked = mark_recompute(self.graph, chosen)
        return frozenset(_reruns(marked, kept(marked, Place(), self.length, self.size)))

    def cheapest_first(self) -> Iterator[Places]:
        """Yield growing sets of marks, each with the move that is the cheapest after the one before."""
        chosen: Places = frozenset()
        # products are asked for their price only where all else does not suffice
        queue = [
            ((_COSTLY if products else _FREE, -inf), number, move)
            for number, (move, products) in enumerate(_moves(self.graph))
        ]
        heapify(queue)
        asked: set[int] = set()  # whose prices are those of now; the others' may have changed
        while queue:
            price, number, move = heappop(queue)
            if move <= chosen:
                continue
            if number not in asked:
                asked.add(number)
                heappush(queue, (self._price(chosen, move), number, move))
                continue
            if price[0] == _USELESS:
                return
            chosen, asked = chosen | move, set()
            yield chosen

    def _price(self, chosen: Places, move: Places) -> tuple[int, float]:
        """Return what a move costs after others, the lower the better."""
        freed = self.freed(chosen | move) - self.freed(chosen)
        flops = self.flops(chosen | move) - self.flops(chosen)
        if freed <= 0:
            return (_USELESS, 0.0)
        return (_COSTLY, flops / freed) if flops > 0 else (_FREE, -freed)

    def _of(self, chosen: Places) -> tuple[float, float]:
        if chosen not in self._known:
            marked = mark_recompute(self.graph, chosen)
            freed = self._unmarked - saved_per_token(marked, self.length, self.size)
            self._known[chosen] = freed, recompute_flops(marked, self.length, self.size)
        return self._known[chosen]


def _moves(graph: Graph) -> Iterator[tuple[Places, bool]]:
    """Yield each operation that can be recomputed, alone and with all in its graph that it is made from.

    And whether there are products among them.
    """
    possible = set(recomputable(graph))
    for body, place in graphs(graph):
        path = "".join(f"{node}." for node, _ in place.loops)
        at = At(1, place.trips)
        products = {f"{path}{node}" for node, operation, _ in operations(body) if operation.flops(at) > 0}
        for node in body:
            if f"{path}{node}" in possible:
                alone = frozenset({f"{path}{node}"})
                whole = alone | {f"{path}{each}" for each in nx.ancestors(body, node)} & possible
                for move in {alone: 0, whole: 0}:
                    yield move, bool(move & products)


def _needed(graph: Graph, chosen: Places, prices: _Prices, fits: Callable[[Graph], bool]) -> Graph:
    """Return the graph with those of the marks that it takes to fit, the costliest taken back first."""
    alone = {place: prices.flops(chosen) - prices.flops(chosen - {place}) for place in sorted(chosen)}
    for place in sorted(chosen, key=lambda place: (-alone[place], place)):
        fewer = mark_recompute(graph, chosen - {place})
        if fits(fewer):
            chosen = chosen - {place}
    return mark_recompute(graph, chosen)


def _reruns(graph: Graph, here: Kept, path: str = "") -> Iterator[str]:
    yield from (f"{path}{node}" for node in here.reruns)
    for node, inner in here.loops.items():
        yield from _reruns(graph.nodes[node]["op"].body, inner, f"{path}{node}.")


def _flops(graph: Graph, place: Place, here: Kept, length: int, full_mask: bool) -> float:
    at = At(length, place.trips, full_mask=full_mask)
    found: float = total(graph.nodes[node]["op"].flops(at) for node in here.reruns) * place.executions
    for node, inner in here.loops.items():
        body = graph.nodes[node]["op"].body
        found = found + _flops(body, place.inside(node, graph.nodes[node]["op"]), inner, length, full_mask)
    return found

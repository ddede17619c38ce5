"""Chooses the operations to recompute in the backward pass so that training fits into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from heapq import heapify, heappop, heapreplace
from math import inf
from typing import NamedTuple

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Segment
from blocks.ir.numbers import total
from blocks.ir.walk import Place, graphs, graphs_of_passes, operations, passes
from composer.costs.base.budget import Budget, OutOfBudget
from composer.costs.base.budget import size as operations_of
from composer.costs.base.precision import FULL, Precision
from composer.costs.memory.lightest import lighter
from composer.costs.memory.saved_tensors import Kept, kept, saved_per_token, storage
from composer.graph.passes.active_steps import costed
from composer.graph.passes.mark_recompute import mark_recompute, recomputable

Places = frozenset[str]
_FREE, _COSTLY, _USELESS = range(3)
_BUDGET = 25_000
"""Maximum number of costed operations while a set is chosen; shipped specs take up to 8,000."""
_IMPROVING = 10_000
"""Of these, at most this many are spent on sets with fewer FLOPs than the first sufficient one."""
_PRUNING = 5_000
"""As many more are reserved for dropping marks that are not needed, once the others are spent."""


class Marked(NamedTuple):
    """A graph with its recomputed operations marked; `stopped`: the work done if the budget ended it."""

    graph: Graph
    stopped: int = 0


def recompute_flops(graph: Graph, length: int, size: Precision = FULL, *, full_mask: bool = False) -> float:
    """Return the FLOPs per token of recomputed operations for sequences of `length`."""
    flops: float = total(
        _flops(each, Place(), kept(each, Place(), length, size), length, full_mask)
        for each in passes(costed(graph, length))
    )
    return flops


def choose(
    graph: Graph, limit: float, measured: Callable[[Graph], float], tokens: int, length: int, size: Precision
) -> Marked:
    """Return the graph with operations marked so that its memory fits a limit; none if it fits already.

    Operations are added greedily: first those without matrix products, largest first, then by bytes freed per
    FLOP. A move is one operation, with all others needed to recompute it from saved tensors. Moves that raise
    the peak are skipped. The search stops at the first sufficient set and drops marks that it does not need.
    If none suffices, the result is the best set found, or all operations that free anything.

    The work is bounded, which `stopped` reports if it ended the search: marks that are not needed are then
    dropped by halves, without their prices, and a few may stay.

    Args:
        measured: returns the bytes to compare with the limit.
        tokens: tokens of the micro-batch.
        length: tokens of a sequence.
        size: the training precision.
    """
    least = measured(graph)
    if least <= limit:
        return Marked(graph)
    budget = Budget(max(_BUDGET, 4 * operations_of(graph)))
    prices = _Prices(graph, length, size, budget)
    every = prices.reruns(frozenset(prices.nodes))
    if tokens * prices.freed(every) < least - limit:
        # the peak falls by at most the bytes freed
        return Marked(mark_recompute(graph, every))

    def trial(chosen: Places) -> float:
        prices.budget.spend(prices.work)
        return measured(mark_recompute(graph, chosen))

    chosen = _fewest(prices, every, trial, limit, least)
    if budget.spent:
        prices.budget = Budget(max(_PRUNING, 8 * prices.work))
        chosen = _pruned(chosen, prices, trial, limit)
        return Marked(mark_recompute(graph, chosen), budget.total + prices.budget.total)
    return Marked(mark_recompute(graph, _fewer_flops(chosen, every, prices, trial, limit, budget)))


def _fewest(
    prices: _Prices, every: Places, trial: Callable[[Places], float], limit: float, least: float
) -> Places:
    """Return marks that bring the peak (`least` without any) within the limit, or the best found."""
    chosen, before = frozenset[str](), None
    try:
        lowest = trial(every)
        while chosen != before:
            # a move that raised the peak may lower it later, when the peak is elsewhere
            before, moves = chosen, _Moves(prices)
            while (move := moves.cheapest(chosen)) is not None:
                peak = trial(chosen | move)
                if peak <= least:
                    chosen, least = chosen | move, peak
                if peak <= limit:
                    return _needed(chosen, prices, trial, limit)
        return _needed(every, prices, trial, limit) if lowest < least else chosen
    except OutOfBudget:
        return every if lowest < least else chosen


def _fewer_flops(
    first: Places,
    every: Places,
    prices: _Prices,
    trial: Callable[[Places], float],
    limit: float,
    budget: Budget,
) -> Places:
    """Return sufficient marks with fewer FLOPs, or the given ones if the budget ends first."""
    if budget.left < 2 * prices.work or prices.flops(first) == 0 or trial(first) > limit:
        return first
    products = {place: flops for place, flops in prices.products().items() if place in every}
    reserved = 3 * len(every) * prices.work  # to take back what is not needed in the end
    stop = reserved + max(0, budget.left - _IMPROVING)
    best, flops = first, prices.flops(first)

    for free in dict.fromkeys((every.difference(products), first.difference(products))):

        def suffices(chosen: Places, free: Places = free) -> bool:
            if budget.left < stop:
                raise OutOfBudget
            return trial(chosen | free) <= limit

        with suppress(OutOfBudget):
            for chosen in lighter(products, suffices, flops):
                best, flops = chosen | free, sum(products[place] for place in chosen)
    if best != first:
        with suppress(OutOfBudget):
            best = _needed(best, prices, trial, limit)
            if prices.flops(best) < prices.flops(first) and not budget.spent:
                return best
    return first


class _Prices:
    """Bytes freed and FLOPs added by sets of marks, per token.

    Attributes:
        budget: what is charged for them.
        nodes: the operations that can be recomputed, with the path of their graph and their node.
        work: costed operations to price or measure one set.
    """

    def __init__(self, graph: Graph, length: int, size: Precision, budget: Budget) -> None:
        self.graph, self.length, self.size, self.budget = graph, length, size, budget
        self.work = operations_of(graph)
        self.bodies = {place.path: (body, place) for body, place in graphs(graph)}
        possible = set(recomputable(graph))
        self.nodes = {
            f"{path}{node}": (path, node)
            for path, (body, _) in self.bodies.items()
            for node in body
            if f"{path}{node}" in possible
        }
        self._known: dict[Places, tuple[float, float, dict[str, Kept]]] = {}
        self._unmarked = saved_per_token(graph, length, size)

    def freed(self, chosen: Places) -> float:
        """Return the bytes that need not be saved."""
        return self._of(chosen)[0]

    def flops(self, chosen: Places) -> float:
        """Return the recomputed FLOPs."""
        return self._of(chosen)[1]

    def reruns(self, chosen: Places) -> Places:
        """Return the operations that are actually recomputed."""
        bodies = self._of(chosen)[2]
        return frozenset(f"{path}{node}" for path, here in bodies.items() for node in here.reruns)

    def price(self, chosen: Places, move: Places) -> tuple[int, float]:
        """Return the price of a move after others; lower is better."""
        freed = self.freed(chosen | move) - self.freed(chosen)
        flops = self.flops(chosen | move) - self.flops(chosen)
        if freed <= 0:
            return (_USELESS, 0.0)
        return (_COSTLY, flops / freed) if flops > 0 else (_FREE, -freed)

    def multiplies(self, place: str) -> bool:
        """Return whether an operation has matrix products."""
        path, node = self.nodes[place]
        body, around = self.bodies[path]
        return body.node(node).op.flops(CostContext(1, around.trips)) > 0

    def products(self) -> dict[str, float]:
        """Return the FLOPs per token that recomputing each operation with matrix products would add."""
        flops_of: dict[str, float] = {}
        for body, place in graphs_of_passes(costed(self.graph, self.length)):
            at = CostContext(self.length, place.trips)
            for node, operation, _ in operations(body):
                name = f"{place.path}{node}"
                flops = operation.flops(at) * place.executions if name in self.nodes else 0
                if flops > 0:
                    flops_of[name] = flops_of.get(name, 0.0) + flops
        return flops_of

    def with_makers(self, place: str, chosen: Places) -> Places:
        """Return an operation with all others needed to recompute it from saved and chosen values."""
        path, node = self.nodes[place]
        body, kept_here = self.bodies[path][0], self._of(chosen)[2][path].values
        places, asked = {place}, [node]
        while asked:
            for value in body.node(asked.pop()).inputs:
                maker = f"{path}{value.node}"
                made = storage(body, value) in kept_here or maker in chosen | places
                if maker in self.nodes and not made:
                    places.add(maker)
                    asked.append(value.node)
        return frozenset(places)

    def _of(self, chosen: Places) -> tuple[float, float, dict[str, Kept]]:
        if chosen not in self._known:
            self.budget.spend(self.work)
            marked = costed(mark_recompute(self.graph, chosen), self.length)
            freed = self._unmarked - saved_per_token(marked, self.length, self.size)
            flops = 0.0
            by_path: dict[str, Kept] = {}
            for each in passes(marked):
                here = kept(each, Place(), self.length, self.size)
                flops = flops + _flops(each, Place(), here, self.length, False)
                for path, kept_here in _by_path(each, here, ""):
                    known = by_path.get(path, kept_here)
                    both = known.values | kept_here.values, known.reruns | kept_here.reruns
                    by_path[path] = kept_here._replace(values=both[0], reruns=both[1])
            self._known[chosen] = freed, flops, by_path
        return self._known[chosen]


class _Moves:
    """The next operations that can be marked, cheapest first."""

    def __init__(self, prices: _Prices) -> None:
        self._prices = prices
        self._chosen: Places = frozenset()
        self._asked: set[str] = set()  # whose price is that of now; others' may have changed since
        # products are asked for their price only where all else does not suffice
        self._queue = [
            ((_COSTLY if prices.multiplies(place) else _FREE, -inf), order, place)
            for order, place in enumerate(prices.nodes)
        ]
        heapify(self._queue)

    def cheapest(self, chosen: Places) -> Places | None:
        """Return the cheapest move after the chosen ones; None if no move frees anything."""
        if chosen != self._chosen:
            self._chosen, self._asked = chosen, set()
        while self._queue:
            price, order, place = self._queue[0]
            if place in chosen:
                heappop(self._queue)
            elif place not in self._asked:
                self._asked.add(place)
                move = self._prices.with_makers(place, chosen)
                heapreplace(self._queue, (self._prices.price(chosen, move), order, place))
            elif price[0] == _USELESS:
                return None
            else:
                heappop(self._queue)
                return self._prices.with_makers(place, chosen)
        return None


def _needed(chosen: Places, prices: _Prices, trial: Callable[[Places], float], limit: float) -> Places:
    """Return the marks needed to fit, dropping the most expensive ones first."""
    try:
        alone = {place: prices.flops(chosen) - prices.flops(chosen - {place}) for place in chosen}
        order = sorted(chosen, key=lambda place: (-alone[place], place))
        before = None
        while chosen != before:
            # without one mark, others may become unnecessary
            before = chosen
            for place in order:
                fewer = chosen - {place}
                if fewer != chosen and trial(fewer) <= limit:
                    chosen = fewer
    except OutOfBudget:
        pass
    return chosen


def _pruned(chosen: Places, prices: _Prices, trial: Callable[[Places], float], limit: float) -> Places:
    """Return fewer marks that fit, with no more FLOPs: halves are dropped, halves of these and so on."""
    with suppress(OutOfBudget):
        if trial(chosen) > limit:
            return chosen
        products = prices.products()
        order = sorted(chosen, key=lambda place: (-products.get(place, 0), place))
        groups = deque([order])
        while groups:
            group = groups.popleft()
            fewer = chosen.difference(group)
            if trial(fewer) <= limit and prices.flops(fewer) <= prices.flops(chosen):
                chosen = fewer
            elif len(group) > 1:
                middle = len(group) // 2
                groups.extend((group[:middle], group[middle:]))
    return chosen


def _by_path(graph: Graph, here: Kept, path: str) -> Iterator[tuple[str, Kept]]:
    """Yield what each graph saves with its path; segments of one loop have the same path."""
    yield path, here
    for node, inner in here.loops.items():
        loop = graph.loop(node)
        origin = loop.origin if isinstance(loop, Segment) else node
        yield from _by_path(loop.body, inner, f"{path}{origin}.")


def _flops(graph: Graph, place: Place, here: Kept, length: int, full_mask: bool) -> float:
    at = CostContext(length, place.trips, full_mask=full_mask)
    flops: float = total(graph.node(node).op.flops(at) for node in here.reruns) * place.executions
    for node, inner in here.loops.items():
        loop = graph.loop(node)
        flops = flops + _flops(loop.body, place.inside(node, loop), inner, length, full_mask)
    return flops

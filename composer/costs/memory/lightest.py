"""Branch and bound for the lightest sufficient set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

Names = frozenset[str]


def lighter(weights: Mapping[str, float], suffices: Callable[[Names], bool], below: float) -> Iterator[Names]:
    """Yield sufficient sets, each lighter than `below` and than the sets before it; the last is the lightest.

    It is the lightest if a set suffices wherever one of its subsets does; every set yielded suffices anyway.

    Args:
        weights: of all names, positive.
        suffices: whether a set of names does; asked once for each branch.
        below: the weight that sets must stay under.
    """
    order = sorted(weights, key=lambda name: (-weights[name], name))
    if not suffices(frozenset(order)):
        return
    branches = [(0, frozenset[str](), 0.0)]
    while branches:
        decided, taken, weight = branches.pop()
        if weight >= below:
            continue
        if decided == len(order):
            below = weight
            yield taken
            continue
        name, rest = order[decided], order[decided + 1 :]
        branches.append((decided + 1, taken | {name}, weight + weights[name]))
        if suffices(taken.union(rest)):
            # the branch without the name goes first: a light set soon cuts off many others
            branches.append((decided + 1, taken, weight))

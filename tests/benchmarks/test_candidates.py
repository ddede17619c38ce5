"""How many candidates a second are resolved and costed on one core, the slow way and the fast one."""

import random
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from samples import FULL

from composer.costs.counting.count import count_graph
from composer.costs.tracing.traced_cost import Coster, measures
from composer.graph.compile import compile_graph
from composer.language.schema.template import split
from composer.language.space import draw, load_space

SPACE = Path(__file__).parents[2] / "specs/space.yaml"
SLOW, FAST = (500, 20_000) if FULL else (20, 200)


class Clock:
    """Seconds by part."""

    def __init__(self):
        self.spent = {}

    @contextmanager
    def part(self, name):
        begin = time.process_time()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - begin

    def line(self, title, number):
        total = sum(self.spent.values())
        parts = ", ".join(f"{name} {1e6 * each / number:.0f} us" for name, each in self.spent.items())
        return f"\n{title}: {number / total:.0f} candidates/s ({parts})"


@pytest.mark.benchmark
def test_candidates_per_second(capsys):
    space, coster = load_space(SPACE), Coster()
    slow, fast, numbers = Clock(), Clock(), random.Random(0)
    for _ in range(SLOW):
        with slow.part("resolve and check"):
            point = space.point(lambda parameter: draw(parameter, numbers))
        with slow.part("compile"):
            graph = compile_graph(point.spec)
        with slow.part("count"):
            costs = count_graph(point.spec, graph)
        # structures are met and traced here, so that they take no part of the time below
        for _ in range(2):
            assert coster(
                space.tree(lambda parameter, point=point: point.params[parameter.name])[1]
            ) == measures(costs)
    for _ in range(FAST):
        with fast.part("resolve"):
            _, tree = space.tree(lambda parameter: draw(parameter, numbers))
        with fast.part("cost"):
            coster(tree)
    with capsys.disabled():
        print(slow.line("slow", SLOW), fast.line("fast", FAST))
        begin = time.process_time()
        for _ in range(FAST):
            split(tree)
        print(f"of the cost, {1e6 * (time.process_time() - begin) / FAST:.0f} us tell structure from numbers")

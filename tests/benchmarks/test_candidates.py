"""How many candidates a second are resolved, built as graphs and costed, on one core."""

import random
import time
from pathlib import Path

import pytest

from composer.costs.count import count
from composer.graph.build import build
from composer.graph.compile import compile_graph
from composer.spec.space import draw, load_space

SPACE = Path(__file__).parents[2] / "specs/space.yaml"
SECONDS = 2.0


@pytest.mark.benchmark
def test_candidates_per_second(capsys):
    space, answers = load_space(SPACE), random.Random(0)
    spent = {"resolve": 0.0, "build": 0.0, "compile": 0.0, "cost": 0.0}
    number = 0
    while sum(spent.values()) < SECONDS:
        marks = [time.perf_counter()]
        spec = space.point(lambda knob: draw(knob, answers)).spec
        marks.append(time.perf_counter())
        build(spec)
        marks.append(time.perf_counter())
        graph = compile_graph(spec)
        marks.append(time.perf_counter())
        assert count(spec, graph).params > 0
        marks.append(time.perf_counter())
        for name, begin, end in zip(spent, marks, marks[1:], strict=False):
            spent[name] += end - begin
        number += 1
    # building is a part of compiling, timed once more to tell it from the passes
    total = sum(spent.values()) - spent["build"]
    with capsys.disabled():
        print(f"\n{number / total:.0f} candidates/s resolved, compiled to graphs and costed, on one core")
        for name, seconds in spent.items():
            print(f"  {name:8}{1e3 * seconds / number:6.2f} ms")

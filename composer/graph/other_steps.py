"""Graphs of a spec for numbers of steps other than those of evaluation."""

from __future__ import annotations

from blocks.ir.graph import Graph
from blocks.ir.walk import graphs, own_weights
from composer.graph.passes.lowered import lowered
from composer.language.schema.spec import Spec
from composer.language.schema.steps import path_of, step_mix, with_steps
from composer.settings.errors import SpecError


def training_graphs(spec: Spec) -> list[tuple[float, Graph]]:
    """Return the graphs that training runs, without kernels, each with its share of training.

    Empty where training runs the numbers of steps of evaluation.

    Raises:
        SpecError: the stages cannot run some of these numbers.
    """
    mix = step_mix(spec)
    if not mix[0][1]:
        return []
    evaluated = lowered(spec)
    found = []
    for share, numbers in mix:
        told = " and ".join(f"{place} with {n}" for place, n in numbers.items())
        try:
            graph = lowered(with_steps(spec, numbers))
            check_weights(evaluated, graph)
        except ValueError as error:
            path = (*path_of(next(iter(numbers))), "recur", "train")
            raise SpecError(
                [spec.fault(path, "numbers of steps that the stage can run", told, str(error))]
            ) from None
        found.append((share, graph))
    return found


def check_weights(evaluated: Graph, graph: Graph) -> None:
    """Check that a graph for another number of steps has the same weights.

    Raises:
        ValueError: it has not, since some weights are made for each step.
    """
    before, after = _owned(evaluated), _owned(graph)
    for name in before | after:
        if before.get(name) != after.get(name):
            raise ValueError(f"{name}: it holds something for each step, so the number of steps is fixed")


def _owned(graph: Graph) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return the shape and number of copies of every weight; copies are not listed, stacks may be deep."""
    return {
        ".".join([*(loop for loop, _ in place.loops), name]): (weight.shape, used.copies)
        for each, place in graphs(graph)
        for name, weight, used in own_weights(each, place)
    }

"""Graphs of a spec for numbers of steps other than those of evaluation."""

from __future__ import annotations

from blocks.ir.graph import Graph
from blocks.ir.walk import graphs, own_weights
from blocks.wiring.loss import Loss
from composer.graph.lowering.build import build
from composer.graph.passes.lowered import lowered, numbered
from composer.language.schema.row_steps import RowSteps
from composer.language.schema.spec import Spec
from composer.language.schema.steps import (
    Numbers,
    all_stages,
    path_of,
    recurrent_place,
    step_mix,
    with_steps,
)
from composer.settings.errors import SpecError


def training_graphs(spec: Spec) -> list[tuple[float, Graph]]:
    """Return the graphs that training runs, without kernels, each with its share of training.

    Empty where training makes one pass with the numbers of steps of evaluation.

    Raises:
        SpecError: the stages cannot run some of these numbers.
    """
    mix = step_mix(spec)
    evaluated = _with_second(spec) if spec.model.option(Loss).second_steps else None
    if not mix[0][1]:
        return [(1.0, evaluated)] if evaluated else []
    evaluated = evaluated or lowered(spec)
    graphs = []
    for share, numbers in mix:
        steps_text = " and ".join(f"{place} with {n}" for place, n in numbers.items())
        try:
            graph = lowered(with_steps(spec, numbers))
            check_weights(evaluated, graph)
        except ValueError as error:
            path = (*path_of(next(iter(numbers))), "recur", "train")
            raise SpecError(
                [spec.fault(path, "numbers of steps that the stage can run", steps_text, str(error))]
            ) from None
        graphs.append((share, graph))
    _check_rows(spec, mix[-1][1], graphs[-1][1])
    return graphs


def _check_rows(spec: Spec, numbers: Numbers, graph: Graph) -> None:
    """Check that rows can run different numbers of steps, in the graph of the largest ones."""
    for place, most in numbers.items():
        if isinstance(most, RowSteps):
            from composer.graph.passes.row_steps import check_rows

            longer = lowered(with_steps(spec, {**numbers, place: RowSteps(most + 1)}))
            try:
                check_rows(graph, longer, place)
            except ValueError as error:
                fault = spec.fault(
                    (*path_of(place), "recur", "per"), "batch in this stage", "sequence", str(error)
                )
                raise SpecError([fault]) from None


def second_pass(spec: Spec, handed: int) -> Graph | None:
    """Return the graph of the second pass over a batch, before any pass over it; None where there is none.

    There is none where the first pass, which hands it so many values, runs no more steps.
    """
    loss = spec.model.option(Loss)
    if not loss.second_steps:
        return None
    place, steps = recurrent_place(spec), getattr(loss, loss.second_steps)
    if all_stages(spec.stages)[place].trips <= steps:
        return None
    return build(with_steps(spec, {place: steps}), handed)


def check_weights(evaluated: Graph, graph: Graph) -> None:
    """Check that a graph for another number of steps has the same weights.

    Raises:
        ValueError: it has not, since some weights are made for each step.
    """
    before, after = _owned(evaluated), _owned(graph)
    for name in before | after:
        if before.get(name) != after.get(name):
            raise ValueError(f"{name}: this weight has a part for each step, so the number of steps is fixed")


def _owned(graph: Graph) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return the shape and number of copies of every weight; copies are not listed, stacks may be deep."""
    return {
        ".".join([*(loop for loop, _ in place.loops), name]): (weight.shape, used.copies)
        for each, place in graphs(graph)
        for name, weight, used in own_weights(each, place)
    }


def _with_second(spec: Spec) -> Graph:
    loss = spec.model.option(Loss)
    graph = lowered(spec)
    try:
        second = second_pass(spec, graph.handed)
        if second is not None:
            graph.second = numbered(second)
            check_weights(graph, graph.second)
    except ValueError as error:
        path = ("model", Loss.key, loss.second_steps)
        steps = getattr(loss, loss.second_steps)
        raise SpecError(
            [spec.fault(path, "a number of steps that the stage can run", steps, str(error))]
        ) from None
    return graph

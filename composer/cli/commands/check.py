"""`composer check`: is this spec, or space, valid, and within its caps?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from composer.cli.terminal.options import Set, SpecFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from composer.costs.counting.count import Costs
    from composer.language.schema.search import SearchConfig
    from composer.language.schema.spec import Spec
    from composer.settings.tree import Node

PANEL = "Specs"
EXAMPLE = "composer check specs/dreamer-tiny.yaml --set stages.0.recur=4"
CHECKS = "composer.checks"
"""Entry points of functions that take a space and raise SpecError where it cannot be searched."""


def check(file: SpecFile, settings: Set = None) -> None:
    """Check a spec or a space, and say in a line what it describes.

    All faults of a file are reported at once, each with its place. A spec above one of its caps is
    refused. Of a space every alternative is checked, one whole point, and what a search would refuse
    before its first trial.
    """
    from composer.language.load import is_space, read_tree, resolve_spec

    tree = read_tree(file, settings or ())
    print(space_summary(tree) if is_space(tree) else spec_summary(resolve_spec(tree)))


def spec_summary(spec: Spec) -> str:
    """Check the caps of a spec, and summarize it in a line or two.

    Raises:
        SpecError: a cap is exceeded.
    """
    from composer.costs.base.units import count_text
    from composer.costs.fitting.caps import check_caps, warnings
    from composer.language.description.causality import expected_costs, not_causal
    from composer.language.description.format_spec import stage_words
    from composer.language.schema.identity import arch_hash

    costs = check_caps(spec)
    remarks = (*not_causal(spec), *expected_costs(spec), *warnings(spec, costs))
    notes = "".join(f"\nnote: {each}" for each in remarks)
    stages = "; then ".join(map(stage_words, spec.stages))
    flops = costs.flops_per_token.forward
    size = f"{count_text(costs.params)} parameters, {count_text(flops)} FLOPs per token"
    trained = "".join(f"\n{line}" for line in trained_lines(costs))
    return f"{spec.name} is valid: {stages}\n{size}, arch {arch_hash(spec)}{trained}{notes}"


def trained_lines(costs: Costs) -> Iterator[str]:
    """Yield a line for each stage that runs other numbers of steps in training."""
    for place, steps in costs.trained_steps.items():
        numbers = f"{steps.expected:.4g} steps in the mean, {steps.least} to {steps.most}"
        yield f"training runs {place} for {numbers}"


def space_summary(tree: Node) -> str:
    """Summarize a space in a line or two."""
    from blocks.base.entry_points import entry_points
    from composer.language.description.format_spec import stage_words
    from composer.language.schema.identity import arch_hash
    from composer.language.space import Space

    space = Space(tree)
    for check_space in entry_points(CHECKS):
        check_space.load()(space)
    point = space.example()
    parameters = "1 parameter" if len(space.parameters) == 1 else f"{len(space.parameters)} parameters"
    goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in space.search.objectives)
    return (
        f"{space.name} is a valid space of {parameters}: {goals}, {_budget(space.search)}\n"
        f"one of its points: {stage_words(point.spec.stages[0])}, arch {arch_hash(point.spec)}"
    )


def _budget(config: SearchConfig) -> str:
    from composer.costs.base.units import count_text, duration

    limits = [
        f"{config.trials} trials" if config.trials else "",
        f"{count_text(config.tokens)} tokens" if config.tokens else "",
        f"{count_text(config.flops)} FLOPs" if config.flops else "",
        duration(config.time_limit) if config.time_limit else "",
    ]
    return ", ".join(filter(None, limits))

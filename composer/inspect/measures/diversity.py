"""Expert-selection diversity: how many different experts a token uses over depth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from composer.inspect.base.measure import Measure, Result, Tell
from composer.inspect.base.routing import (
    Routing,
    distinct,
    distinct_by_chance,
    entropy,
    loads,
    overlap,
    routings,
    same_by_chance,
)
from composer.inspect.base.subject import Subject
from composer.inspect.base.views import Note, Rows, View


def run(subject: Subject, tell: Tell) -> Result:
    """Compare each token's choices over all steps with chance and with an untied mixture."""
    values: dict[str, Any] = {}
    views: list[View] = []
    for routing in routings(subject):
        numbers = diversity(routing)
        values[routing.name] = numbers
        views += _views(routing, numbers)
    return Result(values, views)


def diversity(routing: Routing) -> dict[str, float]:
    """Return the figures of the definition that the page shows."""
    chosen, steps, active = routing.chosen, len(routing.chosen), routing.active
    effective = entropy(loads(chosen, routing.experts)).exp().mean().item()
    own = routing.pool / steps
    numbers = {
        "steps": steps,
        "active": active,
        "experts at a step": routing.experts,
        "experts in all": routing.pool,
        "effective experts at a step": effective,
        "of an untied mixture, at most": own,
        "times an untied mixture": effective / own,
    }
    if not routing.tied:
        return numbers
    most, chance = min(routing.experts, steps * active), distinct_by_chance(routing.experts, active, steps)
    mean = distinct(chosen, routing.experts)
    numbers |= {
        "distinct over depth": mean,
        "distinct by chance": chance,
        "distinct at most": most,
        "times chance": mean / chance,
        "times always the same": mean / active,
    }
    if steps > 1:
        pairs = [*pairwise(chosen)]
        same = [
            (one.sort(-1).values == two.sort(-1).values).all(-1).double().mean().item() for one, two in pairs
        ]
        numbers |= {
            "same set as the step before": sum(same) / len(same),
            "same set by chance": same_by_chance(routing.experts, active),
            "overlap with the step before": sum(overlap(one, two) for one, two in pairs) / len(pairs),
            "overlap by chance": active / routing.experts,
        }
    return numbers


def _views(routing: Routing, numbers: dict[str, float]) -> list[View]:
    untied = [
        "effective experts at a step",
        f"{numbers['effective experts at a step']:.1f}",
        f"{numbers['times an untied mixture']:.2f} times the {numbers['of an untied mixture, at most']:.1f} "
        "that an untied mixture has at most",
    ]
    head = [routing.name, "measured", "compared with"]
    if not routing.tied:
        return [
            Note(
                "Layers have experts of their own: a token has other experts at each layer, whatever it "
                "chooses. How many it may choose from at a layer is what depth recurrence changes."
            ),
            Rows(head, [untied], words=(0, 2)),
        ]
    rows = [
        [
            "distinct experts of a token over depth",
            f"{numbers['distinct over depth']:.2f}",
            f"{numbers['times chance']:.2f} times the {numbers['distinct by chance']:.2f} of chance; "
            f"{numbers['active']} to {numbers['distinct at most']} are possible",
        ],
        untied,
    ]
    if "same set as the step before" in numbers:
        shares = {
            "same experts as at the step before": ("same set as the step before", "same set by chance"),
            "experts shared with the step before": ("overlap with the step before", "overlap by chance"),
        }
        rows += [
            [title, f"{100 * numbers[name]:.1f} %", f"{100 * numbers[chance]:.3g} % by chance"]
            for title, (name, chance) in shares.items()
        ]
    return [Rows(head, rows, words=(0, 2))]


MEASURE = Measure(
    "diversity",
    50,
    "Diversity",
    "How diverse expert selection is across depth",
    (
        "Distinct experts over depth: how many different experts a token uses at all steps together, as "
        "a mean over tokens. Experts with the same weights count once. Chance is the expectation if "
        "each of T steps drew k of E experts evenly: E (1 - (1 - k / E)^T). A token that always chooses "
        "the same has k.",
        "Effective experts at a step: the exponential of the entropy of the load at one step, as a mean "
        "over steps. In an untied mixture with as many experts in all, each layer has E / T of its own, "
        "so it is at most E / T there; the ratio says how many times as many take part at one depth.",
        "The Dreamer paper (arXiv 2601.21582) reports expert selection 2 to 11 times more diverse "
        "across depth than in ordinary mixtures. Its definition is not public, so these ratios need not "
        "be its own.",
    ),
    run,
)

"""The lens: what the model would say after each step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from composer.inspect.base.measure import Measure, Result, Tell
from composer.inspect.base.score import ALL, Score, Targets, share
from composer.inspect.base.subject import Subject
from composer.inspect.base.views import Choice, Lines, Rows, View


def run(subject: Subject, tell: Tell) -> Result:
    """Score the logits after each step."""
    targets = subject.targets
    scores = [each.score for each in subject.said]
    flips = [flip(before, after, targets) for before, after in pairwise(scores)]
    groups = [*scores[0].loss]
    values: dict[str, Any] = {
        "steps": subject.step_names,
        **{
            name: {group: [getattr(each, name)[group] for each in scores] for group in groups}
            for name in _TITLES
        },
        "gained": [gained for gained, _ in flips],
        "lost": [lost for _, lost in flips],
    }
    return Result(values, [*_views(values, groups), _flips(subject, flips)])


_TITLES = {
    "accuracy": ("Accuracy after each step", "accuracy", True),
    "loss": ("Loss after each step", "nats", False),
    "rank": ("Rank of the right token after each step", "mean rank", False),
}


def _views(values: Mapping[str, Any], groups: list[str]) -> list[View]:
    made: dict[str, View] = {}
    for name, (title, y, shares) in _TITLES.items():
        curves = values[name]
        series = {group: [*enumerate(curves[group])] for group in groups}
        made[name] = Lines(title, "steps done", y, series, share=shares)
    return [Choice("Show", made)]


def _flips(subject: Subject, flips: list[tuple[float, float]]) -> View:
    rows = [
        [f"{before} to {after}", f"{100 * gained:.1f} %", f"{100 * lost:.1f} %"]
        for before, after, (gained, lost) in zip(
            subject.step_names, subject.step_names[1:], flips, strict=False
        )
    ]
    return Rows(["step", "wrong to right", "right to wrong"], rows)


def flip(before: Score, after: Score, targets: Targets) -> tuple[float, float]:
    """Return the shares of the targets that become right, and that become wrong."""
    every = targets.masks()[ALL]
    return share(~before.right & after.right & every, every), share(
        before.right & ~after.right & every, every
    )


MEASURE = Measure(
    "lens",
    10,
    "Lens",
    "What the model would say after each step",
    (
        "The state after step t takes the place of the state after the last step; what follows the "
        "stage, such as the final norm and the head, runs as always. At the last step this is the model "
        "itself. The state before the first step is called `in`, or 0.",
        "Loss is the mean cross-entropy in nats over all scored targets, accuracy the share at which "
        "the likeliest token is the target, rank the mean place of the target among all tokens by their "
        "logits, 1 at best. The table counts answers that flip from one step to the next, as shares of "
        "all targets. Curves other than `all` are of the sequences of one difficulty, as the task names it: "
        "in hop, `k3` stands for three hops.",
    ),
    run,
)

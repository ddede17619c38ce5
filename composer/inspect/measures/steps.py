"""Quality against the number of steps, from half to four times the trained number."""

from __future__ import annotations

from composer.inspect.base.left_out import LeftOut
from composer.inspect.base.measure import Measure, Result, Tell
from composer.inspect.base.score import Score, score
from composer.inspect.base.subject import Subject
from composer.inspect.base.views import Choice, Lines, View

_FACTORS = (0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)


def run(subject: Subject, tell: Tell) -> Result:
    """Score the model with other numbers of steps."""
    if not subject.recurrent:
        raise LeftOut("No stage is recurrent: each layer has weights of its own, so their number is fixed.")
    numbers = sorted({max(1, round(factor * subject.steps)) for factor in _FACTORS})
    scores: list[Score] = []
    for done, number in enumerate(numbers, 1):
        try:
            logits = subject.run({subject.stage: number})
        except ValueError as error:
            raise LeftOut(f"Other numbers of steps cannot run: {error}.") from None
        scores.append(score(logits, subject.targets))
        tell(done, len(numbers))
    groups = [*scores[0].loss]
    values = {
        "trained": subject.steps,
        "steps": numbers,
        "accuracy": {group: [each.accuracy[group] for each in scores] for group in groups},
        "loss": {group: [each.loss[group] for each in scores] for group in groups},
    }
    views: dict[str, View] = {
        name: Lines(
            f"{name.capitalize()} against steps",
            f"steps of {subject.stage}",
            unit,
            {
                group: [
                    (float(n), getattr(each, name)[group]) for n, each in zip(numbers, scores, strict=True)
                ]
                for group in groups
            },
            marked=(float(subject.steps), "trained"),
            share=name == "accuracy",
        )
        for name, unit in (("accuracy", "accuracy"), ("loss", "nats"))
    }
    return Result(values, [Choice("Show", views)])


MEASURE = Measure(
    "steps",
    70,
    "Steps",
    "Quality with fewer and more steps than trained",
    (
        "The recurrent stage with the most steps runs for half to four times its trained number, with "
        "the same weights, as `composer eval --steps` does. Scores are as in the lens, whose step t is "
        "a model that stops after t steps; the two differ where something depends on the number of "
        "steps in all.",
    ),
    run,
)

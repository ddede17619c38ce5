"""Sections on what can be concluded and how reliably: parameters, rungs, the course of the search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from html import escape

from composer.costs.base.units import count_text, duration
from composer.language.schema.search import FlopRungs
from composer.page.markup import choice, figure, table, warn
from search.progress.words import moved_text, parameter_names, plural
from search.report import facts, figures, rows
from search.report.markup import link
from search.report.read import Source
from search.report.stats import FEWEST, Effects

LITTLE = 0.2
"""Cross-validated share of explained variance below which effects are called hints."""


def parameters(source: Source) -> str:
    """The effect of each parameter, and its uncertainty."""
    names = parameter_names(source.records())
    goals = source.state.goals.names
    by_goal = {goal: each for goal in goals if (each := facts.parameter_effects(source, goal)) is not None}
    if not by_goal:
        return (
            '<p class="soft">Too few trials, or all with equal results: no conclusions about single '
            f"parameters. It takes {FEWEST} trials that reached the first milestone.</p>"
        )
    where = facts.stages(source)[0]
    parts = (
        f'<div class="alternative" data-name="{escape(goal)}">{_effects(goal, where, each, names)}</div>'
        for goal, each in by_goal.items()
    )
    return choice("objective", list(by_goal)) + "".join(parts)


def _effects(goal: str, where: str, effects: Effects, names: list[str]) -> str:
    predicted = f"{100 * max(0, effects.explained):.0f} % of the variance of trials left out"
    doubt = warn("This model explains little; treat the effects below as hints, not as findings.")
    return (
        f"<p>Effects on {escape(goal)} at {escape(where)}, over the {effects.trials} trials that reached it. "
        f"An additive model of the parameters predicts {predicted}.</p>"
        f"{doubt if effects.explained < LITTLE else ''}"
        "<h3>Importance</h3><p class='soft'>The share of the variance between trials that each parameter "
        "accounts for, with 90 % intervals. The orange line is the 95th percentile over shuffled results; a "
        "grey bar is below it, so not significant.</p>"
        f"{figure(partial(rows.importance, effects, goal, names))}"
        "<h3>Effect</h3><p class='soft'>The change of the mean by each value, other parameters held equal, "
        "with 90 % intervals; in brackets the number of trials. A parameter that belongs to a branch is "
        "compared within that branch. Hollow points belong to parameters that are not significant.</p>"
        f"{figure(partial(rows.effect, effects, goal, names))}"
    )


def rungs(source: Source) -> str:
    """The agreement of rungs, with a warning if they disagree."""
    pairs = list(facts.pairs(source))
    if not pairs:
        return '<p class="soft">No objective is measured by training, so rungs have nothing to rank.</p>'
    if all(pair.trials < facts.FEW for pair in pairs):
        most = max(pair.trials for pair in pairs)
        return (
            '<p class="soft">Too few runs reached two milestones to compare their rankings: '
            f"{most} so far, and it takes {facts.FEW}.</p>"
        )
    doubts = "".join(
        warn(f"{pair.first} and {pair.second} ({pair.metric}): {pair.doubt}.") for pair in pairs if pair.doubt
    )
    intro = (
        "<p>A rung is useful if those ahead there are ahead at the end. Kendall's tau is 1 for the same "
        "order and 0 for unrelated orders. Only runs that continued can be compared; they are better "
        "and more alike, so tau tends to be lower than it would be over all trials."
    )
    if any(pair.trials == facts.LATEST for pair in pairs):
        intro += f" Of more than {facts.LATEST} runs, the latest {facts.LATEST} are compared."
    state = source.state
    spared = "".join(
        warn(f"{text[0].upper()}{text[1:]}.")
        for text in (moved_text(state, rung) for rung in sorted(state.ledger.digest.spared))
    )
    return f"{intro}</p>{spared}" + figure(partial(rows.rungs, pairs)) + doubts


_OUTCOMES = {
    "feasible": "new and within the caps; trained",
    "repeat": "a known spec; answered from the records",
    "over": "over a cap; refused before training",
    "invalid": "not a valid spec",
}


def history(source: Source) -> str:
    """Proposals, spending and crashes."""
    parts = [_spent(source), _proposed(source)]
    if source.proposals and source.proposals[1:]:
        parts.append(figure(partial(figures.history, source.proposals)))
    over = Counter(cap for proposal in source.proposals or () for cap in proposal.over)
    if over:
        most = ", ".join(f"{cap} {count} times" for cap, count in over.most_common())
        parts.append(f"<p>Caps exceeded by proposals: {escape(most)}.</p>")
    crashed = [record for record in source.state.ledger.every() if record.status == "crashed"]
    if crashed:
        items = "".join(f"<li>{link(source, record)}: {escape(record.reason)}</li>" for record in crashed)
        parts.append(f"<h3>Crashes</h3><ul>{items}</ul>")
    return "".join(parts)


def _spent(source: Source) -> str:
    state = source.state
    own = [record for record in state.ledger if not record.imported]
    known = [source.specs[record.identity][1] for record in own if record.identity in source.specs]
    full = sum(spec.train.tokens for spec in known if spec.train is not None)
    spent, time = sum(record.read for record in own), sum(record.seconds for record in own)
    trials = sum(record.role == "trial" for record in own)
    who = plural(trials, "trial")
    who += " and the baselines" if any(record.role == "baseline" for record in own) else ""
    text = f"{who} read {count_text(spent)} training tokens in {duration(time)}" + (
        f"; trained in full they would have read {count_text(full)}." if spent else "."
    )
    finals = state.ledger.finals()
    if finals:
        more, time = sum(record.read for record in finals), sum(record.seconds for record in finals)
        text += f" {plural(len(finals), 'run')} of finals read {count_text(more)} more in {duration(time)}."
    budgets = ", ".join(map(str, state.accounts())) if source.asked else ""
    text += f" Budgets used: {budgets}." if budgets else ""
    return f"<p>{text}</p>{_imported(source)}"


def _imported(source: Source) -> str:
    counts = Counter(record.imported for record in source.state.ledger if record.imported)
    items = (f"{count} from <code>{escape(folder)}</code>" for folder, count in counts.items())
    text = ", ".join(items)
    return f"<p>Runs imported from other searches: {text}.</p>" if text else ""


def _proposed(source: Source) -> str:
    state = source.state
    proposals = sum(state.outcomes.values())
    if not proposals:
        return '<p class="soft">No journal was found, so the proposals are not known.</p>'
    drawn, trials = state.drawn, sum(not record.imported for record in state.ledger.trials())
    each = f", {drawn.costed / trials:.1f} for each trial trained" if trials else ""
    intro = (
        f"<p>Candidates costed: {drawn.costed}{each}. Of the sampler's own {drawn.own} drafts "
        f"{100 * drawn.share:.0f} % were over a cap or invalid.</p>"
    )
    shown = [
        [f"<span class='key {name}'></span>{name}", str(count), f"{100 * count / proposals:.0f} %", words]
        for name, words in _OUTCOMES.items()
        if (count := state.outcomes[name])
    ]
    return intro + table(["proposals", "how many", "share", ""], shown, words=(0, 3))


def _finals(source: Source) -> Iterator[str]:
    if not source.standings:
        return
    state = source.state
    order = f"Finalists are the trials with the best {state.goals.primary}."
    if len(state.goals.names) > 1:
        order = (
            f"Finalists are taken by front, and on a front by {state.goals.primary}; a trial within a tenth "
            "of the front's range of another one in all other objectives comes after the rest of that front."
        )
    trials = any(at.base.role == "trial" for at in source.standings)
    baselines = any(at.base.role == "baseline" for at in source.standings)
    who = " and ".join(["the finalists"] * trials + ["every baseline"] * baselines)
    yield (
        f"Finals: {who} are trained again, first at multiples of their own learning rates with the search's "
        f"seed if there is a sweep, then with fresh seeds at the best of these rates. {order}"
    )
    yield (
        "p-values are of an exact two-sided permutation test on the difference of two means. They are not "
        "corrected for the number of comparisons. With three seeds each p is at least 0.10."
    )


def method(source: Source) -> str:
    """How to read all this."""
    config = source.state.config
    *rungs, _ = facts.stages(source)
    unit = "" if isinstance(config.rungs, FlopRungs) else " tokens"
    halving = (
        f"rungs at {', '.join(rungs)}{unit} at which the best {100 * config.keep:g} % continue, decided when "
        "a trial arrives"
        if rungs
        else "no rungs"
    )
    seed = "" if source.seed is None else f", {source.seed}"
    lines = (
        f"Sampler {config.sampler}; {halving}.",
        f"The search trained each spec with one seed{seed}. Small differences between candidates may be "
        "noise of training, which one seed cannot show.",
        *_finals(source),
        "The Pareto front holds the runs trained in full that no other one dominates.",
        "Importance and effects: an additive model of all parameters, fitted by ridge regression with the "
        "penalty chosen by leave-one-out cross-validation. Intervals are from 300 bootstrap samples of the "
        "trials, the orange line from 300 shuffles of the results. Interactions are not modelled.",
        "Rank correlation: Kendall's tau-b, with intervals from 300 bootstrap samples.",
    )
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"

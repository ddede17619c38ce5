"""The head of the page: the objectives and a summary of the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from html import escape

from composer.costs.base.units import count_text, duration
from composer.costs.matching.residuals import percent
from composer.measures.registry import MAIN
from search.progress.covered import most_at_once
from search.progress.words import STATUS, mean_text, titled
from search.report.read import Source
from search.store.ledger import Record


def header(source: Source, now: datetime) -> str:
    """Return the head of the page: the objectives and a summary of the results."""
    state = source.state
    goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in state.goals.objectives)
    running = sum(record.status == "running" for record in state.ledger.every())
    tokens = sum(record.read for record in state.ledger.every() if not record.imported)
    cards = [*_headline(source), _trials(source), ("Spent", f"{count_text(tokens)} tokens", _spent(source))]
    cards_html = "".join(_card(*card) for card in cards)
    when = now.strftime("%Y-%m-%d %H:%M")
    going = ' <strong class="live">still running</strong>' if running else ""
    return (
        f'<header><p class="over">composer search</p><h1>{escape(source.name)}</h1>'
        f'<p class="lead">{escape(goals)}{going}. <span class="soft">As of {when}, in '
        f"<code>{escape(str(source.folder))}</code></span></p>"
        f'<div class="cards">{cards_html}</div></header>'
    )


def _trials(source: Source) -> tuple[str, str, str]:
    """Return the number of trials, of how many, and how they ended."""
    state = source.state
    own = [record for record in state.ledger.trials() if not record.imported]
    came = len(state.ledger.trials()) - len(own)
    total, ends = state.config.trials, Counter(record.status for record in state.ledger.trials())
    of = f" of {total}" if source.asked and total is not None and total > len(own) else ""
    known = [f"{count} {STATUS[status]}" for status in STATUS if (count := ends[status])]
    text = ", ".join(known) or "none has begun"
    finals, due = len(state.ledger.finals()), state.finals().count() if source.asked else 0
    text += f"; {came} imported" if came else ""
    if finals:
        text += f"; {finals}" + (f" of {due}" if due > finals else "") + " runs of finals"
    return "Trials", f"{len(own)}{of}", text


def _spent(source: Source) -> str:
    """Return the budgets, the training time, and the wall-clock time if records have it."""
    budgets = [str(account) for account in source.state.accounts()] if source.asked else []
    return "; ".join([*budgets, _time(source)])


def _time(source: Source) -> str:
    records = [record for record in source.state.ledger.every() if not record.imported]
    kinds = ["baselines"] * source.state.has_baselines() + ["finals"] * bool(source.state.ledger.finals())
    more = f", {' and '.join(kinds)} included" if kinds else ""
    text = f"{duration(source.state.spent())} of training{more}"
    workers = most_at_once(span for record in records for span in record.spans)
    begun = [record.started for record in records if record.started]
    ended = [record.ended for record in records if record.ended]
    if not begun or not ended:
        return text
    many = f", at most {workers} runs at once" if workers > 1 else ""
    return f"{text}{many}; {duration(max(ended) - min(begun))} by the clock from first to last"


def _card(name: str, big: str, small: str) -> str:
    # keep a mean and its spread on one line
    whole = escape(big).replace(" ± ", "&nbsp;±&nbsp;")
    return f'<div class="card"><h3>{escape(name)}</h3><p class="big">{whole}</p><p>{escape(small)}</p></div>'


def _headline(source: Source) -> Iterator[tuple[str, str, str]]:
    state, verdicts = source.state, source.verdicts
    winner, rival = verdicts.winner, verdicts.rival
    if winner is None:
        running = any(record.status == "running" for record in state.ledger.every())
        yield "Winner", "none yet" if running else "none", "no trial was trained in full"
        return
    known = verdicts.results(winner)
    first = known[state.goals.first_measured]
    others = [each for each in known if each is not first]
    seeds = f"mean of {len(first.seeds)} fresh seeds" if len(first.seeds) > 1 else ""
    rate = f"at lr x{first.lr:g}" if first.lr != 1 else ""
    also = [f"{each.metric} {mean_text(each.metric, each.value, each.spread)}" for each in others]
    parts = [titled(state, winner), seeds, rate, *also]
    big = f"{first.metric} {mean_text(first.metric, first.value, first.spread)}"
    yield "Winner", big, ", ".join(part for part in parts if part)
    if rival is None:
        if state.has_baselines():
            yield "Against baselines", "no comparison yet", "no baseline was trained in full"
        return
    yield "Against the best baseline", *_against(source, winner, rival)


def _against(source: Source, winner: Record, rival: Record) -> tuple[str, str]:
    """Return the winner's gain over the best baseline, its costs, and the p-value of the difference.

    If the first measured objective does not differ, the gain is the first objective with a lower cost.
    """
    comparisons = source.verdicts.final()
    first = comparisons[source.state.goals.first_measured]
    costs = [name for name in MAIN if rival.costs.get(name) and name in winner.costs]
    saved = [each.one.metric for each in comparisons if each.verdict == "cost" and each.better > 0]
    if first.verdict == "not significant" and saved and saved[0] in costs:
        big = f"{_change(winner, rival, saved[0])} {saved[0]}"
        text = f"{first.one.metric} {first.size} than {rival.name} ({first.other.text})"
        costs.remove(saved[0])
    else:
        big, text = first.size, f"than {rival.name} in {first.other.metric} ({first.other.text})"
    trade = ", ".join(f"{name} {_change(winner, rival, name)}" for name in costs)
    text += f", with {trade}." if trade else "."
    text += f" {first.doubt[:1].upper()}{first.doubt[1:]}." if first.doubt else ""
    return big, text + (f" Note: {source.verdicts.uneven}." if source.verdicts.uneven else "")


def _change(winner: Record, rival: Record, cost: str) -> str:
    return percent(100 * (winner.costs[cost] / rival.costs[cost] - 1))

"""The head of the page: what was searched for, and what came of it in short."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from html import escape

from composer.costs.residuals import percent
from composer.costs.units import count_text, duration
from search.ledger import Record
from search.report.read import Source
from search.words import titled, value_text


def header(source: Source, now: datetime) -> str:
    """Write the head of the page: what was searched for, and what came of it in short."""
    state = source.state
    goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in state.goals.objectives)
    done, total = state.done(), len(state.ledger.trials())
    full = sum(record.status == "finished" for record in done)
    running = sum(record.status == "running" for record in state.ledger)
    tokens = sum(record.tokens for record in state.ledger)
    cards = [*_headline(source)]
    cards.append(
        (
            "Trials",
            str(total),
            f"{full} trained in full, "
            f"{sum(record.status == 'stopped' for record in done)} stopped at a rung, "
            f"{sum(record.status == 'crashed' for record in done)} crashed"
            + (f", {running} running" if running else ""),
        )
    )
    cards.append(("Spent", f"{count_text(tokens)} tokens", _time(source)))
    told = "".join(_card(*card) for card in cards)
    when = now.strftime("%Y-%m-%d %H:%M")
    going = ' <strong class="live">still running</strong>' if running else ""
    return (
        f'<header><p class="over">composer search</p><h1>{escape(source.name)}</h1>'
        f'<p class="lead">{escape(goals)}{going}. <span class="soft">As of {when}, in '
        f"<code>{escape(str(source.folder))}</code></span></p>"
        f'<div class="cards">{told}</div></header>'
    )


def _time(source: Source) -> str:
    """Tell the time of training, and by the clock where records know it."""
    records = source.records()
    told = f"{duration(source.state.spent())} of training, baselines included"
    workers = len({record.worker for record in records if record.worker})
    begun = [record.started for record in records if record.started]
    ended = [record.ended for record in records if record.ended]
    if not begun or not ended:
        return told
    many = f" with {workers} workers" if workers > 1 else ""
    return f"{told}{many}; {duration(max(ended) - min(begun))} by the clock from first to last"


def _card(name: str, big: str, small: str) -> str:
    return (
        f'<div class="card"><h3>{escape(name)}</h3><p class="big">{escape(big)}</p>'
        f"<p>{escape(small)}</p></div>"
    )


def _headline(source: Source) -> Iterator[tuple[str, str, str]]:
    state = source.state
    winner, rivals = source.winner, source.rivals
    first = state.goals.names[0]
    if winner is None or winner.values is None:
        yield "Winner", "none yet", "no trial was trained in full"
        return
    yield "Winner", f"{first} {value_text(first, winner.values[0])}", _also(source, winner)
    if not rivals:
        yield "Against baselines", "nothing to compare", "no baseline was trained in full"
        return
    best = rivals[0]
    assert best.values is not None
    difference = state.goals.ascending(winner.values)[0] - state.goals.ascending(best.values)[0]
    word = "better" if difference > 0 else "worse" if difference < 0 else "equal"
    size = f"{value_text(first, abs(difference))} {word}" if difference else "equal"
    trade = ", ".join(
        f"{name} {percent(100 * (winner.costs[name] / best.costs[name] - 1))}"
        for name in ("flops_per_token", "params")
        if best.costs.get(name) and name in winner.costs
    )
    yield (
        "Against the best baseline",
        size,
        f"than {best.name} in {first} ({value_text(first, best.values[0])}), at {trade}. "
        "One seed each: how much of the difference is chance is not known.",
    )


def _also(source: Source, record: Record) -> str:
    assert record.values is not None
    names = source.state.goals.names
    others = [
        f"{name} {value_text(name, value)}" for name, value in zip(names[1:], record.values[1:], strict=True)
    ]
    return f"{titled(source.state, record)}" + (f", {', '.join(others)}" if others else "")

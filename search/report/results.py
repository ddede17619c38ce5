"""Sections on the results: the front, curves, costs, the winner, baselines, all trials."""

from __future__ import annotations

from functools import partial
from html import escape

from composer.costs.base.units import amount, count_text
from composer.measures.registry import MAIN, MEASURES
from composer.page.markup import alternatives, legend, table
from search.progress.leaderboard import ranked
from search.progress.words import by_name, mean_text, parameter_names, shorts, titled, value_text, values_text
from search.report import facts, figures, lineage
from search.report.finals import against
from search.report.markup import answer, answers, bar, cell, link, number, residual
from search.report.read import Source
from search.store.ledger import Record


def front(source: Source) -> str:
    """Everything measured, and the front."""
    names = facts.axes(source)
    first = source.state.goals.names[0]
    if not any(facts.value_of(source, record, first) is not None for record in source.records()):
        return '<p class="soft">Nothing was measured yet.</p>'
    charts = {name: partial(figures.front, source, name) for name in names}
    marks = _kinds(source, "stopped at a rung, at its last value")
    if _again(source):
        marks.append(("mean", "mean and standard deviation over fresh seeds"))
        marks.append(("before", "from the search to this mean"))
    intro = (
        f"<p>Results in {escape(first)} against the other objectives and costs. Select a point, by pointer "
        "or keyboard, to see its spec, its costs and the command that continues its training. A ring marks "
        "the winner.</p>"
    )
    if source.winner is not None:
        intro += f"<p>{escape(winner_text(source))}</p>"
    if source.knee is not None:
        intro += (
            f"<p>The knee of the front is {escape(titled(source.state, source.knee))}: the point farthest "
            "beyond the straight line that joins the ends of the front, each objective scaled to the range "
            "of the front.</p>"
        )
    if _again(source):
        intro += "<p>The points and the front are results of the search, with one seed each.</p>"
    return intro + legend(*marks) + alternatives("across", charts) + _front_table(source)


def _kinds(source: Source, stopped: str) -> list[tuple[str, str]]:
    """Return the marks that occur, with their meanings."""
    known = {
        "front": "on the front",
        "finished": "trained in full",
        "stopped": stopped,
        "baseline": "baseline",
    }
    there = {kind for record in source.records() for kind in facts.kind(source, record).split()}
    return [(kind, words) for kind, words in known.items() if kind in there]


def _front_table(source: Source) -> str:
    state, rows = source.state, []
    for record in source.front:
        values = [value_text(name, value) for name, value in by_name(state, record).items()]
        costs = [amount(name, record.costs[name]) for name in _other_costs(source)]
        name = link(source, record) + _marks(source, record)
        rows.append([name, *map(escape, [*values, *costs, answers(record)])])
    if not rows:
        return '<p class="soft">No run was trained in full yet, so there is no front.</p>'
    head = ["on the front", *state.goals.names, *_other_costs(source), "search parameters"]
    return table(head, rows, words=(0, len(head) - 1), stacked=True)


def winner_text(source: Source) -> str:
    """Return which trial is the winner, and by which rule."""
    assert source.winner is not None
    return f"The winner is {titled(source.state, source.winner)}: {source.verdicts.rule}."


def _marks(source: Source, record: Record) -> str:
    words = [("winner", source.winner), ("knee", source.knee)]
    return "".join(f" <em>{word}</em>" for word, of in words if record is of)


def _again(source: Source) -> bool:
    return any(at.runs for at in source.standings)


def _other_costs(source: Source) -> list[str]:
    known = [name for name in MAIN if all(name in record.costs for record in source.records())]
    return [name for name in known if name not in source.state.goals.names]


def curves(source: Source) -> str:
    """Learning curves with the rungs."""
    charts = {
        facts.metric_title(name): partial(figures.curves, source, name) for name in facts.metrics(source)
    }
    marks = legend(*_kinds(source, "stopped"))
    rungs = " Dotted lines are rungs, at which weak trials stop." if source.state.config.marks else ""
    left = " Finals are left out." if source.standings else ""
    intro = f"<p>Measured as training goes.{rungs}{left}</p>"
    return intro + marks + alternatives("metric", charts)


def caps(source: Source) -> str:
    """Costs against caps."""
    shown = _compared(source)
    head = ["", *source.caps]
    rows = []
    for record in shown:
        cells = [link(source, record)]
        for cap, limit in source.caps.items():
            value = record.costs.get(cap)
            cells.append("" if value is None else bar(amount(cap, value), value / limit))
        rows.append(cells)
    limits = ", ".join(f"{cap} {amount(cap, limit)}" for cap, limit in source.caps.items())
    return f"<p>Hard caps: {escape(limits)}.</p>" + table(head, rows, words=tuple(range(len(head))))


def _compared(source: Source) -> list[Record]:
    """Return the front, then the baselines not on it."""
    front = source.front
    rest = [record for record in source.records() if record.role == "baseline" and record not in front]
    return [*front, *rest]


def lineage_of(source: Source) -> str:
    """The lineage of the winner."""
    winner = source.winner
    assert winner is not None
    steps = list(lineage.steps(source.state, winner))
    rows = "".join(
        f"<li>{link(source, step.record)} <span class='soft'>{escape(values_text(source.state, step.record))}"
        f"</span><br>{escape(step.words)}</li>"
        for step in steps
    )
    intro = (
        "<p>The changes that the sampler made, from the first ancestor to the winner.</p>"
        if winner.origin
        else "<p>This sampler names no moves. Listed are the trials that were the best so far in "
        f"{escape(source.state.goals.primary)}, each with its changes from the one before.</p>"
    )
    return f"{intro}<ol class='lineage'>{rows}</ol>"


def baselines(source: Source) -> str:
    """Baselines, a column each, with the residuals of their costs."""
    state, winner = source.state, source.winner
    names = [name for name in MEASURES if any(name in record.costs for record in source.records())]
    baselines = [record for record in source.records() if record.role == "baseline"]
    shown = [*([winner] if winner else []), *baselines]
    rows = []
    for i, goal in enumerate(state.goals.objectives):
        if not goal.is_cost:
            results = [known[i] if (known := source.verdicts.results(each)) else None for each in shown]
            rows.append(
                [escape(goal.metric), *(mean_text(e.metric, e.value, e.spread) if e else "" for e in results)]
            )
            rows.append(["against the winner", *(against(source, record, i) for record in shown)])
    rows += [[escape(name), *(residual(source, record, name) for record in shown)] for name in names]
    head = ["", *(titled(state, record) + ", the winner" * (record is winner) for record in shown)]
    note = "<p>The costs of each baseline.</p>"
    if winner is not None:
        note = (
            "<p>What the winner and each baseline cost; in brackets the difference from the winner's cost. A "
            "comparison is fair in a cost whose difference is small.</p>"
        )
    return note + table(head, rows, words=(0,)) + _matched(source, baselines)


def _matched(source: Source, baselines: list[Record]) -> str:
    """Return how baselines were changed to match the caps."""
    items = []
    for record in baselines:
        moves = ", ".join(map(str, record.origin.get("moves", ())))
        reached = ", ".join(map(str, record.origin.get("matched", ())))
        if moves or reached:
            text = escape(moves or "nothing changed") + (f"; {escape(reached)}" if reached else "")
            items.append(f"<li>{link(source, record)}: {text}</li>")
    note = "<h3>Matched to the caps</h3><p class='soft'>The sizes changed so that they cost as much.</p>"
    return f"{note}<ul>{''.join(items)}</ul>" if items else ""


def trials(source: Source) -> str:
    """A table of all trials that can be sorted."""
    state = source.state
    parameters = parameter_names(source.records())
    costs = [name for name in MEASURES if name not in state.goals.names and name in _known_costs(source)]
    called = shorts(parameters)
    head = ["trial", "status", "tokens", *state.goals.names, *costs, "seconds"]
    top = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(name)}</button></th>'
        for name in [*head, *(called[name] for name in parameters)]
    )
    front = {record.identity for record in source.front}
    body = []
    there = {record.key for record in source.shown}
    for record in ranked(state):
        if record.key not in there:
            continue
        values = [facts.value_of(source, record, name) for name in state.goals.names]
        cells = [
            cell(link(source, record), record.name),
            cell(
                escape(facts.status(record) + (", front" if record.identity in front else "")), record.status
            ),
            number(count_text(record.tokens), record.tokens),
            *(
                number("" if value is None else value_text(name, value), value)
                for name, value in zip(state.goals.names, values, strict=True)
            ),
            *(
                number(
                    amount(name, record.costs[name]) if name in record.costs else "", record.costs.get(name)
                )
                for name in costs
            ),
            number(f"{record.seconds:.0f}", record.seconds),
            *(answer(record.params.get(name)) for name in parameters),
        ]
        body.append(f'<tr class="{facts.kind(source, record)}">{"".join(cells)}</tr>')
    return (
        f"<p>{_not_all(source)}Select a heading to sort by its column, again to reverse the order. Select a "
        "name for its details.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="All trials">'
        f'<table id="all" class="sortable"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _not_all(source: Source) -> str:
    """Say that figures and tables leave records out, if they do."""
    if source.all_shown:
        return ""
    return (
        f"Figures and this table show {len(source.shown)} of {len(source.records())} runs: the front, what "
        "is compared with it, and the best of the others; <code>leaderboard.csv</code> has all, and "
        "conclusions rest on all. "
    )


def _known_costs(source: Source) -> set[str]:
    return {name for record in source.records() for name in record.costs}

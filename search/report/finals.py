"""The section of finals: results of the retrained best candidates and baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape

from composer.measures.registry import MAIN
from composer.page.chart import WIDE, Chart, Scale, n, name_width, scale, spread
from composer.page.markup import alternatives, legend, table
from search.compare.finals import Standing
from search.progress.verdict import Comparison
from search.progress.words import mean_text, named, seeds_text, titled, value_text
from search.report import facts
from search.report.figures import mark
from search.report.markup import link, residual
from search.report.read import Source
from search.report.rows import Rows
from search.store.ledger import Record

_ROW = 46.0


def finals(source: Source) -> str:
    """Results of finalists and baselines with fresh seeds and other learning rates, and the conclusion."""
    parts = [_intro(source), *(f'<p class="verdict">{escape(text)}</p>' for text in said(source))]
    if any(at.runs for at in source.standings):
        seeds = {name: partial(seeds_chart, source, name) for name in facts.measured(source)}
        marks = legend(
            ("seed", "a fresh seed"),
            ("mean", "mean and standard deviation of these"),
            ("before", "result in the search"),
            *([("baseline", "baseline")] if source.state.has_baselines() else []),
        )
        parts += ["<h3>Fresh seeds</h3>", marks, alternatives("objective", seeds)]
    parts.append(_standings(source))
    if swept(source):
        rates = {name: partial(sweep_chart, source, name) for name in facts.measured(source)}
        parts += [
            "<h3>Learning rates</h3>",
            "<p>Each was trained at multiples of its own learning rate, with the seed of the search, so that "
            "no comparison depends on a rate that suits one side better. A ring marks the rate with the best "
            f"{escape(source.state.goals.primary)}.</p>",
            alternatives("objective", rates),
            _rates(source),
        ]
    return "".join(parts)


def swept(source: Source) -> bool:
    """Whether other learning rates were tried."""
    return any(len(at.sweep) > 1 for at in source.standings)


def _intro(source: Source) -> str:
    trials = sum(at.base.role == "trial" for at in source.standings)
    baselines = len(source.standings) - trials
    who = [f"{trials} finalists" if trials > 1 else "one finalist"] * bool(trials)
    who += [f"{baselines} baselines" if baselines > 1 else "one baseline"] * bool(baselines)
    how = "were" if len(source.standings) > 1 else "was"
    seeds = any(at.runs for at in source.standings)
    text = (
        "Means are over fresh seeds, on which nothing was selected, so no result is here because it was "
        "lucky in the search; the best of several means is still slightly optimistic."
        if seeds
        else "There are no results of fresh seeds, so each result rests on one seed."
    )
    going = sum(at.left for at in source.standings)
    rest = f" {going} {'runs have' if going > 1 else 'run has'} not ended yet." if going else ""
    return f"<p>{' and '.join(who).capitalize()} {how} trained again, all in the same way. {text}{rest}</p>"


def said(source: Source) -> Iterator[str]:
    """Compare the winner with the best baseline in each measured objective."""
    winner, rival = source.winner, source.verdicts.rival
    if winner is None or rival is None:
        return
    for comparison in source.verdicts.final():
        if comparison.verdict == "cost":
            continue
        word = f"{comparison.size} than" if comparison.better else "equal to"
        yield (
            f"In {comparison.one.metric} the winner, {titled(source.state, winner)} with "
            f"{comparison.one.text}, is {word} the best baseline, "
            f"{rival.name} with {comparison.other.text}: {comparison.doubt}."
        )
    if source.verdicts.uneven:
        yield f"Note: {source.verdicts.uneven}."


def seeds_chart(source: Source, metric: str, width: float = WIDE) -> Chart:
    """Draw every fresh seed's result, their means and spreads; one axis for finalists and baselines."""
    objective = source.state.goals.names.index(metric)
    shown = [at for at in source.standings if at.runs]
    names = [titled(source.state, at.base) for at in shown]
    means = [source.verdicts.results(at.base)[objective] for at in shown]
    texts = [mean_text(metric, each.value, each.spread) for each in means]
    rows = Rows(width, _ROW, names, texts)
    chart = Chart(
        width,
        66 + rows.total,
        f"{metric} of fresh seeds",
        "; ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True)),
    )
    values = [value for at in shown for value in [*at.column(objective), at.base.seen[-1].values[objective]]]
    values += [each.value + sign * (each.spread or 0) for each in means for sign in (-1, 1)]
    across = scale(values, rows.left, rows.right, room=0.04)
    bottom = chart.height - 48
    chart.below(across, bottom, 8, partial(value_text, metric), metric)
    for number, (at, mean) in enumerate(zip(shown, means, strict=True)):
        y = rows.place(chart, number, 30, "name")
        kind = "baseline" if source.state.is_baseline(at.base) else ""
        before = across(at.base.seen[-1].values[objective])
        chart.line([(before, y - 14), (before, y + 16)], "before")
        for run, value in zip(at.runs, at.column(objective), strict=True):
            words = f"{titled(source.state, run)}: {metric} {value_text(metric, value)}"
            chart.link(run.key, f"dot seed {kind}", words, [_seed(kind, across(value), y - 7)], True)
        part = mean.spread or 0.0
        ends = (across(mean.value - part), across(mean.value), across(mean.value + part))
        chart.line([(ends[0], y + 8), (ends[2], y + 8)], "whisker")
        marks = [mark(f"front {kind}", ends[1], y + 8)]
        if at.base is source.winner:
            marks.append(f'<circle class="halo" cx="{n(ends[1])}" cy="{n(y + 8)}" r="10.5"/>')
        chart.link(at.base.key, f"dot front {kind}", f"{names[number]}: {mean.text}", marks, True)
    return chart


def sweep_chart(source: Source, metric: str, width: float = WIDE) -> Chart:
    """Draw the results at multiples of the learning rate, the chosen one ringed."""
    objective = source.state.goals.names.index(metric)
    rows = [(at, _known(at, objective)) for at in source.standings]
    rows = [(at, known) for at, known in rows if known]
    rates = sorted({lr for at, _ in rows for lr in at.sweep})
    names = [named(source.state, at.base) for at, _ in rows]
    chart = Chart(
        width,
        330,
        f"{metric} by learning rate",
        "; ".join(
            f"{name}: " + ", ".join(f"x{lr:g} {value_text(metric, value)}" for lr, value in known)
            for name, (_, known) in zip(names, rows, strict=True)
        ),
    )
    # on a phone the marks tell baselines from finalists
    beside = [name for name in names if width == WIDE or name_width(name) < 60]
    across = scale(rates, 66, width - 30 - max(map(name_width, beside), default=0), log=True, room=0.08)
    up = scale((value for _, known in rows for _, value in known), chart.height - 52, 44)
    chart.beside(up, 66, across.end, partial(value_text, metric), metric)
    _rate_axis(chart, across, up, rates)
    for at, known in rows:
        kind = facts.kind(source, at.base) if source.state.is_baseline(at.base) else "finished"
        points = [(across(lr), up(value)) for lr, value in known]
        items = [f'<path class="line" d="M{"L".join(f"{n(x)} {n(y)}" for x, y in points)}"/>']
        items += [mark(kind, x, y, small=True) for x, y in points]
        chosen = [point for point, (lr, _) in zip(points, known, strict=True) if lr == at.lr]
        items += [f'<circle class="chosen-rate" cx="{n(x)}" cy="{n(y)}" r="8"/>' for x, y in chosen]
        chart.link(at.base.key, f"dot {kind}", facts.record_line(source, at.base), items, True)
    ends = [up(known[-1][1]) for name, (_, known) in zip(names, rows, strict=True) if name in beside]
    for name, y in zip(beside, spread(ends, 15, up.end, up.start), strict=True):
        chart.words(across.end + 10, y + 4, name, "name")
    return chart


def _rate_axis(chart: Chart, across: Scale, up: Scale, rates: Sequence[float]) -> None:
    for lr in rates:
        chart.line([(across(lr), up.start), (across(lr), up.end)], "grid")
        chart.words(across(lr), up.start + 18, f"x{lr:g}", "tick middle")
    chart.words((across.start + across.end) / 2, up.start + 38, "multiple of its own train.lr", "middle")


def _known(at: Standing, objective: int) -> list[tuple[float, float]]:
    return [(lr, values[objective]) for lr, values in at.sweep.items() if values is not None]


def _seed(kind: str, x: float, y: float) -> str:
    return mark(f"stopped {kind}", x, y, small=True)


def _standings(source: Source) -> str:
    """Show all standings: seeds, means, and the comparison with the winner."""
    state, names = source.state, source.state.goals.names
    costs = [name for name in MAIN if name not in names]
    head = ["trained again", "rate", "fresh seeds"]
    measured = [i for i, goal in enumerate(state.goals.objectives) if not goal.is_cost]
    for i in measured:
        head += [names[i], "in the search", "against the winner"]
    head += [name for name in names if name not in facts.measured(source)] + costs
    rows = []
    for at in source.standings:
        record = at.base
        cells = [link(source, record) + (" <em>winner</em>" if record is source.winner else "")]
        cells += ["" if at.lr is None else f"x{at.lr:g}", escape(seeds_text(at))]
        for i in measured:
            result = source.verdicts.results(record)[i]
            assert record.values is not None
            cells.append(mean_text(names[i], result.value, result.spread) if at.runs else "")
            cells.append(value_text(names[i], record.values[i]))
            cells.append(against(source, record, i))
        others = [name for name in [*names, *costs] if name not in facts.measured(source)]
        cells += [residual(source, record, name) for name in others]
        rows.append(cells)
    words = tuple(i for i, name in enumerate(head) if name in ("trained again", "against the winner"))
    return table(head, rows, words=words, stacked=True)


def against(source: Source, record: Record, objective: int) -> str:
    """Compare a record with the winner in one objective, with the p-value, as HTML."""
    winner = source.winner
    if winner is None or record is winner or record.status != "finished":
        return ""
    comparison = source.verdicts.against(record, winner)[objective]
    if comparison.verdict == "cost":
        return escape(comparison.size)
    doubt = escape(_short(comparison)).replace(" ", "&nbsp;")
    return f"{escape(comparison.size)} <span class='soft'>{doubt}</span>"


def _short(comparison: Comparison) -> str:
    return comparison.p_text or comparison.verdict


def _rates(source: Source) -> str:
    """Show the result at each learning rate."""
    names = source.state.goals.names
    measured = [i for i, goal in enumerate(source.state.goals.objectives) if not goal.is_cost]
    rates = sorted({lr for at in source.standings for lr in at.sweep})
    several = len(measured) > 1
    head = [
        "trained again",
        "its own rate",
        *(f"{names[i]} " * several + f"x{lr:g}" for i in measured for lr in rates),
    ]
    rows = []
    for at in source.standings:
        cells = [link(source, at.base), own_rate(source, at.base)]
        for i in measured:
            for lr in rates:
                text = _at_rate(source, at, lr, i)
                cells.append(f"<strong>{text}</strong>" if lr == at.lr else text)
        rows.append(cells)
    return table(head, rows, words=(0,))


def own_rate(source: Source, record: Record) -> str:
    """Format the learning rate of a record's spec."""
    known = source.specs.get(record.identity)
    return "" if known is None or known[1].train is None else f"{known[1].train.lr:g}"


def _at_rate(source: Source, at: Standing, lr: float, objective: int) -> str:
    values = at.sweep.get(lr)
    if values is not None:
        return value_text(source.state.goals.names[objective], values[objective])
    runs = [
        run.status
        for run in source.state.ledger.finals()
        if run.again == {"of": at.base.key, "lr": lr, "seed": 0}
    ]
    return runs[0] if runs else ""

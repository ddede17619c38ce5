"""The page: each measure with its definition, for one run or two side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from composer.inspect.base.measure import Measure, Result
from composer.inspect.base.score import ALL
from composer.inspect.base.views import Choice, Heat, Lines, Note, Rows, View
from composer.inspect.figures import heat, lines
from composer.inspect.inspect import Inspected
from composer.page.document import Section, document
from composer.page.markup import figure, table


def page(runs: Sequence[Inspected], measures: Sequence[Measure]) -> str:
    """Return one self-contained page: no network, no other files."""
    runs = _with_distinct_names(runs)
    sections = [Section(each.name, each.short, each.title, _section(each, runs)) for each in measures]
    return document(" and ".join(run.name for run in runs), _header(runs), sections)


def _with_distinct_names(runs: Sequence[Inspected]) -> Sequence[Inspected]:
    """Name runs of one spec by what differs in their paths, if they do."""
    if len({run.name for run in runs}) == len(runs):
        return runs
    parts = [Path(run.path).parts for run in runs]
    differing = next((each for each in zip(*parts, strict=False) if len({*each}) == len(runs)), None)
    if differing is None:
        return runs
    return [replace(run, name=f"{run.name} {part}") for run, part in zip(runs, differing, strict=True)]


def _header(runs: Sequence[Inspected]) -> str:
    cards = "".join(
        f'<div class="card"><h3>{escape(title)}</h3><p class="big">{escape(big)}</p>'
        f"<p>{escape(text)}</p></div>"
        for title, big, text in _cards(runs)
    )
    names = " and ".join(escape(run.name) for run in runs)
    weights = ", ".join(f"<code>{escape(run.path)}</code>" for run in runs)
    return (
        f'<header><p class="over">composer inspect</p><h1>{names}</h1>'
        f'<p class="lead"><span class="soft">{weights}</span></p><div class="cards">{cards}</div></header>'
    )


def _cards(runs: Sequence[Inspected]) -> Iterator[tuple[str, str, str]]:
    for run in runs:
        kind = "recurrent steps" if run.recurrent else "layers"
        yield run.name, f"{run.steps} {kind}", f"of {run.stage}, the stage that is inspected"
    for run in runs:
        lens = run.results.get("lens")
        if isinstance(lens, Result):
            accuracy, loss = lens.values["accuracy"][ALL], lens.values["loss"][ALL]
            named = f" of {run.name}" if len(runs) > 1 else ""
            yield f"Accuracy{named}", f"{100 * accuracy[-1]:.2f} %", f"loss {loss[-1]:.3f} nats"
    if len(runs) == 1:
        (run,) = runs
        yield "Held-out data", f"{run.tokens:,} tokens", f"{run.sequences} sequences, the same for all runs"


def _section(measure: Measure, runs: Sequence[Inspected]) -> str:
    defined = "".join(f'<p class="definition">{_quoted(text)}</p>' for text in measure.definition)
    named = '<h3 class="run">{}</h3>' if len(runs) > 1 else ""
    results = [run.results[measure.name] for run in runs]
    every = [view for each in results if isinstance(each, Result) for view in _leaves(each.views)]
    shown = _Shown(700.0 if len(runs) == 1 else 470.0, every)
    columns = "".join(
        f"<div>{named.format(escape(run.name))}{''.join(_result_html(each, shown))}</div>"
        for run, each in zip(runs, results, strict=True)
    )
    kind = "pair" if len(runs) > 1 else "single"
    return f'{defined}<div class="{kind}">{columns}</div>'


def _quoted(text: str) -> str:
    """Return a text as HTML; what stands between backticks is code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


@dataclass(frozen=True)
class _Shown:
    """How wide charts are on a desktop, and all charts of the section: those of one title have one scale."""

    wide: float
    every: Sequence[View]


def _leaves(views: Iterable[View]) -> Iterator[View]:
    for view in views:
        if isinstance(view, Choice):
            yield from _leaves(view.views.values())
        else:
            yield view


def _result_html(result: Result | str, shown: _Shown) -> Iterator[str]:
    if isinstance(result, str):
        yield f"<p><strong>Left out.</strong> {escape(result)}</p>"
        return
    for number, view in enumerate(result.views):
        yield _view(view, shown, number)


def _view(view: View, shown: _Shown, number: int) -> str:
    match view:
        case Lines():
            alike = [each for each in shown.every if isinstance(each, Lines) and each.title == view.title]
            return figure(lambda width: lines(view, width, alike), shown.wide)
        case Heat():
            same = [each for each in shown.every if isinstance(each, Heat) and each.title == view.title]
            return figure(lambda width: heat(view, width, same), shown.wide)
        case Rows():
            return table(view.head, [[escape(cell) for cell in row] for row in view.rows], view.words)
        case Note():
            return f"<p>{escape(view.text)}</p>"
        case Choice():
            return _choice(view, shown, number)


def _choice(view: Choice, shown: _Shown, number: int) -> str:
    bodies = "".join(
        f'<div class="alternative" data-name="{escape(name)}">{_view(each, shown, number)}</div>'
        for name, each in view.views.items()
    )
    if len(view.views) < 2:
        return bodies
    options = "".join(f"<option>{escape(name)}</option>" for name in view.views)
    select = f'<select data-number="{number}">{options}</select>'
    label = f'<p class="choice"><label>{escape(view.name)} {select}</label></p>'
    return f'<div class="choices">{label}{bodies}</div>'

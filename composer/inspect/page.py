"""The page: each measure with its definition, for one run or two side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from composer.inspect.base.measure import Found, Measure
from composer.inspect.base.views import Choice, Heat, Lines, Note, Rows, View
from composer.inspect.figures import heat, lines, widths
from composer.inspect.inspect import Inspected
from composer.page.document import Section, document
from composer.page.markup import figure, table


def page(runs: Sequence[Inspected], measures: Sequence[Measure]) -> str:
    """Return one self-contained page: no network, no other files."""
    sections = [
        Section(each.name, each.short, each.title, _section(each, runs, widths(runs))) for each in measures
    ]
    return document(" and ".join(run.name for run in runs), _header(runs), sections)


def _header(runs: Sequence[Inspected]) -> str:
    cards = "".join(
        f'<div class="card"><h3>{escape(title)}</h3><p class="big">{escape(big)}</p>'
        f"<p>{escape(told)}</p></div>"
        for title, big, told in (card for run in runs for card in _cards(run))
    )
    names = " and ".join(escape(run.name) for run in runs)
    weights = ", ".join(f"<code>{escape(run.path)}</code>" for run in runs)
    return (
        f'<header><p class="over">composer inspect</p><h1>{names}</h1>'
        f'<p class="lead"><span class="soft">{weights}</span></p><div class="cards">{cards}</div></header>'
    )


def _cards(run: Inspected) -> Iterator[tuple[str, str, str]]:
    kind = "recurrent steps" if run.recurrent else "layers"
    yield run.name, f"{run.steps} {kind}", f"of {run.stage}, whose steps are looked at"
    yield (
        "Held-out data",
        f"{run.tokens:,} tokens",
        f"in {run.sequences} sequences, the same for every run of the task",
    )
    lens = run.found.get("lens")
    if isinstance(lens, Found):
        accuracy, loss = lens.values["accuracy"]["all"], lens.values["loss"]["all"]
        yield "Accuracy", f"{100 * accuracy[-1]:.2f} %", f"loss {loss[-1]:.3f} nats, over all scored targets"


def _section(measure: Measure, runs: Sequence[Inspected], width: float) -> str:
    defined = "".join(f'<p class="definition">{_quoted(text)}</p>' for text in measure.definition)
    named = '<h3 class="run">{}</h3>' if len(runs) > 1 else ""
    columns = "".join(
        f"<div>{named.format(escape(run.name))}{''.join(_found(run.found[measure.name], width))}</div>"
        for run in runs
    )
    kind = "pair" if len(runs) > 1 else "single"
    return f'{defined}<div class="{kind}">{columns}</div>'


def _quoted(text: str) -> str:
    """Return a text as HTML; what stands between backticks is code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _found(found: Found | str, width: float) -> Iterator[str]:
    if isinstance(found, str):
        yield f"<p><strong>Left out.</strong> {escape(found)}</p>"
        return
    for number, view in enumerate(found.views):
        yield _view(view, width, number)


def _view(view: View, width: float, number: int) -> str:
    match view:
        case Lines():
            return figure(lines(view, width))
        case Heat():
            return figure(heat(view, width))
        case Rows():
            return table(view.head, [[escape(cell) for cell in row] for row in view.rows], view.words)
        case Note():
            return f"<p>{escape(view.text)}</p>"
        case Choice():
            return _choice(view, width, number)


def _choice(view: Choice, width: float, number: int) -> str:
    bodies = "".join(
        f'<div class="alternative" data-name="{escape(name)}">{_view(each, width, number)}</div>'
        for name, each in view.views.items()
    )
    if len(view.views) < 2:
        return bodies
    options = "".join(f"<option>{escape(name)}</option>" for name in view.views)
    select = f'<select data-number="{number}">{options}</select>'
    label = f'<p class="choice"><label>{escape(view.name)} {select}</label></p>'
    return f'<div class="choices">{label}{bodies}</div>'

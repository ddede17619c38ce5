"""The report of a study: Markdown, a CSV for each table, figures as SVG, and one page that works offline."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path

from composer.costs.base.units import count_text, duration
from composer.page.chart import WIDE
from composer.page.document import Section, document
from composer.page.markup import Draw, alternatives, figure, table, warn
from composer.training.folder.files import write_text
from search.study.charts import claims, curves
from search.study.load import Study
from search.study.plan import Plan, Results
from search.study.rows import read_rows
from search.study.tables import Table, factor_cells, tables
from search.study.verdicts import Verdict, verdicts

_INTERVAL = re.compile(r"^((?:above |below )?[\d.]+) (\([^()]*\))$")
_NAME = 40
"""Letters up to which a first column is kept on one line."""
PAGE, MARKDOWN, TABLES, FIGURES = "report.html", "report.md", "tables", "figures"


def write_report(study: Study, folder: Path, rows: Path) -> Results:
    """Write the report of the rows so far into `folder`, and return what it is made from.

    Raises:
        SearchError: the rows cannot be read.
        DataError: the data are missing, and the rows are of none or of several.
        OSError: the report cannot be written.
    """
    results = _results(study, rows)
    judged, made = verdicts(results), list(tables(results))
    drawn = dict(curves(results)) | dict(_claims(judged))
    for name in (TABLES, FIGURES):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for each in made:
        write_text(folder / TABLES / f"{each.name}.csv", each.csv())
    for name, draw in drawn.items():
        write_text(folder / FIGURES / f"{name.replace(' ', '-')}.svg", draw(WIDE).svg(alone=True))
    write_text(folder / MARKDOWN, f"# Study {study.config.name}\n\n{_markdown(results, made)}")
    parts = list(_sections(results, judged, made))
    script = files("search.report").joinpath("page.js").read_text(encoding="utf-8")
    page = document(f"Study {study.config.name}", _header(results, judged), parts, script, {})
    write_text(folder / PAGE, page)
    return results


def markdown(study: Study, rows: Path) -> str:
    """Return the tables of the rows so far in Markdown, below headings of the third level.

    Raises:
        SearchError: the rows cannot be read.
        DataError: the data are missing, and the rows are of none or of several.
    """
    results = _results(study, rows)
    return _markdown(results, tables(results))


def _results(study: Study, rows: Path) -> Results:
    known = read_rows(rows)
    return Plan.judging(study, known).results(known)


def _markdown(results: Results, made: Iterable[Table]) -> str:
    shown = [each for each in made if each.rows]
    return "\n\n".join([f"{_standing(results)}.", *(each.markdown() for each in shown)]) + "\n"


def lines(results: Results) -> Iterator[str]:
    """Yield the verdicts as text, for the terminal."""
    yield _standing(results)
    for each in verdicts(results):
        size = f" ({each.factor.arm.size})" if each.factor.arm.size else ""
        value, interval = factor_cells(each.factor)
        measured = f", factor {value} ({interval})" if value else ""
        yield f"{each.judgement}: {each.claim}{size}{measured}" + (f"; {each.why}" if each.why else "")


def _standing(results: Results) -> str:
    done, runs = results.done(), results.plan.size()
    return f"{done} of {runs} runs are done" if done < runs else f"All {runs} runs are done"


def _header(results: Results, judged: Sequence[Verdict]) -> str:
    config, rows = results.plan.config, results.used()
    counts = Counter(each.judgement for each in judged)
    text = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
    # rows of earlier versions say "1 threads"
    machines = sorted({row.machine.replace(", 1 threads", ", 1 thread") for row in rows})
    spent = f"{duration(sum(row.seconds for row in rows))} of training" if rows else "nothing yet"
    cards = [
        (
            "Runs",
            f"{results.done()} of {results.plan.size()}",
            f"{len(config.arms)} arms, {len(config.rates)} rates, {config.seeds} fresh seeds",
        ),
        ("Budgets", ", ".join(map(count_text, config.budgets)), "training tokens"),
        ("Claims", text, f"of {len(judged)}"),
        ("Spent", spent, "; ".join(machines) or "no machine"),
    ]
    shown = "".join(
        f'<div class="card"><h3>{escape(name)}</h3><p class="big">{escape(big)}</p>'
        f"<p>{escape(small)}</p></div>"
        for name, big, small in cards
    )
    when = datetime.now().strftime("%Y-%m-%d %H:%M")
    return (
        f'<header><p class="over">composer study</p><h1>{escape(config.name)}</h1>'
        f'<p class="lead">{escape(_standing(results))}. <span class="soft">As of {when}</span></p>'
        f'<div class="cards">{shown}</div></header>'
    )


def _sections(results: Results, judged: list[Verdict], made: Sequence[Table]) -> Iterator[Section]:
    bodies = {each.name: _body(each) for each in made}
    titles = {each.name: each.title for each in made}
    for _, draw in _claims(judged):
        bodies["verdicts"] = figure(draw) + bodies["verdicts"]
    shown = dict(curves(results))
    if shown:
        bodies["results"] = alternatives("Figure", shown) + bodies["results"]
    if results.done() < results.plan.size():
        first = next(iter(bodies))
        bodies[first] = warn(f"{_standing(results)}; verdicts may change.") + bodies[first]
    for name, body in bodies.items():
        yield Section(name, titles[name].split(",")[0].split(" at ")[0], titles[name], body)


def _claims(judged: Sequence[Verdict]) -> Iterator[tuple[str, Draw]]:
    """Yield what draws the claims, by name, if any has a factor."""
    if any(each.factor.value is not None for each in judged):
        yield "claims", partial(claims, judged)


def _body(made: Table) -> str:
    # names of arms are not broken at their hyphens
    names = [escape(row[0]).replace("-", "\u2011" if len(row[0]) < _NAME else "-") for row in made.rows]
    rows = [[name, *map(_cell, row[1:])] for name, row in zip(names, made.rows, strict=True)]
    note = f'<p class="soft">{escape(made.note)}</p>' if made.note else ""
    shown = table(made.head, rows, made.words, stacked=made.name == "verdicts")
    return shown + note if rows else "<p>Nothing yet.</p>"


def _cell(text: str) -> str:
    """Return a cell as HTML; an interval in parentheses goes below its factor."""
    return _INTERVAL.sub(r'\1<br><span class="soft">\2</span>', escape(text))

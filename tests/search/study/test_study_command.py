"""`composer study` on a real, tiny study: rows, report, page."""

import csv
import re
from html.parser import HTMLParser

import pytest
from studies import STUDY, toy_study

from composer.training.run import run_training
from search.commands.study import study as command
from search.study.plan import Plan
from search.study.rows import read_rows

SMALL = ["rates=[3e-3]", "seeds=2", "budgets=[1Ki, 2Ki, 4Ki]", "warmup=512", "set=[train.eval.tokens=2Ki]"]
CLAIMS = "claims: [{arm: untied, against: looped}, {arm: looped, against: untied, measure: flops_to_loss}]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="module")
def trained(folder):
    study = toy_study(folder, *SMALL, text=STUDY + CLAIMS)
    command(study.path, SMALL, folder / "out")
    return study


def test_a_row_is_what_a_run_of_that_budget_alone_gives(trained, folder):
    rows = read_rows(folder / "out/rows.jsonl")
    assert len(rows) == 2 * 3 * 3
    plan, (_, untied) = Plan(trained), trained.arms
    for budget in (1024, 2048):
        alone = run_training(plan.spec(untied, 3e-3, 1, budget), folder / f"alone-{budget}")
        row = plan.results(rows).row(untied, 3e-3, 1, budget)
        assert (row.metrics, row.tokens) == (alone.metrics, alone.tokens)
        assert row.flops > 0 < row.seconds
    assert {row.machine for row in rows} != {""}


def test_the_report_is_one_page_with_tables_and_figures(trained, folder):
    out = folder / "out"
    page = (out / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert tags.opened == []
    assert all(target in tags.ids for target in tags.targets)
    markdown = (out / "report.md").read_text()
    assert "untied needs fewer tokens than looped for equal accuracy" in markdown
    results = list(csv.DictReader((out / "tables/results.csv").read_text().splitlines()))
    assert [row["seeds"] for row in results] == ["2"] * 6
    assert {path.name for path in (out / "figures").iterdir()} >= {"accuracy-against-training-tokens.svg"}


def test_every_table_is_numbers_for_other_programs(trained, folder):
    words = {"arm", "size", "against", "cost", "score", "verdict", "note", "changed_sizes"}
    command(trained.path, SMALL, folder / "out", report=True)
    tables = {path.stem: path for path in (folder / "out/tables").iterdir()}
    assert tables.keys() >= {"arms", "factors", "rates", "results", "tests", "verdicts"}
    for path in tables.values():
        rows = [*csv.DictReader(path.read_text().splitlines())]
        assert rows
        for row in rows:
            numbers = {key: float(cell) for key, cell in row.items() if key not in words and cell}
            for key in ("factor", "difference"):
                low, high = (numbers.get(f"{key}_{end}") for end in ("low", "high"))
                if key in numbers and low is not None and high is not None:
                    assert low <= numbers[key] <= high
    tests = [*csv.DictReader(tables["tests"].read_text().splitlines())]
    assert all(row["difference_low"] and row["difference_high"] for row in tests)


def test_a_folder_with_a_report_alone_is_trained_in_later(trained, folder):
    rows = folder / "out/rows.jsonl"
    command(trained.path, SMALL, folder / "judged", rows=rows, report=True)
    results = list(csv.DictReader((folder / "judged/tables/factors.csv").read_text().splitlines()))
    assert {(row["arm"], row["against"]) for row in results} == {("untied", "looped")}
    assert {(row["cost"], row["score"]) for row in results} >= {("tokens", "accuracy"), ("seconds", "loss")}
    command(trained.path, SMALL, folder / "judged", rows=rows)
    assert (folder / "judged/space.txt").exists()


def test_it_prints_verdicts_and_trains_nothing_twice(trained, folder, capsys):
    command(trained.path, SMALL, folder / "out")
    output = capsys.readouterr().out
    assert "6 of 6 runs are done: nothing is due" in output
    assert output.count("undecided: ") + output.count("supported: ") == 2
    command(trained.path, SMALL, folder / "out", dry_run=True)
    assert "6 of 6 runs are done; 0 can begin now" in capsys.readouterr().out


def test_a_report_without_rows_says_so(folder, capsys):
    study = toy_study(folder, *SMALL, text=STUDY + CLAIMS)
    command(study.path, SMALL, folder / "none", report=True)
    assert "0 of 6 runs are done" in capsys.readouterr().out
    assert "0 of 6 runs are done; verdicts may change." in (folder / "none/report.html").read_text()


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.opened, self.ids, self.targets = [], set(), []

    def handle_starttag(self, tag, attributes):
        by_name = dict(attributes)
        self.ids.add(by_name.get("id"))
        if tag == "a" and by_name.get("href", "").startswith("#"):
            self.targets.append(by_name["href"][1:])
        if tag not in ("meta", "link", "br", "wbr", "path", "rect", "circle", "img"):
            self.opened.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

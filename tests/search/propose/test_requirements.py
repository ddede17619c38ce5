"""What a search would refuse, `check` and a dry run refuse too, in the same words, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_training import BASELINE, SPACE

from composer.cli.main import main

OTHER = BASELINE.replace("hops: 2", "hops: 1")

REFUSED = [
    (
        ["search.objectives=[{minimize: flops}]"],
        "search.objectives.0.minimize: expected a cost, or a metric that the task hop measures, got 'flops' "
        "(did you mean flops_per_token?)",
    ),
    (["search.objectives=[{maximize: acuracy}]"], "got 'acuracy' (did you mean accuracy?)"),
    (["search.objectives=[{maximize: accuracy_k3}]"], "got 'accuracy_k3' (did you mean accuracy_k"),
    # what one alternative measures, another does not
    (["search.objectives=[{maximize: accuracy_k2}]", "train.data.hops={int: [1, 2]}"], "got 'accuracy_k2'"),
    (["search.objectives=[{maximize: bits_per_byte}]"], "got 'bits_per_byte'"),
    (["search.rungs=[2Ki, 16Ki]"], "search.rungs: expected rungs up to train.tokens (8192), got 16384"),
    (["search.trials=null"], "search: expected a budget: trials, tokens, flops or time_limit, got none"),
    (["train.seed={int: [0, 3]}"], "train.seed: expected one seed for all candidates"),
    (["search.sampler=gp"], "search.sampler: gp needs scipy, which is not installed (pip install "),
    (["search.baselines=[none.yaml]"], "search.baselines.0: file not found: none.yaml"),
    (
        ["search.baselines=[rival.yaml]", "caps.params=10k"],
        "a baseline within the caps of toy, got rival.yaml with",
    ),
    (
        ["search.baselines=[rival.yaml]", "train.tokens=16Ki", "search.rungs=[12Ki]"],
        "of at least the last rung",
    ),
    (
        ["search.baselines=[other.yaml]", "search.objectives=[{maximize: accuracy_k2}]"],
        "search.baselines.0: expected a baseline whose training measures 'accuracy_k2', got other.yaml",
    ),
    (["search.start=[rival.yaml]"], "search.start.0: expected a point of the space, got rival.yaml: "),
    (["search.seeds=2", "search.objectives=[{minimize: params}]"], "an objective that training measures"),
    (
        ["model.vocab={float: [8, 32]}"],
        "model.vocab: expected a whole number above 0, such as 64 or 4Ki, got a range",
    ),
    (["blocks.expert.hidden={float: [8.5, 32], log: true}"], "(write {int: [low, high]})"),
]


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.propose.sampler.find_spec", lambda name: None)
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "rival.yaml").write_text(BASELINE)
    (tmp_path / "other.yaml").write_text(OTHER)
    return "space.yaml"


@pytest.mark.parametrize("command", ["check", "search --dry-run", "search"])
@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_what_a_search_would_refuse_is_refused_at_once(
    command: str,
    options: list[str],
    message: str,
    space: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, *flags = command.split()
    before = sorted(tmp_path.rglob("*"))
    assert main([name, space, *flags, *(part for each in options for part in ("--set", each))]) == 1
    out, err = capsys.readouterr()
    assert (out, message in err) == ("", True), err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--storage", "mysql://here"], "--storage: expected postgresql://"),
        (["--out", "full"], "not a search folder"),
        (["--out", "rival.yaml"], "expected a folder for the search, got a file"),
        (["--out", "old"], "the search in this folder is of another space"),
        (["--set", "train.data={task: text, length: 32, path: none.txt}"], "file not found: none.txt"),
    ],
)
def test_a_dry_run_refuses_the_place_that_a_search_would(
    options: list[str], message: str, space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, file in (("full", "thesis.tex"), ("old", "space.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("nothing\n")
    options = [*options, "--set", "model.vocab=256"] if "train.data" in options[-1] else options
    assert main(["search", space, "--dry-run", *options]) == 1
    assert message in capsys.readouterr().err


def test_a_dry_run_counts_why_points_are_invalid(space: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["search", space, "--dry-run", "--trials", "60", "--set", "model.width={choice: [15, 16, 32]}"])
        == 0
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  invalid ")]
    counts = [int(line.split()[1]) for line in lines]
    assert counts == sorted(counts, reverse=True)
    assert any("blocks.seq.heads: expected a divisor of the width (15), got 2" in line for line in lines)
    # one line, whatever the numbers
    assert sum("blocks.expert.active: expected at most the number of experts" in line for line in lines) == 1

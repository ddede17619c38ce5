"""`--import` from the command line, into a database, onto a full disk, and with real runs."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
from functools import partial
from pathlib import Path

import optuna
import pytest
from fake_training import TWO, FakeTraining, accuracy, board, toy
from importing_cases import MORE, contents, imported, old_search, records
from postgresql import Server, missing
from rich.console import Console

from composer import load, load_run
from composer.cli.main import main
from search.commands import run_and_report
from search.errors import SearchError
from search.run import import_progress, worker
from search.run.study import run_search

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(worker, "POLL", 0.05)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_into_and_out_of_a_database(tmp_path):
    server = Server()
    try:
        url = server.url("imports")
        old_search(tmp_path)
        assert imported(tmp_path, MORE, storage=url) == "imported 6 of 6 runs"
        assert imported(tmp_path, MORE, storage=url) == "imported 0 of 6 runs; known here already: 6"
        space, training = toy(tmp_path, MORE, "search.trials=2"), FakeTraining()
        ended = run_search(space, tmp_path / "new", training, storage=url)
        assert ended.state.counted() == "2 of 2 trials and 6 imported"
        assert ended.state.outcomes == {"feasible": 2}
        assert {folder for folder, *_ in training.calls} == {"trials/6", "trials/7"}
        # a search in a database leaves copies of its records, and these may come in elsewhere
        shutil.rmtree(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "old")
        assert imported(tmp_path, MORE, "caps.params=59k") == "imported 8 of 8 runs"
    finally:
        server.remove()


# the command


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """`composer search` in an empty folder, with training replaced."""
    monkeypatch.chdir(tmp_path)
    training = FakeTraining()
    monkeypatch.setattr(run_and_report, "run_search", partial(run_search, train=training))
    toy(tmp_path)
    return training


def search(*arguments: str) -> int:
    return main(["search", "space.yaml", *arguments])


def test_a_changed_space_is_told_beside_its_older_search_and_takes_over_on_request(tmp_path, faked, capsys):
    assert search() == 0
    (old,) = (tmp_path / "runs").iterdir()
    assert "new search" not in capsys.readouterr().out
    changed = ["--set", MORE, "--trials", "1"]
    # another name that begins alike, and no search
    shutil.copytree(old, old.with_name(old.name.replace("toy-", "toy-two-")))
    (tmp_path / "runs" / "toy-0123456789ab").mkdir()
    assert search("--trials", "6") == 0
    assert "new search" not in capsys.readouterr().out
    assert search(*changed, "--dry-run") == 0
    assert search(*changed, "--quiet") == 0
    assert "new search" not in capsys.readouterr().out
    (new,) = (path for path in (tmp_path / "runs").glob("toy-*/space.txt") if "24" in path.read_text())
    shutil.rmtree(new.parent)
    assert search(*changed) == 0
    output = capsys.readouterr().out
    assert output.startswith(
        f"this is a new search: the last one of toy, in runs/{old.name}, is of another space "
        "(- there, + now):\n  - model.width.choice: [16, 32, 64]\n"
        "  + model.width.choice: [16, 24, 32, 64]\n"
        f"`--import runs/{old.name}` brings in its results that are points of this space\n"
        f"searching in runs/{new.parent.name}\n"
    )
    before = len(faked.calls)
    assert search(*changed, "--import", f"runs/{old.name}") == 0
    output = capsys.readouterr().out
    assert "of 6 runs of runs/" in output.splitlines()[0]
    assert "new search" not in output
    assert len(faked.calls) == before
    assert len(board(new.parent)) == 7


def test_events_tell_both_as_notes_after_the_search_has_begun(tmp_path, faked, capsys):
    assert search("--quiet") == 0
    (old,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    for options, note in (((), "this is a new search"), (("--import", str(old)), "imported 6 of 6 runs")):
        assert (
            search("--json", "--set", MORE, "--trials", "1", *options, *(["--out", "b"] * bool(options))) == 0
        )
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [event["event"] for event in events[:2]] == ["begin", "note"]
        assert events[1]["note"].startswith(note)
        # what came in counts for no budget
        assert events[-1]["done"] == events[-1]["trials"] == 1


def test_a_long_difference_is_cut(tmp_path, faked, capsys):
    assert search("--quiet") == 0
    capsys.readouterr()
    many = [f"train.{name}" for name in ("weight_decay=0.2", "clip=2", "lr=1e-3", "accumulate=2")]
    many += [
        "model.width={choice: [8, 16]}",
        "caps.params=61k",
        "caps.flops_per_token=201k",
        "search.keep=0.6",
    ]
    many += ["search.rungs=[2Ki]", "train.eval.tokens=2Ki", "search.sampler=random"]
    assert search("--trials", "1", *(part for each in many for part in ("--set", each))) == 0
    output = capsys.readouterr().out.split("`--import")[0].splitlines()
    assert len(output) == 1 + 12 + 1
    assert output[-1].startswith("  and ")
    assert output[-1].endswith(" more")


def test_a_folder_of_another_space_is_refused_with_the_way_out(tmp_path, faked, capsys):
    assert search("--out", "a", "--quiet") == 0
    assert search("--out", "a", "--set", MORE) == 1
    output = capsys.readouterr().err
    assert "of another space (- there, + now)" in output
    assert "`--import a`" in output


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("nowhere", "expected the folder of a search, but there is no space.txt with records/ in nowhere"),
        ("plain", "expected the folder of a search, but there is no space.txt with records/ in plain"),
        ("damaged", "damaged/records/trial-2.json: expected the record of a trial"),
        ("b", "expected the folder of another search, got b, which is this one's"),
    ],
)
def test_what_cannot_be_imported_is_told_before_anything_is_written(tmp_path, faked, capsys, old, message):
    assert search("--out", "a", "--quiet") == 0
    shutil.copytree("a", "damaged")
    (tmp_path / "damaged" / "records" / "trial-2.json").write_text("{")
    (tmp_path / "plain").mkdir()
    if old == "b":
        shutil.copytree("a", "b")
    before = contents(tmp_path)
    # a good one before it changes nothing either
    assert search("--out", "b", "--set", MORE, "--import", "a", "--import", old) == 1
    assert message in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_an_import_and_a_dry_run_exclude_each_other(tmp_path, faked, capsys):
    assert search("--dry-run", "--import", "a") == 2
    assert "--dry-run" in capsys.readouterr().err


def test_a_disk_that_fills_up_leaves_whole_runs_and_the_same_command_goes_on(tmp_path, monkeypatch):
    old_search(tmp_path)
    link, left = os.link, [3]

    def full(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copy2", lambda *paths: full(*paths) if left[0] < 0 else shutil.copy(*paths))
    with pytest.raises(SearchError, match="No space left on device\nruns imported so far are intact"):
        imported(tmp_path, MORE)
    monkeypatch.undo()
    assert len(records(tmp_path / "new")) == 3
    assert imported(tmp_path, MORE) == "imported 3 of 6 runs; known here already: 3"


def test_a_database_that_vanishes_leaves_whole_runs_and_the_same_command_goes_on(tmp_path, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from search.run import open_store
    from search.store.database import DatabaseStore
    from search.store.folder_store import FolderStore

    class Vanishing(FolderStore):
        _place, left = "postgresql://db/searches", 5
        is_lost, lost = DatabaseStore.is_lost, DatabaseStore.lost

        def put(self, record):
            self.left -= 1
            if self.left < 0:
                raise OperationalError("INSERT", {}, Exception("server closed the connection\nmore"))
            super().put(record)

    old_search(tmp_path)
    monkeypatch.setattr(open_store, "FolderStore", Vanishing)
    with pytest.raises(SearchError) as caught:
        imported(tmp_path, MORE)
    first, last = str(caught.value).splitlines()
    assert first.startswith("postgresql://db/searches: the database does not answer: ")
    assert "server closed the connection" in first
    assert "run the same command" in last
    monkeypatch.undo()
    # the third one was there, and the sampler had not been told
    assert len(records(tmp_path / "new")) == 3
    assert imported(tmp_path, MORE) == "imported 3 of 6 runs; known here already: 3"
    assert all(record["asked"] is not None for record in records(tmp_path / "new").values())


@pytest.mark.parametrize("terminal", [False, True])
def test_how_far_an_import_is_can_be_seen(terminal):
    now, out = itertools.count(step=3), io.StringIO()
    screen = Console(file=out, force_terminal=terminal, width=200)
    with import_progress.shown(screen, lambda: float(next(now))) as progress:
        for done in range(6):
            progress(Path("runs/[old]"), done, 6)
    result = out.getvalue()
    if terminal:
        assert "\x1b" in result
        assert "importing: 5 of 6 runs of runs/[old] looked at" in result
    else:
        # every five seconds at most, each look at the clock three seconds after the last
        assert result.splitlines() == [
            f"importing: {done} of 6 runs of runs/[old] looked at" for done in (1, 3, 5)
        ]


@pytest.mark.parametrize("option", [(), ("--quiet",), ("--json",)])
def test_an_import_is_shown_before_its_result_and_never_among_events(
    tmp_path, faked, capsys, monkeypatch, option
):
    monkeypatch.setattr(import_progress, "_PAUSE", 0.0)
    assert search("--quiet", "--out", "a") == 0
    capsys.readouterr()
    assert search("--import", "a", "--out", "b", "--set", MORE, "--trials", "1", *option) == 0
    lines = capsys.readouterr().out.splitlines()
    if option == ("--json",):
        assert all("event" in json.loads(line) for line in lines)
    seen = [line for line in lines if line.startswith("importing: ")]
    assert seen == ([] if option else [f"importing: {n} of 6 runs of a looked at" for n in range(6)])
    assert option or lines[6].startswith("imported 6 of 6 runs of a")


def test_values_at_the_rungs_are_those_that_training_here_would_measure(tmp_path):
    old_search(tmp_path)
    imported(tmp_path, TWO)
    for record in records(tmp_path / "new").values():
        spec = load(tmp_path / "new" / record["folder"] / "spec.yaml")
        for seen in record["seen"]:
            assert seen["values"] == [accuracy(spec, seen["tokens"]), record["costs"]["flops_per_token"]]


def test_real_runs_come_in_with_weights_that_load_and_are_not_trained_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    toy(tmp_path)
    small = [
        "model.width={choice: [8, 16]}",
        "train.tokens=2Ki",
        "train.batch_tokens=512",
        "train.eval.tokens=512",
    ]
    options = [part for each in small for part in ("--set", each)]
    # paused at whole steps: 1000 tokens are 1024
    assert search(*options, "--set", "search.rungs=[1000]", "--trials", "2", "--out", "old", "--quiet") == 0
    before = contents(tmp_path / "old")
    options += ["--set", "search.rungs=[1Ki]", "--set", "search.keep=0.6", "--trials", "1", "--out", "new"]
    assert search(*options, "--import", "old") == 0
    assert "imported 2 of 2 runs of old" in capsys.readouterr().out
    assert contents(tmp_path / "old") == before
    came = [record for record in records(tmp_path / "new").values() if record["imported"]]
    for record in came:
        model = load_run(tmp_path / "new" / record["folder"])
        assert sum(p.numel() for p in model.parameters()) == record["costs"]["params"]
    assert sorted(path.name for path in (tmp_path / "new" / "trials").iterdir()) == ["2"]
    assert "imported" in (tmp_path / "new" / "report.html").read_text()

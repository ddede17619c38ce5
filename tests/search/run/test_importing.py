"""`--import`: what comes in, in whose terms, at whose cost, and who is told."""

from __future__ import annotations

import json
import shutil

import fake_training
import kill_import
import optuna
import pytest
from fake_training import FakeTraining, accuracy, board, toy
from importing_cases import MORE, contents, imported, old_search, records, trials
from worker import kills

from composer import load
from composer.language.schema.identity import run_hash
from search.errors import Crash
from search.propose.evolution import Population
from search.propose.same_spec import SameSpec
from search.report.read import read
from search.run import study, worker
from search.run.study import run_search

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(worker, "POLL", 0.05)


def test_more_choices_take_over_every_trial_and_train_none_again(tmp_path):
    old = records(old_search(tmp_path))
    before = contents(tmp_path / "old")
    assert {record["status"] for record in old.values()} == {"finished", "stopped"}
    assert imported(tmp_path, MORE, "search.trials=4") == "imported 6 of 6 runs"
    new = records(tmp_path / "new")
    for identity, was in old.items():
        now = new[identity]
        for same in ("status", "params", "costs", "seen", "seconds", "whole"):
            assert now[same] == was[same]
        assert now["imported"] == str(tmp_path / "old")
        place = tmp_path / "new" / now["folder"]
        assert run_hash(load(place / "spec.yaml")) == identity
        checkpoint = tmp_path / "old" / was["folder"] / "best.ckpt"
        assert (place / "best.ckpt").samefile(checkpoint)
        assert (place / "tokens").read_text() == str(was["seen"][-1]["tokens"])
        assert not (place / "tokens").samefile(tmp_path / "old" / was["folder"] / "tokens")
    training = FakeTraining()
    ended = run_search(toy(tmp_path, MORE, "search.trials=4"), tmp_path / "new", training)
    # four of its own, and none of them one that came in
    assert ended.reason == "all 4 trials are done"
    assert ended.state.counted() == "4 of 4 trials and 6 imported"
    own = [record for record in ended.state.ledger.trials() if not record.imported]
    assert sorted(record.name for record in own) == ["6", "7", "8", "9"]
    assert {folder for folder, *_ in training.calls} == {record.folder for record in own}
    assert not {record.identity for record in own} & set(old)
    assert sum(trial.user_attrs["outcome"] == "repeat" for trial in trials(tmp_path / "new")) == 0
    assert len(board(tmp_path / "new")) == 10
    assert contents(tmp_path / "old") == before


def test_budgets_and_proposals_do_not_count_what_came_in(tmp_path):
    old_search(tmp_path)
    limits = ["search.tokens=30Ki", "search.trials=20"]
    imported(tmp_path, MORE, *limits)
    run_search(toy(tmp_path, MORE, *limits), tmp_path / "alone", FakeTraining())
    ended = run_search(toy(tmp_path, MORE, *limits), tmp_path / "new", FakeTraining())
    own = [record for record in ended.state.ledger.trials() if not record.imported]
    (account,) = ended.state.accounts()
    assert account.spent == sum(record.tokens for record in own) >= 30 * 1024
    assert ended.state.spent() == sum(record.seconds for record in own)
    assert ended.state.outcomes == {"feasible": len(own)}
    source = read(tmp_path / "new")
    assert source.proposals is not None
    assert len(source.proposals) == len(own)


def test_the_sampler_is_told_what_it_would_have_been_told_had_it_asked(tmp_path):
    def fault(spec, tokens):
        if spec.model.width == 16:
            raise Crash("too narrow")

    old = records(old_search(tmp_path, fault=fault))
    assert {"finished", "crashed"} < {record["status"] for record in old.values()}
    imported(tmp_path, MORE)
    new = {record["asked"]: record for record in records(tmp_path / "new").values()}
    assert sorted(new) == list(range(6))
    for trial, was in zip(trials(tmp_path / "new"), trials(tmp_path / "old"), strict=True):
        record = new[trial.number]
        assert (trial.state.name, trial.params) == ("COMPLETE", record["params"])
        assert trial.system_attrs["identity"] == record["identity"]
        assert trial.user_attrs == {
            "outcome": "imported",
            "run": record["folder"],
            "status": record["status"],
            "tokens": record["seen"][-1]["tokens"] if record["seen"] else 0,
        }
        assert (trial.params, trial.constraints) == (was.params, was.constraints)
        assert (trial.constraints["crashed"] > 0) == (record["status"] == "crashed")
        if record["status"] != "crashed":
            assert trial.values == record["seen"][-1]["values"]
    # what crashed there is not tried here
    training = FakeTraining()
    run_search(toy(tmp_path, MORE, "search.trials=3"), tmp_path / "new", training)
    assert {folder for folder, *_ in training.calls} == {"trials/6", "trials/7", "trials/8"}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution", "random"])
def test_every_sampler_takes_what_came_in_for_its_own(tmp_path, sampler):
    """An exhausted space: all eight points are here, so there is none left to train."""
    few = ["model.width=16", "blocks.expert={type: expert_attention, experts: 4, active: 1, hidden: 16}"]
    few += ["stages.0.recur={int: [1, 2]}", "search.trials=8", "search.rungs=[]", "search.keep=1"]
    old_search(tmp_path, *few)
    assert imported(tmp_path, *few, f"search.sampler={sampler}", "caps.params=50k") == "imported 8 of 8 runs"
    space = toy(tmp_path, *few, f"search.sampler={sampler}", "caps.params=50k", "search.trials=1")
    study.PATIENCE, before = 3, study.PATIENCE
    try:
        training = FakeTraining()
        ended = run_search(space, tmp_path / "new", training)
    finally:
        study.PATIENCE = before
    assert training.calls == []
    assert ended.reason.startswith("no new feasible spec in 3 proposals in a row")
    assert ended.state.outcomes == {"repeat": 3}
    assert ended.state.winner().imported
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "new" / "study.journal"))
    result = optuna.load_study(study_name="toy", storage=optuna.storages.JournalStorage(backend))
    assert {parent.name for _, parent in Population().ranked(result)} == set("01234567")
    if sampler == "nsga2":
        assert len(optuna.samplers.NSGAIISampler().get_population(result, 0)) >= 8


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        # a value that was fixed is asked for, by its place
        (["model.width=32"], [], None),
        # by its place, where it followed from other values and is not written
        (["blocks.seq={type: sequence_attention, heads: 2}"], [], None),
        # under a name of `let`, where nothing says which answer was it
        (["model.width=32"], ["let={w: {choice: [16, 32, 64]}}", "model.width='${w}'"], None),
        # by another name
        ([], ["let={w: {choice: [16, 32, 64]}}", "model.width='${w}'"], None),
        # written as a quantity
        (["train.tokens=8Ki"], ["train.tokens={choice: [4Ki, 8Ki]}"], None),
        # a real number under another name
        (["train.lr=2e-3"], ["let={r: {float: [1e-4, 1e-1], log: true}}", "train.lr='${r}'"], None),
        # alternatives under other names
        ([], ["stages.0.step={choice: {flat: [seq, expert], deep: [seq, depth, expert]}}"], None),
        # a parameter more inside of an alternative
        ([], ["blocks.depth.kv_heads={choice: [1, 2]}"], None),
        ([], ["train.tokens=9Ki"], "imported 0 of 6 runs; not a point of this space: 6 "
         "(trial 0: train.tokens is 8192 there, 9216 here)"),
        ([], ["train.seed=1"], "imported 0 of 6 runs; trained with another seed: 6 (train.seed is 0 there)"),
    ],
)  # fmt: skip
def test_runs_are_found_again_in_a_space_that_asks_otherwise(tmp_path, there, here, message):
    old = records(old_search(tmp_path, *there))
    assert imported(tmp_path, *here) == (message or "imported 6 of 6 runs")
    new = records(tmp_path / "new")
    space = toy(tmp_path, *here)
    for identity, record in new.items():
        point = space.point(lambda parameter: record["params"][parameter.name])  # noqa: B023
        assert (point.params, run_hash(point.spec)) == (record["params"], identity)
    assert set(new) == (set() if message else set(old))


def test_a_choice_that_is_fixed_now_takes_over_the_trials_that_made_it(tmp_path):
    old = records(old_search(tmp_path))
    wide = {identity for identity, record in old.items() if record["params"]["model.width"] == 32}
    assert 0 < len(wide) < 6
    message = imported(tmp_path, "model.width=32")
    assert message.startswith(
        f"imported {len(wide)} of 6 runs; not a point of this space: {6 - len(wide)} (trial"
    )
    assert message.endswith("model.width is 16 there, 32 here)")
    new = records(tmp_path / "new")
    assert set(new) == wide
    assert all("model.width" not in record["params"] for record in new.values())
    assert {trial.params.get("model.width") for trial in trials(tmp_path / "new")} == {None}


def test_an_answer_that_is_none_any_more_is_named(tmp_path):
    old_search(tmp_path, "model.width=32")
    message = imported(tmp_path, "model.width={choice: [16, 48]}")
    assert message == "imported 0 of 6 runs; not a point of this space: 6 (trial 0: model.width is 32 there)"


def test_tighter_caps_let_in_what_keeps_them_under_these_caps(tmp_path):
    old = records(old_search(tmp_path))
    light = {identity for identity, record in old.items() if record["costs"]["params"] <= 20_000}
    assert 0 < len(light) < 6
    message = imported(tmp_path, "caps.params=20k")
    assert message.startswith(
        f"imported {len(light)} of 6 runs; over the caps of this space: {6 - len(light)} (trial"
    )
    assert ": params by " in message
    new = records(tmp_path / "new")
    assert set(new) == light
    for record in new.values():
        assert load(tmp_path / "new" / record["folder"] / "spec.yaml").caps.limits()["params"] == 20_000


def test_values_are_those_of_the_new_objectives(tmp_path):
    old = records(old_search(tmp_path))
    assert imported(tmp_path, "search.objectives=[{minimize: loss}, {minimize: params}]").startswith(
        "imported 6 of 6"
    )
    for identity, record in records(tmp_path / "new").items():
        for seen in record["seen"]:
            assert seen["values"] == [seen["metrics"]["loss"], old[identity]["costs"]["params"]]


def test_an_objective_that_was_not_measured_keeps_a_run_out(tmp_path):
    old_search(tmp_path)
    message = imported(tmp_path, "search.objectives=[{maximize: accuracy_k2}]")
    assert message == "imported 0 of 6 runs; an objective was not measured: 6 (trial 0: accuracy_k2)"


def test_a_run_that_was_not_looked_at_where_this_space_looks_stays_out(tmp_path, monkeypatch):
    # the order turns over at the second rung, so that some stop there
    def turned(spec, tokens):
        return 1 - accuracy(spec, tokens) if tokens == 4096 else accuracy(spec, tokens)

    monkeypatch.setattr(fake_training, "accuracy", turned)
    old = records(old_search(tmp_path, "search.keep=0.3", "search.trials=12"))
    by_tokens = {n: sum(r["seen"][-1]["tokens"] == n for r in old.values()) for n in (2048, 4096, 8192)}
    assert all(by_tokens.values()), by_tokens
    # a rung less: what was stopped before the one that is left has nothing to show
    message = imported(tmp_path, "search.rungs=[4Ki]")
    assert message.startswith(
        f"imported {12 - by_tokens[2048]} of 12 runs; stopped before the first rung here: "
    )
    new = records(tmp_path / "new")
    assert {len(r["seen"]) for r in new.values() if r["status"] == "stopped"} == {1}
    assert {len(r["seen"]) for r in new.values() if r["status"] == "finished"} == {2}
    shutil.rmtree(tmp_path / "new")
    # another rung more: nobody was measured there, but some were stopped before
    message = imported(tmp_path, "search.rungs=[2Ki, 3Ki, 4Ki]")
    assert message == (
        f"imported {12 - by_tokens[8192]} of 12 runs; "
        f"not measured at the rungs here: {by_tokens[8192]} (trial {_first(old, 'finished')}: 3072 tokens)"
    )
    # they are known as of the last rung up to which they were measured at each
    assert {r["seen"][-1]["tokens"] for r in records(tmp_path / "new").values()} == {2048}
    shutil.rmtree(tmp_path / "new")
    # none: only what was trained in full
    assert imported(tmp_path, "search.rungs=[]").startswith(f"imported {by_tokens[8192]} of 12 runs; ")


def _first(old: dict[str, dict], status: str) -> str:
    return min((r["name"] for r in old.values() if r["status"] == status), key=int)


def test_rungs_are_matched_as_whole_steps_and_in_flops(tmp_path):
    """2000 tokens are two steps of 1024; rungs in FLOPs fall on other tokens for each spec."""
    old = records(old_search(tmp_path, "search.rungs=[2Ki]"))
    assert imported(tmp_path, "search.rungs=[2000]") == "imported 6 of 6 runs"
    assert {r["seen"][0]["tokens"] for r in records(tmp_path / "new").values()} == {2048}
    shutil.rmtree(tmp_path / "new")
    flops = sorted(int(record["costs"]["train_flops"]) for record in old.values())
    quarter = flops[3] // 4
    imported(tmp_path, f"search.rungs={{flops: [{quarter}]}}")
    new = records(tmp_path / "new")
    assert 0 < len(new) < 6
    for identity, record in old.items():
        step = record["costs"]["train_flops"] / 8
        at = -(-quarter // step)
        fits = at == 2 or (at >= 8 and record["status"] == "finished")
        assert (identity in new) == fits, (at, record["status"])


def test_baselines_of_both_come_in_as_baselines_and_are_not_trained_again(tmp_path):
    old_search(tmp_path, baseline="rival.yaml")
    assert imported(tmp_path, MORE, baseline="rival.yaml") == "imported 7 of 7 runs"
    (came,) = (r for r in records(tmp_path / "new").values() if r["kind"] == "baseline")
    assert (came["name"], came["folder"], came["asked"]) == ("rival", "imported/rival", None)
    assert len(trials(tmp_path / "new")) == 6
    training = FakeTraining()
    ended = run_search(
        toy(tmp_path, MORE, "search.trials=1", baseline="rival.yaml"), tmp_path / "new", training
    )
    assert {folder for folder, *_ in training.calls} == {"trials/6"}
    assert [record.name for record in ended.state.front("baseline")] == ["rival"]


def test_a_baseline_there_may_be_a_trial_here_and_a_trial_there_a_baseline(tmp_path):
    point = (
        toy(tmp_path)
        .point(lambda parameter: parameter.choices[0] if parameter.choices else int(parameter.low))
        .spec
    )
    from composer.language.description.show import resolved_yaml

    (tmp_path / "low.yaml").write_text(resolved_yaml(point))
    old_search(tmp_path, "search.trials=1", baseline="low.yaml")
    assert imported(tmp_path, MORE).startswith("imported 2 of 2")
    new = records(tmp_path / "new")
    assert (new[run_hash(point)]["kind"], new[run_hash(point)]["name"]) == ("trial", "0")
    assert new[run_hash(point)]["params"]["model.width"] == 16
    # and back: what was a trial is the baseline that the space names
    shutil.rmtree(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "old")
    imported(tmp_path, "caps.params=59k", baseline="low.yaml")
    assert records(tmp_path / "new")[run_hash(point)]["name"] == "low"


def test_finals_stay_and_what_came_in_may_be_a_finalist(tmp_path):
    old_search(tmp_path, "search.seeds=1")
    message = imported(tmp_path, MORE)
    assert message == "imported 6 of 6 runs"
    wanted = ["search.trials=1", "search.seeds=2", "search.finalists=2"]
    ended = run_search(toy(tmp_path, MORE, *wanted), tmp_path / "new", FakeTraining())
    standings = ended.state.finals().standings()
    assert [len(at.runs) for at in standings] == [2, 2]
    assert any(at.base.imported for at in standings)


def test_what_is_still_running_there_waits_for_a_later_import_which_takes_only_that(tmp_path):
    old_search(tmp_path)
    path = tmp_path / "old" / "records" / "trial-4.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"status": "running"}))
    assert imported(tmp_path, MORE) == "imported 5 of 6 runs; still running there: 1"
    path.write_text(whole)
    once = contents(tmp_path / "new" / "records")
    assert imported(tmp_path, MORE) == "imported 1 of 6 runs; known here already: 5"
    assert imported(tmp_path, MORE) == "imported 0 of 6 runs; known here already: 6"
    twice = contents(tmp_path / "new" / "records")
    assert {name: twice[name] for name in once if name.endswith(".json")} == {
        name: text for name, text in once.items() if name.endswith(".json")
    }
    assert len(trials(tmp_path / "new")) == 6


def test_an_import_amid_a_search_takes_the_next_numbers_and_passes_what_is_known(tmp_path):
    old = records(old_search(tmp_path))
    run_search(toy(tmp_path, "search.keep=0.6", "search.trials=2"), tmp_path / "new", FakeTraining())
    own = records(tmp_path / "new")
    both = set(own) & set(old)
    # the same seed, so the same first proposals
    assert both
    assert imported(tmp_path, "search.keep=0.6").endswith(f"known here already: {len(both)}")
    new = records(tmp_path / "new")
    assert {identity: new[identity] for identity in own} == own
    assert sorted(int(r["name"]) for r in new.values()) == list(range(len(new)))


def test_the_journal_that_was_lost_is_told_again(tmp_path):
    old_search(tmp_path)
    imported(tmp_path, MORE)
    (tmp_path / "new" / "study.journal").unlink()
    imported(tmp_path, MORE)
    assert len(trials(tmp_path / "new")) == 6
    assert {r["asked"] for r in records(tmp_path / "new").values()} == set(range(6))


@pytest.mark.parametrize("stride", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_an_import_killed_at_any_moment_leaves_nothing_half_done(tmp_path, stride):
    """Each link, each file put in place, each record of the journal is once the last; see the script."""
    assert kills(kill_import.main, tmp_path, stride) > 20


def counted(space):
    """A list that grows with each point that the space is asked for from now on."""
    asked, point = [], space.point

    def counting(ask):
        asked.append(1)
        return point(ask)

    space.point = counting
    return asked


def test_of_answers_that_may_be_many_no_more_than_some_hundred_are_tried(tmp_path):
    space = toy(tmp_path, "let={a: {int: [1, 1000]}, b: {int: [1, 1000]}}", "train.lr='${a * b}'")
    asked = counted(space)
    spec = toy(tmp_path).example().spec
    assert isinstance(SameSpec(space).find("nowhere", {}, spec), str)
    assert len(asked) == 500


def test_what_answered_the_last_run_is_tried_first_for_the_next(tmp_path):
    let = ["let={w: {choice: [16, 24, 32, 48, 64]}}", "model.width='${w}'"]
    space = toy(tmp_path, *let)
    finder, spec = SameSpec(space), toy(tmp_path, "model.width=64").example().spec
    asked = counted(space)
    assert finder.find(run_hash(spec), {}, spec).spec.model.width == 64
    first = len(asked)
    assert finder.find(run_hash(spec), {}, spec).spec.model.width == 64
    assert (len(asked) - first) == 1 < first

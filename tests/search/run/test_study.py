"""The loop of a search, with a trainer that takes no time."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import kill_everywhere
import optuna
import pytest
from fake_training import TWO, FakeTraining, accuracy, board, toy
from worker import kills

from composer import SpecError, cost, load
from composer.costs.fitting.caps import excesses
from composer.language.schema.identity import run_hash
from composer.language.space import load_space
from search.errors import Crash, SearchError
from search.run import study
from search.run.study import run_search
from search.store.journal import mend

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def careless(monkeypatch):
    """A sampler that knows nothing of caps, so that its proposals are of each kind."""
    monkeypatch.setattr(
        study, "sampler", lambda space, judge: optuna.samplers.RandomSampler(space.search.seed)
    )


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    )
    return optuna.load_study(study_name=None, storage=storage).get_trials()


def specs(folder: Path):
    return {path.parent.name: load(path) for path in folder.glob("trials/*/spec.yaml")}


def test_what_is_trained_is_within_the_caps_counted_and_trained_once(tmp_path, careless):
    fake = FakeTraining()
    ended = run_search(toy(tmp_path, "search.trials=12"), tmp_path / "run", fake)
    trained = specs(tmp_path / "run")
    assert len(trained) == 12 == len(ended.state.done())
    assert len({run_hash(spec) for spec in trained.values()}) == 12
    assert not any(excesses(spec, cost(spec)) for spec in trained.values())
    outcomes = Counter(trial.user_attrs["outcome"] for trial in trials(tmp_path / "run"))
    assert outcomes == ended.state.outcomes
    assert outcomes["feasible"] == 12
    # the space is made to propose some of each
    assert outcomes["over"] > 0
    assert outcomes["invalid"] > 0
    assert len(fake.calls) == len(set(fake.calls))


def test_refused_candidates_are_told_with_constraints_and_finite_values_the_worst_so_far(tmp_path, careless):
    run_search(toy(tmp_path, "search.trials=12"), tmp_path / "run", FakeTraining())
    worst = None
    for trial in trials(tmp_path / "run"):
        assert trial.state == optuna.trial.TrialState.COMPLETE
        violated = max(trial.constraints.values()) > 0
        assert violated == (trial.user_attrs["outcome"] in ("over", "invalid"))
        if violated:
            assert trial.value == (worst or 0)
        else:
            worst = trial.value if worst is None else min(worst, trial.value)


def test_optuna_offers_no_refused_candidate_as_best(tmp_path, careless):
    run_search(toy(tmp_path, TWO, "search.trials=12"), tmp_path / "run", FakeTraining())
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / "study.journal"))
    )
    study = optuna.load_study(study_name="toy", storage=storage)
    assert study.best_trials
    assert {trial.user_attrs["outcome"] for trial in study.best_trials} <= {"feasible", "repeat"}
    assert study.metric_names == ["accuracy", "flops_per_token"]


def test_a_trial_goes_on_from_its_own_checkpoint_and_is_told_once_with_its_last_point(tmp_path):
    fake = FakeTraining()
    run_search(toy(tmp_path, "search.trials=12"), tmp_path / "run", fake)
    rows = {row["trial"]: row for row in board(tmp_path / "run")}
    ends = {"stopped": (2048, 4096), "finished": (8192,)}
    for number, row in rows.items():
        pieces = [(start, end) for folder, start, end in fake.calls if folder == f"trials/{number}"]
        assert pieces == list(itertools.pairwise([0, 2048, 4096, 8192]))[: len(pieces)]
        assert int(row["rung"]) == len(pieces)
        assert int(row["tokens"]) == pieces[-1][1]
        assert pieces[-1][1] in ends[row["status"]]
    assert {row["status"] for row in rows.values()} == set(ends)
    values = {
        t.user_attrs["run"]: t.value
        for t in trials(tmp_path / "run")
        if t.user_attrs["outcome"] == "feasible"
    }
    assert values == {row["folder"]: float(row["accuracy"]) for row in rows.values()}


def test_the_best_of_a_rung_is_not_stopped_there(tmp_path):
    run_search(toy(tmp_path, "search.trials=12", "search.keep=0.1"), tmp_path / "run", FakeTraining())
    by_run = specs(tmp_path / "run")
    best = max(by_run, key=lambda number: accuracy(by_run[number], 8192))
    assert next(row for row in board(tmp_path / "run"))["trial"] == best


def test_without_rungs_everything_is_trained_in_full(tmp_path):
    run_search(toy(tmp_path, "search.rungs=[]"), tmp_path / "run", FakeTraining())
    assert {row["status"] for row in board(tmp_path / "run")} == {"finished"}


def test_tokens_may_be_a_parameter(tmp_path):
    space = toy(tmp_path, "train.tokens={choice: [4Ki, 8Ki]}", "search.trials=8", "search.keep=1")
    run_search(space, tmp_path / "run", FakeTraining())
    assert {row["tokens"] for row in board(tmp_path / "run")} == {"4096", "8192"}


@pytest.mark.parametrize(
    ("sampler", "goals"),
    [
        ("tpe", "search.seed=1"),
        ("nsga2", TWO),
        ("evolution", TWO),
        ("random", "search.seed=1"),
        pytest.param("tpe", TWO, marks=pytest.mark.slow),
        pytest.param("evolution", "search.seed=1", marks=pytest.mark.slow),
    ],
)
def test_the_same_seed_gives_the_same_search(tmp_path, sampler, goals):
    space = toy(tmp_path, f"search.sampler={sampler}", goals, "search.trials=14")
    for name in "ab":
        run_search(space, tmp_path / name, FakeTraining())
    a, b = ([(t.params, t.values, t.user_attrs) for t in trials(tmp_path / name)] for name in "ab")
    assert a == b
    other = toy(tmp_path, f"search.sampler={sampler}", goals, "search.trials=14", "search.seed=7")
    run_search(other, tmp_path / "c", FakeTraining())
    assert [t.params for t in trials(tmp_path / "c")] != [params for params, *_ in a]


def test_two_objectives_end_in_a_front_whose_best_in_the_first_is_the_winner(tmp_path):
    run_search(toy(tmp_path, TWO, "search.trials=30"), tmp_path / "run", FakeTraining())
    rows = board(tmp_path / "run")
    full = {
        r["trial"]: (float(r["accuracy"]), -float(r["flops_per_token"]))
        for r in rows
        if r["status"] == "finished"
    }
    beaten = {
        a
        for a in full
        for b in full
        if full[a] != full[b] and all(x <= y for x, y in zip(full[a], full[b], strict=True))
    }
    assert {r["trial"] for r in rows if r["front"] == "1"} == full.keys() - beaten
    assert 1 < len(full.keys() - beaten) < len(full)
    winner = max(full, key=full.__getitem__)
    for name in ("spec.yaml", "best.ckpt"):
        best, own = (tmp_path / "run" / place / name for place in ("best", f"trials/{winner}"))
        assert best.read_text() == own.read_text()


def test_a_baseline_enters_first_counts_for_nothing_and_is_told_to_nobody(tmp_path):
    fake = FakeTraining()
    ended = run_search(toy(tmp_path, baseline="rival.yaml"), tmp_path / "run", fake)
    assert fake.calls[:3] == [
        ("baselines/rival", *pair) for pair in itertools.pairwise([0, 2048, 4096, 8192])
    ]
    assert len(ended.state.done()) == 6
    rows = {row["trial"]: row for row in board(tmp_path / "run")}
    assert (rows["rival"]["kind"], rows["rival"]["status"]) == ("baseline", "finished")
    assert "baselines/rival" not in {t.user_attrs.get("run") for t in trials(tmp_path / "run")}
    assert ended.state.winner().kind == "trial"


def test_a_baseline_that_is_a_point_of_the_space_is_trained_once(tmp_path):
    space = toy(tmp_path)
    run_search(space, tmp_path / "first", FakeTraining())
    (tmp_path / "point.yaml").write_text((tmp_path / "first" / "trials" / "0" / "spec.yaml").read_text())
    fake = FakeTraining()
    ended = run_search(toy(tmp_path, baseline="point.yaml"), tmp_path / "run", fake)
    repeats = [t for t in trials(tmp_path / "run") if t.user_attrs["outcome"] == "repeat"]
    assert repeats[0].user_attrs["run"] == "baselines/point"
    assert repeats[0].value == accuracy(load(tmp_path / "point.yaml"), 8192)
    assert len(ended.state.done()) == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("caps.params=10k", ["rival.yaml", "within the caps of toy", "params", "% over"]),
        ("train.tokens=16Ki", ["rival.yaml", "at least the last rung (10240)", "with 8192"]),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused_before_anything_is_trained(
    tmp_path, override, message
):
    rungs = ["search.rungs=[10Ki]"] if "tokens" in override else []
    space, fake = toy(tmp_path, override, *rungs, baseline="rival.yaml"), FakeTraining()
    with pytest.raises(SpecError, match=r"space\.yaml:24:15  search\.baselines\.0: ") as caught:
        run_search(space, tmp_path / "run", fake)
    assert all(part in str(caught.value) for part in message)
    assert not fake.calls


def test_a_baseline_over_its_own_cap_is_refused(tmp_path):
    toy(tmp_path, baseline="rival.yaml")
    path = tmp_path / "rival.yaml"
    path.write_text(path.read_text() + "caps: {params: 100}\n")
    with pytest.raises(SpecError, match="params"):
        run_search(load_space(tmp_path / "space.yaml"), tmp_path / "run", FakeTraining())


def test_a_space_without_a_feasible_point_names_the_cap_and_the_nearest_miss(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PATIENCE", 30)
    fake = FakeTraining()
    with pytest.raises(SearchError) as caught:
        run_search(toy(tmp_path, "caps.params=1k", "caps.flops_per_token=2G"), tmp_path / "run", fake)
    message = r"none of 30 candidates .* (\d+) are valid specs, and \1 of these are over caps.params"
    assert re.search(message, str(caught.value))
    assert "the nearest miss exceeds params by" in str(caught.value)
    assert "raise caps.params" in str(caught.value)
    assert not fake.calls


def test_an_exhausted_space_ends_with_all_its_points_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "PATIENCE", 120)
    small = ["model.width=16", "blocks.expert={type: expert_attention, experts: 4, active: 1, hidden: 16}"]
    space = toy(tmp_path, *small, "stages.0.recur={int: [1, 2]}", "search.trials=99", "search.keep=1")
    ended = run_search(space, tmp_path / "run", FakeTraining())
    assert "no new feasible spec in 120 proposals in a row" in ended.reason
    assert len(ended.state.done()) == 2 * 2 * 2
    assert ended.state.outcomes["repeat"] >= 120


def test_a_crash_is_recorded_with_its_reason_and_not_tried_again(tmp_path):
    def fault(spec, tokens):
        if spec.model.width == 32 and tokens > 2048:
            raise Crash("the loss is nan at 4096 tokens")

    space = toy(tmp_path, "search.trials=14", "search.keep=1", "search.seed=2")
    for _ in range(2):
        fake = FakeTraining(fault)
        ended = run_search(space, tmp_path / "run", fake)
    assert not fake.calls
    rows = board(tmp_path / "run")
    crashed = [row for row in rows if row["status"] == "crashed"]
    assert crashed
    assert {row["reason"] for row in crashed} == {"the loss is nan at 4096 tokens"}
    assert {row["model.width"] for row in crashed} == {"32"}
    assert len(ended.state.done()) == 14
    by_run = {
        t.user_attrs["run"]: t for t in trials(tmp_path / "run") if t.user_attrs["outcome"] == "feasible"
    }
    assert all(by_run[row["folder"]].constraints["crashed"] == (row["status"] == "crashed") for row in rows)


def test_three_crashes_in_a_row_stop_with_their_reasons_and_advice(tmp_path):
    def fault(spec, tokens):
        raise Crash(f"no memory for width {spec.model.width}")

    space, fake = toy(tmp_path), FakeTraining(fault)
    with pytest.raises(SearchError) as caught:
        run_search(space, tmp_path / "run", fake)
    assert str(caught.value).count("no memory for width") == 3
    assert "train.lr" in str(caught.value)
    # mended, the same command goes on with other candidates
    ended = run_search(space, tmp_path / "run", FakeTraining())
    assert [record.status for record in ended.state.done()].count("crashed") == 3
    assert len(ended.state.done()) == 6


def test_a_metric_that_is_not_finite_is_a_crash(tmp_path):
    class Broken(FakeTraining):
        def __call__(self, spec, folder, until, report):
            trained = super().__call__(spec, folder, until, report)
            if len(self.calls) == 1:
                trained.metrics["accuracy"] = float("nan")
            return trained

    run_search(toy(tmp_path), tmp_path / "run", Broken())
    assert {row["trial"] for row in board(tmp_path / "run") if row["reason"] == "accuracy is nan"} == {"0"}


def test_an_objective_that_nothing_measures_is_refused_where_it_stands(tmp_path):
    with pytest.raises(SpecError, match=r"0\.maximize: .*, got 'acuracy' \(did you mean accuracy"):
        toy(tmp_path, "search.objectives=[{maximize: acuracy}]")


def test_a_metric_that_training_turns_out_not_to_measure_is_told_with_what_there_is(tmp_path):
    space = toy(tmp_path, "search.objectives=[{maximize: accuracy_k1}]")
    with pytest.raises(SearchError) as caught:
        run_search(space, tmp_path / "run", FakeTraining())
    assert "'accuracy_k1'; did you mean accuracy" in str(caught.value)
    assert "flops_per_token" in str(caught.value)


def test_a_seed_is_no_parameter(tmp_path):
    with pytest.raises(SpecError, match=r"train\.seed: expected one seed"):
        toy(tmp_path, "train.seed={int: [0, 3]}")


def test_a_time_limit_starts_no_further_trial(tmp_path):
    ended = run_search(toy(tmp_path, "search.time_limit=1e-9"), tmp_path / "run", FakeTraining())
    assert ended.reason.startswith("the budget of 0s by the clock is used up after 1 of 6 trials")


def test_a_finished_search_is_done_and_more_trials_go_on(tmp_path):
    run_search(toy(tmp_path), tmp_path / "run", FakeTraining())
    before = board(tmp_path / "run")
    again = FakeTraining()
    assert run_search(toy(tmp_path), tmp_path / "run", again).reason == "all 6 trials are done"
    assert (board(tmp_path / "run"), again.calls) == (before, [])
    run_search(toy(tmp_path, "search.trials=9"), tmp_path / "run", again)
    run_search(toy(tmp_path, "search.trials=9"), tmp_path / "whole", FakeTraining())
    assert [t.params for t in trials(tmp_path / "run")] == [t.params for t in trials(tmp_path / "whole")]


def test_a_changed_space_is_refused_with_the_difference(tmp_path):
    run_search(toy(tmp_path), tmp_path / "run", FakeTraining())
    changed = toy(tmp_path, "model.width={choice: [16, 48]}", "caps.params=50k")
    with pytest.raises(SearchError) as caught:
        run_search(changed, tmp_path / "run", FakeTraining())
    message = str(caught.value)
    assert "of another space" in message
    assert '- caps.params: "60k"' in message
    assert '+ caps.params: "50k"' in message
    assert "+ model.width.choice: [16, 48]" in message
    assert "stages" not in message


@pytest.mark.parametrize("kind", ["file", "other"])
def test_a_place_that_is_no_search_folder_is_refused(tmp_path, kind):
    place = tmp_path / "run"
    if kind == "file":
        place.write_text("")
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("")
    with pytest.raises(SearchError, match="got a file" if kind == "file" else r"contains thesis\.tex"):
        run_search(toy(tmp_path), place, FakeTraining())


@pytest.mark.parametrize("tail", [b'{"op_code":5,"worker', b"\0\0\0\0", b'{"op_code"\n', b"\n"])
def test_a_torn_tail_of_the_journal_is_cut_off(tmp_path, tail):
    run_search(toy(tmp_path), tmp_path / "run", FakeTraining())
    path = tmp_path / "run" / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    run_search(toy(tmp_path, "search.trials=8"), tmp_path / "run", FakeTraining())
    assert path.read_bytes().startswith(whole)
    assert len(board(tmp_path / "run")) == 8


def test_damage_amid_the_journal_is_told_with_its_line(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"a":1}\n{"b"\n{"c":3}\n')
    with pytest.raises(SearchError, match=r"study\.journal:2: expected a record"):
        mend(path)


def test_a_lost_journal_costs_no_trial(tmp_path):
    run_search(toy(tmp_path), tmp_path / "run", FakeTraining())
    (tmp_path / "run" / "study.journal").unlink()
    again = FakeTraining()
    ended = run_search(toy(tmp_path, "search.trials=7"), tmp_path / "run", again)
    assert {folder for folder, *_ in again.calls} == {"trials/6"}
    assert len(ended.state.done()) == 7


def test_an_unreadable_record_is_told(tmp_path):
    run_search(toy(tmp_path), tmp_path / "run", FakeTraining())
    (tmp_path / "run" / "records" / "trial-2.json").write_text("{")
    with pytest.raises(SearchError, match=r"trial-2\.json: expected the record of a trial"):
        run_search(toy(tmp_path), tmp_path / "run", FakeTraining())


@pytest.mark.parametrize("stride", [53, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_repeated_it_ends_as_if_it_had_not_been(tmp_path, stride):
    """Each durable step (a record of the journal, half of one, a file put in place) is once the last."""
    assert kills(kill_everywhere.main, tmp_path, stride) > 100

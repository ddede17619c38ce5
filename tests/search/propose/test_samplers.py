"""Every sampler proposes what is feasible and new, whoever asks, and answers the same when asked again."""

from __future__ import annotations

import random

import optuna
import pytest
from fake_training import FakeTraining, toy
from generated_spaces import spaces
from hypothesis import given
from hypothesis import strategies as st
from narrow import explore, narrow
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from samples import samples

from composer.language.space import draw
from composer.settings.errors import SpecError
from search.propose import feasible, proposals
from search.propose.candidates import INVALID, Judge, candidate
from search.propose.draft_counts import Drawn, total
from search.propose.evolution import Evolution, Population
from search.propose.feasible import sampler
from search.propose.proposals import SurrogateSource
from search.run.study import run_search
from search.testing.samplers import answered

optuna.logging.set_verbosity(optuna.logging.WARNING)

FOUR = ["random", "tpe", "nsga2", "evolution"]


@samples(6, deadline=None)
@given(spaces(), st.integers(0, 10**6))
def test_the_quick_judge_says_what_the_slow_one_does(space, seed):
    judge, rng = Judge(space), random.Random(seed)
    for _ in range(12):
        judged = judge(lambda parameter: draw(parameter, rng))
        asked = lambda parameter, judged=judged: judged.params[parameter.name]  # noqa: E731
        proposed = candidate(space, asked)
        assert judge.candidate(asked) == proposed
        assert judged.params == proposed.params
        assert judged.feasible == (proposed.verdict == "feasible")
        assert judged.identity == (proposed.identity if judged.feasible else "")
        over = max((share for name, share in proposed.constraints.items() if name != INVALID), default=0)
        assert judged.excess == (float("inf") if proposed.verdict == "invalid" else max(over, 0))


def test_about_one_point_in_twenty_of_the_narrow_space_is_feasible(tmp_path):
    judge, rng = Judge(narrow(tmp_path)), random.Random(0)
    result = sum(judge(lambda parameter: draw(parameter, rng)).feasible for _ in range(800))
    assert 0.03 < result / 800 < 0.07


def test_the_default_proposes_nothing_infeasible_there_and_learns_to_draft_less_of_it(tmp_path):
    space = narrow(tmp_path)
    run = explore(space, sampler(space), 40)
    assert [outcome for _, outcome in run.proposals] == ["feasible"] * 40
    assert run.drawn(30).share < 0.5 < run.drawn().share
    assert run.drawn(30).costed / 10 < 4


def test_after_thirty_points_three_in_ten_of_its_drafts_are_infeasible_at_most(tmp_path):
    runs = [
        explore(space, sampler(space), 60)
        for space in (narrow(tmp_path, f"search.seed={seed}") for seed in range(2))
    ]
    late = [run.drawn(30) for run in runs]
    assert sum(each.infeasible for each in late) / sum(each.own for each in late) < 0.3


@pytest.mark.parametrize("name", FOUR)
def test_what_is_costed_is_counted(tmp_path, name):
    space = narrow(tmp_path, f"search.sampler={name}")
    run = explore(space, sampler(space), 14)
    drawn = run.drawn()
    assert drawn.found == 14
    assert drawn.costed >= drawn.own >= drawn.infeasible + drawn.known
    # whoever drew one that could not be taken drew again
    assert drawn.own - drawn.infeasible - drawn.known + (drawn.costed - drawn.own) >= 14
    assert total([{}, {"drawn": vars(drawn)}, {"drawn": vars(Drawn(costed=1))}]).costed == drawn.costed + 1


@samples(3, deadline=None)
@given(spaces(), st.integers(0, 10**6))
def test_children_of_evolution_are_valid_within_the_caps_and_new(space, seed):
    judge = Judge(space)
    study = optuna.create_study(sampler=feasible.Feasible(judge, Evolution(space, 24), seed))
    rng = random.Random(seed)
    if sum(judge(lambda parameter: draw(parameter, rng)).feasible for _ in range(50)) < 3:
        return
    known = set()
    for n in range(14):
        point, trial = answered(space, study)
        result = study.trials[-1].user_attrs["drawn"]["found"]
        if result:
            assert point.verdict == "feasible"
            assert point.identity not in known
            known.add(point.identity)
        for key, value in {"status": "finished", "tokens": 1, "outcome": "feasible"}.items():
            trial.set_user_attr(key, value)
        study.tell(trial, float(n % 5))
    assert known


def test_who_came_further_ranks_higher_and_equals_rank_by_fronts():
    study = optuna.create_study(directions=["maximize", "minimize"])

    def tell(status, tokens, values, outcome="feasible"):
        trial = study.ask()
        for name, value in {"status": status, "tokens": tokens, "outcome": outcome}.items():
            trial.set_user_attr(name, value)
        trial.set_user_attr("run", f"trials/{trial.number + 10}")
        study.tell(trial, values)

    tell("stopped", 100, (9.0, 0.0))
    tell("finished", 400, (0.5, 2.0))
    tell("stopped", 200, (0.1, 5.0))
    tell("finished", 300, (0.4, 1.0))
    tell("finished", 400, (0.4, 3.0))
    tell("crashed", 0, (0.0, 0.0))
    tell("finished", 400, (9.9, 0.0), "repeat")
    assert [(rank, parent.name) for rank, parent in Population().ranked(study)] == [
        (0, "11"),
        (0, "13"),
        (1, "14"),
        (2, "12"),
        (3, "10"),
    ]


def test_of_many_trials_a_model_is_shown_the_best_and_the_latest(tmp_path, monkeypatch):
    monkeypatch.setattr(proposals, "SHOWN", 4)
    space, seen = toy(tmp_path), []

    class Spy(RandomSampler):
        def sample_relative(self, study, trial, search_space):
            seen.append([each.values[0] for each in study.get_trials(states=(TrialState.COMPLETE,))])
            return {}

    study = optuna.create_study(direction="maximize")
    for number, value in enumerate([0.1, 0.9, 0.3, 0.8, 0.5, 0.2, 0.4]):
        study.add_trial(optuna.trial.create_trial(value=value))
        next(SurrogateSource(space, Spy, 1).drafts(study, study.ask(), [number], []))
    assert seen[3] == [0.1, 0.9, 0.3, 0.8]
    assert seen[-1] == [0.9, 0.8, 0.2, 0.4]


def test_evolution_prefers_the_better_parents_and_goes_uphill(tmp_path):
    best = {}
    for name in ("evolution", "random"):
        runs = [
            explore(space, sampler(space), 40)
            for seed in range(2)
            for space in [
                narrow(tmp_path, f"search.sampler={name}", f"search.seed={seed}", "caps.params=60k")
            ]
        ]
        best[name] = sum(run.curve[-1] for run in runs)
    assert best["evolution"] > best["random"]


def test_children_name_parents_and_moves_on_the_record_and_the_trial(tmp_path):
    space = toy(tmp_path, "search.sampler=evolution", "search.trials=18", "search.keep=1")
    ended = run_search(space, tmp_path / "run", FakeTraining())
    records = {record.name: record for record in ended.state.done()}
    children = [record for record in records.values() if record.origin.get("parents")]
    assert children
    for child in children:
        assert child.origin["moves"]
        assert all(int(name) < int(child.name) for name in child.origin["parents"])
        assert all(name in records for name in child.origin["parents"])
    texts = [text for child in children for text in child.origin["moves"]]
    assert any(" -> " in text for text in texts)
    assert ended.state.drawn.found == 18
    again = run_search(space, tmp_path / "run", FakeTraining())
    assert [record.origin for record in again.state.done()] == [r.origin for r in records.values()]


def test_refused_drafts_and_running_trials_are_in_the_copy_that_a_taught_sampler_sees(tmp_path):
    space = narrow(tmp_path)
    seen = []

    class Spy(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study, trial):
            others = [each for each in study.get_trials() if each.number != trial.number]
            states = [each.state.name for each in others]
            refused = sum(each.constraints.get("excess", 0) > 0 for each in others)
            seen.append((states.count("RUNNING"), refused))
            return {}

    taught = SurrogateSource(space, lambda seed: Spy(seed), 24)
    study = optuna.create_study(sampler=feasible.Feasible(Judge(space), taught, 0))
    answered(space, study)
    assert [running for running, _ in seen] == [0] * len(seen)
    assert [refused for _, refused in seen] == list(range(len(seen)))
    seen.clear()
    answered(space, study)
    # of the drafts before, the nearest misses
    assert seen[0] == (1, min(len(study.trials[0].system_attrs["misses"]), 4))
    assert len(study.trials) == 2


def test_gp_without_scipy_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("search.propose.sampler.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"search\.sampler: gp needs scipy.*attention-composer\[gp\]"):
        run_search(toy(tmp_path, "search.sampler=gp"), tmp_path / "run", FakeTraining())

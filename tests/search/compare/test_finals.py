"""Finals: finalists and baselines trained again at several rates and with fresh seeds."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest
from fake_training import AGAIN, TWO, Luck, toy
from hypothesis import given
from hypothesis import strategies as st

from composer import load
from composer.language.schema.identity import run_hash
from search.compare.finals import ranked
from search.report.write import write_report
from search.run.study import run_search


def search(folder, *more, train=None, name="run"):
    space = toy(folder, *AGAIN, *more, baseline="rival.yaml")
    train = train or Luck()
    return run_search(space, folder / name, train), train


def test_each_finalist_and_each_baseline_is_swept_and_then_trained_with_fresh_seeds_at_the_best_rate(
    tmp_path,
):
    ended, train = search(tmp_path)
    state = ended.state
    best = [record.name for record in ranked(state.goals, state.ledger)[:2]]
    standings = state.finals().standings()
    assert [at.base.name for at in standings] == [*best, "rival"]
    for at in standings:
        assert list(at.sweep) == [0.5, 1, 2]
        # train.lr is 3e-3 and 6e-3 is best
        assert at.lr == 2
        specs = [train.specs[run.folder] for run in at.runs]
        assert [spec.train.seed for spec in specs] == [1, 2, 3]
        assert {spec.train.lr for spec in specs} == {6e-3}
        base = train.specs[at.base.folder]
        assert base.train.seed == 0
        again = {"lr": 6e-3}
        same = base.model_copy(update={"train": base.train.model_copy(update=again)})
        assert {run_hash(spec) for spec in specs} == {run_hash(same)}
        values = [run.seen[-1].metrics["accuracy"] for run in at.runs]
        assert at.mean == (fmean(values),)
        assert at.spread == (stdev(values),)
        assert not at.left
    assert len(state.ledger.finals()) == 3 * (2 + 3) == state.finals().count()


def test_what_stands_in_a_final_s_folder_is_what_was_trained(tmp_path):
    ended, train = search(tmp_path)
    for record in ended.state.ledger.finals():
        assert run_hash(load(tmp_path / "run" / record.folder / "spec.yaml")) == run_hash(
            train.specs[record.folder]
        )


def test_the_winner_is_the_finalist_with_the_best_mean_whatever_the_search_saw(tmp_path):
    ended, _ = search(tmp_path)
    one, two = ended.state.finals().standings()[:2]
    # the leader of the search did worse with every fresh seed
    for run in one.runs:
        run.seen[-1].values = (run.seen[-1].values[0] - 1,)
    assert ended.state.winner() is two.base
    assert ended.state.best_run() is max(two.runs, key=lambda run: run.seen[-1].values)


def test_until_all_finalists_are_trained_again_the_winner_is_that_of_the_search(tmp_path):
    class Reversed(Luck):
        def __call__(self, spec, *more):
            result = super().__call__(spec, *more)
            result.metrics["accuracy"] *= -1 if spec.train.seed else 1
            return result

    winners = []

    def watch(event, state):
        if event == "ended" and state.running.kind == "final":
            winners.append(state.winner())

    more = ("search.seeds=1", "search.lr_sweep=[]", "search.finalists=3")
    ended = run_search(toy(tmp_path, *AGAIN, *more), tmp_path / "run", Reversed(), watch)
    best = ranked(ended.state.goals, ended.state.ledger)[:3]
    assert [each.key for each in winners] == [best[0].key, best[0].key, best[2].key]


def test_finals_of_a_record_that_was_deleted_are_no_finals_of_another(tmp_path):
    ended, _ = search(tmp_path, "search.lr_sweep=[]", "search.seeds=1")
    winner = ended.state.winner()
    (tmp_path / "run" / "records" / f"{winner.key}.json").unlink()
    write_report(tmp_path / "run")
    again, _ = search(tmp_path, "search.lr_sweep=[]", "search.seeds=1")
    assert len(again.state.done()) == 6
    assert {again.state.base(final).identity for final in again.state.ledger.finals()} <= {
        record.identity for record in again.state.ledger
    }


def test_finals_do_not_count_as_trials_and_come_after_them(tmp_path):
    ended, train = search(tmp_path)
    assert len(ended.state.done()) == 6
    order = list(dict.fromkeys(folder for folder, *_ in train.calls))
    kinds = [name.partition("/")[0] for name in order]
    assert kinds == ["baselines"] + ["trials"] * 6 + ["finals"] * 15


def test_a_worker_that_finds_no_trial_left_trains_baselines_again_meanwhile(tmp_path):
    space = toy(tmp_path, *AGAIN, "search.trials=1", baseline="rival.yaml")
    second = Luck()

    class Stop(Exception):
        pass

    def stop(event, state):
        if event == "note":
            raise Stop

    def meanwhile(spec, tokens):
        if tokens == 4096 and not second.calls:
            with pytest.raises(Stop):
                run_search(space, tmp_path / "run", second, stop)

    run_search(
        space,
        tmp_path / "run",
        Luck(fault=lambda spec, tokens: spec.name == "toy" and meanwhile(spec, tokens)),
    )
    # finalists are not known before the last trial ends
    assert {name.partition("-")[0] for name, *_ in second.calls} == {"finals/rival"}
    assert len(second.calls) == 5


def test_every_final_is_trained_whole_in_one_piece(tmp_path):
    _, train = search(tmp_path)
    finals = [piece for piece in train.calls if piece[0].startswith("finals")]
    assert {piece[1:] for piece in finals} == {(0, 8192)}


def test_more_seeds_later_add_to_those_there(tmp_path):
    search(tmp_path, "search.seeds=1")
    ended, second = search(tmp_path, "search.seeds=2")
    assert {name.rpartition("-")[2] for name, *_ in second.calls} == {"seed2"}
    assert [len(at.runs) for at in ended.state.finals().standings()] == [2, 2, 2]


def test_a_rate_that_crashes_is_not_chosen_and_a_seed_that_crashes_is_told(tmp_path):
    from search.errors import Crash

    def fault(spec, tokens):
        if spec.train.lr == 6e-3 or (spec.train.seed == 2 and spec.name == "toy"):
            raise Crash("the loss is nan")

    ended, _ = search(tmp_path, "search.seeds=2", train=Luck(fault=fault))
    for at in ended.state.finals().standings():
        assert at.sweep[2] is None
        assert at.lr == 1
        crashed = at.base.kind == "trial"
        assert (len(at.runs), at.crashed, at.left) == (2 - crashed, crashed, 0)
        assert (at.spread is None) == crashed
    assert ended.state.winner() is not None


def test_who_is_no_finalist_any_more_holds_nobody_up(tmp_path):
    search(tmp_path, "search.seeds=1", "search.finalists=3")
    ended, _ = search(tmp_path, "search.seeds=2", "search.finalists=1")
    first, *past, rival = ended.state.finals().standings()
    assert [len(at.runs) for at in (first, *past, rival)] == [2, 1, 1, 2]
    assert [at.left for at in (first, *past, rival)] == [0, 0, 0, 0]
    # nor does luck with fewer seeds make one of them the winner
    past[0].runs[0].seen[-1].values = (9.0,)
    assert ended.state.winner() is first.base


def test_with_a_sweep_alone_the_winner_and_its_weights_are_those_of_the_best_rate(tmp_path):
    ended, train = search(tmp_path, "search.seeds=0")
    standings = ended.state.finals().standings()[:2]
    assert ended.state.winner() is max(standings, key=lambda at: at.sweep[2]).base
    best = ended.state.best_run()
    assert best.again == {"of": ended.state.winner().key, "lr": 2, "seed": 0}
    assert (tmp_path / "run" / "best" / "from.txt").read_text().strip() == best.folder
    assert train.specs[best.folder].train.lr == 6e-3


def test_without_seeds_and_sweep_nothing_is_trained_again(tmp_path):
    ended, _ = search(tmp_path, "search.seeds=0", "search.lr_sweep=[]")
    assert ended.state.ledger.finals() == []
    assert ended.state.finals().standings() == []
    assert ended.state.best_run() is ended.state.winner()


def test_the_rate_is_chosen_by_what_training_measures(tmp_path):
    goals = "search.objectives=[{minimize: flops_per_token}, {maximize: accuracy}]"
    ended, _ = search(tmp_path, goals)
    assert {at.lr for at in ended.state.finals().standings()} == {2}


def test_a_killed_search_goes_on_with_its_finals(tmp_path):
    class Killed(BaseException):
        pass

    whole, _ = search(tmp_path, TWO, name="whole")
    steps = 0

    def fault(spec, tokens):
        nonlocal steps
        steps += 1
        if steps % 5 == 0:
            raise Killed

    train = Luck(fault=fault)
    for _ in range(40):
        try:
            ended, _ = search(tmp_path, TWO, train=train)
            break
        except Killed:
            pass
    choices = [
        [(at.base.name, at.sweep, at.lr, at.results) for at in each.state.finals().standings()]
        for each in (whole, ended)
    ]
    assert choices[0] == choices[1]
    assert len(train.calls) == len(set(train.calls))


@given(st.lists(st.tuples(st.sampled_from([0.25, 0.5, 2.0]), st.integers(0, 3)), max_size=12))
def test_what_is_due_is_never_there_already_and_ends(pytestconfig, done):
    from composer.language.schema.search import SearchConfig
    from search.compare.finals import Finals
    from search.objectives import Goals
    from search.store.ledger import Ledger, Record, Seen

    config = SearchConfig.model_validate(
        {"objectives": [{"maximize": "accuracy"}], "trials": 1, "seeds": 3, "lr_sweep": [0.5, 2]}
    )
    goals = Goals(config.objectives)

    class Memory:
        def __init__(self, records):
            self.records = records

        def changed(self):
            return [self.records.pop() for _ in list(self.records)]

        def put(self, record):
            pass

    def make(name, kind, **more):
        seen = [Seen(8, (0.5,), {"accuracy": 0.5})]
        return Record(name, kind, name, None, {}, {}, "", status="finished", seen=seen, **more)

    ledger = Ledger(Memory([make("0", "trial"), make("rival", "baseline")]))
    for n, (lr, seed) in enumerate(done):
        of = ledger.trials()[0] if n % 2 else next(iter(ledger))
        name = f"{of.name}-lr{lr:g}" + (f"-seed{seed}" if seed else "")
        if ledger.find(f"{of.identity}-{name}") is None:
            record = ledger.claim_final(of, name, {"lr": lr, "seed": seed})
            record.status, record.seen = "finished", [Seen(8, (0.4,), {})]
    for _ in range(40):
        due = next(Finals(config, goals, ledger).due(over=True), None)
        if due is None:
            break
        record = ledger.claim_final(due.base, due.name, due.again)
        record.status, record.seen = "finished", [Seen(8, (0.4,), {})]
    standings = Finals(config, goals, ledger).standings()
    assert [at.left for at in standings] == [0, 0]
    assert all(len(at.runs) >= 3 for at in standings)
    assert all({0.5, 1, 2} <= set(at.sweep) for at in standings)

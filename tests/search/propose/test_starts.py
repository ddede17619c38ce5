"""Points that a search tries first: which specs are points of the space, when they are proposed, and once."""

from __future__ import annotations

import optuna
import pytest
from fake_training import BASELINE, TWO, FakeTraining, toy

from composer.language.description.show import resolved_yaml
from composer.language.load import load
from composer.language.schema.identity import run_hash
from composer.language.space import load_space
from composer.settings.errors import SpecError
from search.propose.feasible import sampler
from search.propose.optuna_adapter import suggest
from search.propose.proposals import PLAN
from search.propose.requirements import check_search
from search.propose.starts import starts
from search.run.study import run_search
from search.store.ledger import Ledger

optuna.logging.set_verbosity(optuna.logging.WARNING)

POINT = """\
schema: 1
name: mine
model: {width: 32, vocab: 8, context: 32}
blocks:
  attend: {type: sequence_attention, heads: 2, kv_heads: 1}
  mix: {type: expert_attention, experts: 8, active: 2, hidden: 16}
stages: [{recur: 3, step: [attend, mix]}]
train: {data: {task: hop, length: 32, symbols: 4, hops: 2}, tokens: 1Ki, batch_tokens: 512, lr: 2e-3}
"""
OTHER = POINT.replace("recur: 3", "recur: 2")


@pytest.fixture
def files(tmp_path):
    for name, text in (("mine.yaml", POINT), ("other.yaml", OTHER), ("same.yaml", POINT)):
        (tmp_path / name).write_text(text)
    return tmp_path


def begun(folder, names, *settings):
    """The toy space with `start`, written into the file."""
    toy(folder)
    path = folder / "space.yaml"
    path.write_text(f"{path.read_text()}  start: [{', '.join(names)}]\n")
    return load_space(path, ["search.sampler=random", "search.trials=4", *settings])


def test_points_are_tried_first_in_their_order_once_and_as_the_space_trains(files):
    fake = FakeTraining()
    space = begun(files, ["other.yaml", "mine.yaml", "same.yaml"], "search.rungs=[]")
    ended = run_search(space, files / "run", fake)
    first, second, third = ended.state.ledger.trials()[:3]
    assert [first.params["stages.0.recur"], second.params["stages.0.recur"]] == [2, 3]
    assert first.origin == {"parents": [], "moves": [f"start: {files / 'other.yaml'}"]}
    assert not third.origin
    trained = load(files / "run" / second.folder / "spec.yaml")
    assert trained.train == space.example().spec.train
    assert len(ended.state.ledger.trials()) == 4
    # a start that is given later is tried next, and those that ended are not tried again
    (files / "third.yaml").write_text(POINT.replace("recur: 3", "recur: 4"))
    more = begun(files, ["mine.yaml", "third.yaml"], "search.rungs=[]", "search.trials=6")
    assert more.identity() == space.identity()
    again = run_search(more, files / "run", fake).state.ledger.trials()
    assert again[4].origin["moves"] == [f"start: {files / 'third.yaml'}"]
    assert len(fake.calls) == len(again) == 6


def test_a_choice_of_training_is_that_of_the_spec(files):
    for choice in ("train.lr={choice: [1e-3, 2e-3]}", "let.rate={choice: [1e-3, 2e-3]}"):
        rest = [] if choice.startswith("train") else ["train.lr=${rate}"]
        (start,) = starts(begun(files, ["mine.yaml"], choice, *rest))
        assert 2e-3 in start.params.values()
    space = begun(files, ["mine.yaml"], "train.lr={choice: [1e-3, 5e-3]}")
    with pytest.raises(SpecError, match=r"a point of the space, got .*mine.yaml: train.lr is 0.002 there"):
        check_search(space)
    (files / "mine.yaml").write_text("\n".join(POINT.splitlines()[:-1]))
    assert starts(begun(files, ["mine.yaml"]))
    with pytest.raises(SpecError, match=r"mine.yaml without train.lr \(which is a choice of the space"):
        check_search(space)


def test_the_front_of_another_search_and_a_run_folder_start_a_search(files):
    old = run_search(begun(files, [], TWO), files / "old", FakeTraining()).state
    front = old.front("trial")
    space = begun(files, ["old", "old/trials/0"], "train.tokens=16Ki", "search.trials=9")
    points = starts(space)
    first = next(record for record in old.ledger.trials() if record.name == "0")
    assert {tuple(start.params.items()) for start in points} == {
        tuple(record.params.items()) for record in (*front, first)
    }
    again = run_search(space, files / "new", FakeTraining()).state.ledger.trials()
    assert [record.params for record in again[: len(points)]] == [start.params for start in points]


def test_workers_that_ask_one_after_the_other_begin_with_different_points(files):
    space = begun(files, ["mine.yaml", "other.yaml"])
    study = optuna.create_study(direction="maximize", sampler=sampler(space))
    for _ in range(2):
        study.sampler = sampler(space)
        suggest(study.ask(), space.parameters[0])
    plans = [trial.system_attrs[PLAN] for trial in study.get_trials()]
    assert plans == [start.params for start in starts(space)]


def test_a_point_that_is_known_as_a_baseline_is_answered_from_it(files):
    (files / "best.yaml").write_text(resolved_yaml(starts_spec(files)))
    space = begun(files, ["mine.yaml"], f"search.baselines=[{files / 'best.yaml'}]")
    fake = FakeTraining()
    ended = run_search(space, files / "run", fake)
    assert run_hash(starts_spec(files)) in {record.identity for record in ended.state.ledger}
    assert len(ended.state.ledger.trials()) == 4
    assert ended.state.outcomes["repeat"] == 1


def starts_spec(files):
    """What mine.yaml is trained as in the toy space."""
    space = begun(files, ["mine.yaml"])
    (start,) = starts(space)
    return space.point(lambda parameter: start.params[parameter.name]).spec


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.yaml", "got none.yaml, which does not exist"),
        ("empty", "got empty, which has no spec.yaml and no records"),
        ("study", "expected a search that trained a trial in full, got study"),
        ("broken.yaml", "broken.yaml:1"),
        ("rival.yaml", "expected a point of the space, got rival.yaml: "),
        ("wide.yaml", "wide.yaml: model.width is 48 there"),
        ("mine.yaml", "expected a point of the space, got mine.yaml over the caps: params"),
    ],
)
def test_what_is_no_point_of_the_space_is_refused(files, monkeypatch, name, message):
    monkeypatch.chdir(files)
    (files / "empty").mkdir()
    Ledger(files / "study" / "records").claim("hop-0", 0, {"arm": "hop"}, {})
    (files / "broken.yaml").write_text("schema: [")
    (files / "wide.yaml").write_text(POINT.replace("width: 32", "width: 48"))
    (files / "rival.yaml").write_text(BASELINE)
    caps = ["caps.params=4k"] if "caps" in message else []
    space = toy(files, f"search.start=[{name}]", *caps)
    with pytest.raises(SpecError) as error:
        check_search(space)
    assert message in str(error.value)
    assert "search.start.0" in str(error.value) or name == "broken.yaml"

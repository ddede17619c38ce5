"""The replay of a study's journal is Optuna's own, and leaves what readers have as it is."""

import copy
import random
from contextlib import suppress

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from samples import samples

from search.optuna_replay import SearchStorage
from search.store.journal import Journal
from search.store.json_lines import parsed

optuna.logging.set_verbosity(optuna.logging.WARNING)

KNOBS = {
    "a": [IntDistribution(1, 6), IntDistribution(1, 8), IntDistribution(1, 8, log=True)],
    "b": [CategoricalDistribution(("x", 1, True)), CategoricalDistribution(("x", 2))],
    "c": [FloatDistribution(0.0, 1.0), IntDistribution(0, 1)],
}
VALUES = [1, 1.0, True, "x", {"by": "me"}, {"by": 1}, {"by": True}, {"a": 1}, {"a": 1.0}, [1, [2]], None]


def write(storage: JournalStorage, study: int, rng: random.Random) -> None:
    """One random write, as a search or another program makes it; some are refused."""
    made = len(storage.get_all_trials(study, deepcopy=False))
    what = rng.choice(["ask", "enqueue", "add", "knob", "knob", "user", "system", "value", "tell"])
    trial = rng.randrange(made) if made else -1
    name = rng.choice([*KNOBS])
    knob = rng.choice(KNOBS[name])
    value = rng.choice(knob.choices) if isinstance(knob, CategoricalDistribution) else 1
    # Optuna asserts that a trial to be started exists
    with suppress(UpdateFinishedTrialError, ValueError, KeyError, AssertionError):
        match what:
            case "ask":
                storage.create_new_trial(study)
            case "enqueue":
                waiting = create_trial(state=TrialState.WAITING, system_attrs={"a": {}})
                storage.create_new_trial(study, waiting)
            case "add":
                facts = {"params": {name: value}, "distributions": {name: knob}}
                state = rng.choice([TrialState.COMPLETE, TrialState.RUNNING])
                values = [1.0, 2.0] if state == TrialState.COMPLETE else None
                storage.create_new_trial(study, create_trial(state=state, values=values, **facts))
            case "knob":
                storage.set_trial_param(trial, name, knob.to_internal_repr(value), knob)
            case "user":
                storage.set_trial_user_attr(trial, rng.choice("abc"), rng.choice(VALUES))
            case "system":
                storage.set_trial_system_attr(trial, rng.choice("abc"), rng.choice(VALUES))
            case "value":
                storage.set_trial_intermediate_value(trial, rng.randrange(3), 0.5)
            case "tell":
                state = rng.choice([TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING])
                values = [3.0, 4.0] if state == TrialState.COMPLETE else None
                storage.set_trial_state_values(trial, state, values)


@samples(50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_reader_sees_what_optuna_sees_and_what_it_has_stays(tmp_path_factory, seed):
    path, rng = tmp_path_factory.mktemp("replay") / "study.journal", random.Random(seed)
    writers = [SearchStorage(Journal(path)), JournalStorage(Journal(path))]
    study = writers[0].create_new_study([StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE], "study")
    known = []
    for _ in range(60):
        write(rng.choice(writers), study, rng)
        if rng.random() < 0.3:
            seen = [reader.get_all_trials(study, deepcopy=False) for reader in writers]
            assert seen[0] == seen[1]
            assert list(map(repr, seen[0])) == list(map(repr, seen[1]))
            known.append((seen[0], copy.deepcopy(seen[0])))
    late = SearchStorage(Journal(path)).get_all_trials(study, deepcopy=False)
    assert list(map(repr, late)) == list(map(repr, writers[1].get_all_trials(study, deepcopy=False)))
    for state in TrialState:
        found = [reader.get_all_trials(study, states=(state,)) for reader in writers]
        assert found[0] == found[1]
    assert all(now == before for now, before in known)


def test_trials_that_ended_share_what_is_equal(tmp_path):
    storage = SearchStorage(Journal(tmp_path / "study.journal"))
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "study")
    for value in (1, 2):
        trial = storage.create_new_trial(study)
        storage.set_trial_param(trial, "a", value, KNOBS["a"][0])
        storage.set_trial_system_attr(trial, "plan", {"a": value})
        storage.set_trial_system_attr(trial, "held", {"by": "me"})
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [float(value)])
    one, two = storage.get_all_trials(study, deepcopy=False)
    assert one.distributions is two.distributions
    assert one.system_attrs["held"] is two.system_attrs["held"]
    assert one.system_attrs["plan"] is one.params


@pytest.mark.parametrize("line", ['{"op_code": 1}, {"op_code": 1}', "", '{"op_code"'])
def test_a_damaged_line_is_no_record(line):
    with pytest.raises(ValueError, match=r"(?i)expect"):
        parsed(["{}", line])

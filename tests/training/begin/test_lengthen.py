"""A run that is asked for more tokens goes on from before its decay, as if asked for them from the start."""

import pytest
import torch
from runs import STEPS, TOKENS, contents, spec

from composer.cli.commands.train import run_summary
from composer.costs.counting.plan import make_plan
from composer.training import recorder
from composer.training.folder import checkpoint
from composer.training.folder.checkpoint import read_checkpoint
from composer.training.folder.errors import TrainingError
from composer.training.run import run_training

# 30 steps of which 2 are warmup and 6 decay; 60 steps of which 2 are warmup and 12 decay
SHORT = ("train.schedule={warmup: 0.05, stable: 0.75, decay: 0.2}",)
LONG = ("train.schedule={warmup: 0.04, stable: 0.76, decay: 0.2}", f"train.tokens={60 * TOKENS}")


def weights_and_scores(folder):
    before = contents(folder)
    # how often a row is logged depends on the length of the run
    rows = [row for row in before["metrics.csv"].decode().splitlines() if not row.endswith(",,,")]
    return before | {"metrics.csv": [row.split(",")[0:3] + row.split(",")[4:] for row in rows]}


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "_ROWS", 8)
        run_training(spec(*LONG), folder)
    return folder


def test_a_finished_run_goes_on_bit_equal_to_one_that_was_asked_for_more_at_once(long, tmp_path):
    first = run_training(spec(*SHORT), tmp_path / "run")
    assert (first.finished, first.tokens) == (True, STEPS * TOKENS)
    seen = []
    result = run_training(spec(*LONG), tmp_path / "run", report=lambda message: seen.append(message.step))
    assert (result.finished, result.tokens) == (True, 60 * TOKENS)
    assert seen[0] == 24
    assert weights_and_scores(tmp_path / "run") == weights_and_scores(long)
    names = [{path.name for path in folder.iterdir()} for folder in (tmp_path / "run", long)]
    assert names[0] == names[1] | {"schedules.json"}


def test_killed_anywhere_while_it_is_put_back_it_ends_the_same(long, tmp_path, monkeypatch):
    run_training(spec(*SHORT), tmp_path / "run")
    from composer.training.folder import files

    real, left = files.os.replace, 0

    def killed(source, target):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    # the schedule so far is written once; then last, best and weights are put back, then the spec, its costs
    for moment in (1, 2, 2, 3, 4, 5):
        left = moment
        with pytest.raises(KeyboardInterrupt):
            run_training(spec(*LONG), tmp_path / "run")
    left = 0
    run_training(spec(*LONG), tmp_path / "run")
    assert weights_and_scores(tmp_path / "run") == weights_and_scores(long)


def test_given_up_halfway_the_shorter_run_ends_as_it_had(tmp_path, monkeypatch):
    run_training(spec(*SHORT), tmp_path / "run")
    before = contents(tmp_path / "run")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("composer.training.lengthen.save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            run_training(spec(*LONG), tmp_path / "run")
    run_training(spec(*SHORT), tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("pause", [12, 24, 26])
def test_a_paused_run_goes_on_for_more_as_well(long, tmp_path, pause):
    run_training(spec(*SHORT), tmp_path / "run", until_tokens=pause * TOKENS)
    run_training(spec(*LONG), tmp_path / "run")
    ends = [read_checkpoint(folder / "last.ckpt")["state_dict"] for folder in (tmp_path / "run", long)]
    assert all(torch.equal(ends[0][name], weight) for name, weight in ends[1].items())


def test_without_a_decay_the_end_itself_is_where_a_longer_run_goes_on(tmp_path):
    constant = ["train.schedule={warmup: 0, stable: 1, decay: 0}"]
    run_training(spec(*constant, f"train.tokens={13 * TOKENS}"), tmp_path / "run")
    for folder in ("run", "long"):
        run_training(spec(*constant, f"train.tokens={25 * TOKENS}"), tmp_path / folder)
    ends = [weights_and_scores(tmp_path / name) for name in ("run", "long")]
    for end in ends:
        for name in ("last.ckpt", "best.ckpt", "stable.ckpt", "stable-best.ckpt"):
            # where the shorter run's data ended, Lightning counts an epoch
            del end[name]["epoch"], end[name]["loops"]
    assert ends[0] == ends[1]


def test_fewer_tokens_are_enough_where_the_decay_is_still_ahead(tmp_path):
    run_training(spec(*LONG), tmp_path / "run", until_tokens=20 * TOKENS)
    run_training(spec(*SHORT), tmp_path / "run")
    run_training(spec(*SHORT), tmp_path / "short")
    ends = [read_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in ("run", "short")]
    assert all(torch.equal(ends[0][name], weight) for name, weight in ends[1].items())


def test_another_warmup_is_refused_with_the_setting_that_keeps_it(tmp_path):
    run_training(spec(*SHORT), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"2 optimizer steps of warmup; .* would have taken 3") as raised:
        run_training(spec(*SHORT, LONG[1]), tmp_path / "run")
    assert contents(tmp_path / "run") == before
    setting = str(raised.value).rpartition("--set '")[2].rstrip("'")
    assert run_training(spec(LONG[1], setting), tmp_path / "run").tokens == 60 * TOKENS


def test_a_run_that_is_too_far_or_kept_no_state_is_refused_with_the_steps(tmp_path):
    run_training(spec(*LONG), tmp_path / "run")
    with pytest.raises(TrainingError, match=r"is at step 60 .* begins at step 24 .* is from step 48"):
        run_training(spec(*SHORT), tmp_path / "run")
    (tmp_path / "run" / "stable.ckpt").unlink()
    longer = ["train.schedule={warmup: 0.02, stable: 0.78, decay: 0.2}", f"train.tokens={120 * TOKENS}"]
    with pytest.raises(TrainingError, match=r"no state from before its own decay, at step 48 .*, was saved"):
        run_training(spec(*longer), tmp_path / "run")


def test_other_fields_still_make_another_run(tmp_path):
    run_training(spec(*SHORT), tmp_path / "run", until_tokens=TOKENS)
    with pytest.raises(TrainingError, match=r"of another spec .*\n  train\.tokens: .*\n  train\.lr: "):
        run_training(spec(LONG[1], "train.lr=0.001"), tmp_path / "run")


def test_the_state_before_the_decay_is_saved_once(tmp_path, monkeypatch):
    saved = []
    real = checkpoint.WholeCheckpoints.save_checkpoint

    def save(self, content, path, **options):
        saved.append((path.name, content["global_step"]))
        real(self, content, path, **options)

    monkeypatch.setattr(checkpoint.WholeCheckpoints, "save_checkpoint", save)
    run_training(spec(*SHORT), tmp_path, until_tokens=25 * TOKENS)
    run_training(spec(*SHORT), tmp_path)
    assert [step for name, step in saved if name == "stable.ckpt"] == [24]


def test_a_shorter_run_in_its_default_folder_is_pointed_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = run_training(spec(*SHORT)).folder
    message = f"{short} holds the same run with fewer tokens; --out {short} continues it"
    assert run_summary(make_plan(spec(*LONG)), None).endswith(message)
    for other in (
        spec(*SHORT),
        spec(*LONG, "train.seed=1"),
        spec(*LONG, "train.lr=1"),
        spec("train.tokens=512"),
    ):
        assert "fewer tokens" not in run_summary(make_plan(other), None)
    assert "fewer tokens" not in run_summary(make_plan(spec(*LONG)), tmp_path / "run")

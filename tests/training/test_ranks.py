"""Several processes that train one run: the same gradients, and an end to all of them however one ends."""

import os
import signal
import subprocess
import threading

import pytest
import torch
from processes import command, run_all
from runs import SPEC, spec

from composer.training.folder.checkpoint import read_checkpoint
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import read_metrics
from composer.training.processes import watch
from composer.training.processes.interrupt import Stop
from composer.training.processes.ranks import started
from composer.training.processes.watch import LIMIT, limit
from composer.training.run import run_training

LONG = ("train.devices=2", "train.tokens=1M", "train.eval.every=1G", "train.checkpoint.every=1G")
WHOLE = "the ranks waited for each other longer than"


def first_step(folder, *settings):
    """The gradients of the first optimizer step (tenths of them: AdamW's first moments), and its loss."""
    run_training(spec("train.tokens=256", "train.clip=0", *settings), folder)
    states = read_checkpoint(folder / "last.ckpt")["optimizer_states"][0]["state"]
    return [states[n]["exp_avg"] for n in states], read_metrics(folder / "metrics.csv")[0]["train_loss"]


@pytest.mark.parametrize(
    ("devices", "accumulate", "strategy"),
    [
        (1, 4, "auto"),
        (2, 2, "ddp"),
        pytest.param(2, 1, "fsdp", marks=pytest.mark.slow),
        pytest.param(2, 4, "fsdp", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_the_same_however_a_step_is_split(
    devices, accumulate, strategy, tmp_path, forked_ranks
):
    wanted, loss = first_step(tmp_path / "whole")
    split = (f"train.devices={devices}", f"train.accumulate={accumulate}", f"train.strategy={strategy}")
    result, other = first_step(tmp_path / "split", *split)
    assert other == pytest.approx(loss, rel=1e-6)
    off = torch.stack([(one - two).norm() for one, two in zip(result, wanted, strict=True)]).norm()
    assert off < 1e-5 * torch.stack([each.norm() for each in wanted]).norm()


# the end


@pytest.fixture
def train(tmp_path):
    """Start a long training on two devices; yields when it has begun."""

    def begun(**environment):
        (tmp_path / "tiny.yaml").write_text(SPEC)
        settings = [option for setting in LONG for option in ("--set", setting)]
        return command(
            *("train", tmp_path / "tiny.yaml", "--out", tmp_path / "run", *settings),
            **environment,
        )

    return begun


def other_rank(run):
    """The process of rank 1."""
    results = [pid for pid in run.alive() if "composer.training.rank" in cmdline(pid)]
    return results[0] if results else None


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


def trains(folder):
    """Whether some steps were logged."""
    return lambda: len(read_metrics(folder / "metrics.csv")) > 0


@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGTERM, "rank 0"),
        pytest.param(signal.SIGTERM, "all", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "all", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "rank 1", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "rank 0", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_any_rank_saves_and_ends_all(number, to, train, tmp_path):
    with train() as run:
        run.wait_for(trains(tmp_path / "run"))
        if to == "all":
            os.killpg(run.pid, number)
        else:
            os.kill(run.pid if to == "rank 0" else other_rank(run), number)
        assert run.ended() == (130, "stopped; run the same command to resume\n")
        assert not run.alive()
    step = read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"]
    assert step >= read_metrics(tmp_path / "run" / "metrics.csv")[-1]["step"]


def test_a_signal_while_the_ranks_start_ends_them(train, tmp_path):
    with train() as run:
        run.wait_for(lambda: other_rank(run))
        os.killpg(run.pid, signal.SIGTERM)
        assert run.ended() == (130, "stopped; run the same command to resume\n")
        assert not run.alive()


def test_a_rank_that_is_killed_ends_the_run_with_words(train, tmp_path):
    with train() as run:
        run.wait_for(trains(tmp_path / "run"))
        os.kill(other_rank(run), signal.SIGKILL)
        code, output = run.ended()
        assert code == 1
        assert "rank 1 was killed by SIGKILL; earlier checkpoints are intact" in output
        assert "Traceback" not in output
        assert not run.alive()


@pytest.mark.slow
def test_the_ranks_end_with_rank_0(train, tmp_path):
    with train() as run:
        run.wait_for(trains(tmp_path / "run"))
        os.kill(run.pid, signal.SIGKILL)
        run.wait_for_none()


@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_run_within_the_limit(train, tmp_path):
    with train(**{LIMIT: "60"}) as run:
        run.wait_for(trains(tmp_path / "run"))
        os.kill(other_rank(run), signal.SIGSTOP)
        code, output = run.ended()
        assert code == 1
        assert f"{WHOLE} 60 s; earlier checkpoints are intact" in output
        assert "Traceback" not in output
        assert not run.alive()


def test_a_rank_that_fails_before_it_joins_is_told_at_once(tmp_path):
    with (
        started(tmp_path / "no run", None, 2, "auto", "auto") as environment,
        pytest.raises(TrainingError, match="rank 1 failed, as it says above"),
    ):
        environment.join("gloo", Stop())


def in_one_call(folder, other):
    """Stand in one call for ever, as rank 0 of a run whose rank 1 is the command `other`."""
    os.environ[LIMIT] = "1"
    watch._GRACE_SECONDS = 1
    with (folder / "stderr").open("w") as file:
        os.dup2(file.fileno(), 2)
    process = subprocess.Popen(other, stdin=subprocess.PIPE)
    (folder / "pid").write_text(str(process.pid))
    watch.Watch(folder, [process])
    (lock := threading.Lock()).acquire()
    lock.acquire()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["false"], "rank 1 failed, as it says above"),
        (["sleep", "600"], "rank 0 has waited for the others for 2 s"),
    ],
    ids=["failed", "stuck"],
)
def test_an_operation_without_a_limit_ends_with_its_process(other, message, tmp_path):
    assert run_all((in_one_call, tmp_path, other)) == [1]
    assert (tmp_path / "stderr").read_text() == f"{tmp_path}: {message}; earlier checkpoints are intact\n"
    assert not cmdline((tmp_path / "pid").read_text())


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "1e30", ""])
def test_a_limit_that_is_no_time_is_refused(text, monkeypatch):
    monkeypatch.setenv(LIMIT, text)
    with pytest.raises(TrainingError, match=f"{LIMIT}: expected a number of seconds above 0, got '{text}'"):
        limit()

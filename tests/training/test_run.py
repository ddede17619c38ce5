import csv
import json
import os
import signal
from pathlib import Path

import lightning
import pytest
import torch
from processes import run_all
from runs import STEPS, TOKENS, contents, killed, on_a_small_disk, spec

from composer import SpecError, compile, datamodule, load_run
from composer.costs.counting.plan import make_plan
from composer.data.base.errors import DataError
from composer.training import recorder
from composer.training.folder import checkpoint, files
from composer.training.folder.checkpoint import read_checkpoint, read_weights
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import held_out, read_metrics
from composer.training.folder.run_folder import default_folder, held
from composer.training.processes.allocator import keep_freed_memory
from composer.training.recorder import Events
from composer.training.run import run_training
from composer.training.score import read, score


def fresh(*args):
    """Run a function of `runs` in a process of its own that holds no state of this one; its exit code."""
    (code,) = run_all(args)
    return code


# the folder


def test_a_run_leaves_its_spec_costs_plan_metrics_checkpoints_and_nothing_else(whole):
    assert {path.name for path in whole.folder.iterdir()} == {*contents(whole.folder), "lock"}
    assert json.loads((whole.folder / "cost.json").read_text())["params"] == sum(
        weight.numel() for weight in compile(spec()).parameters()
    )
    assert whole.finished
    assert whole.trained
    assert whole.tokens == STEPS * TOKENS


def test_metrics_have_a_row_per_interval_and_per_evaluation(whole):
    with (whole.folder / "metrics.csv").open() as file:
        names = next(csv.reader(file))
    assert ",".join(names) == (
        "step,tokens,lr,train_loss,held_out_loss,held_out_accuracy,held_out_accuracy_k0,held_out_accuracy_k1"
    )
    rows = read_metrics(whole.folder / "metrics.csv")
    assert [row["step"] for row in rows] == [3, 6, 9, 10, 12, 15, 18, 20, 21, 24, 27, 30]
    assert [row["step"] for row in rows if "held_out_loss" in row] == [10, 20, 30]
    assert all(row["tokens"] == row["step"] * TOKENS for row in rows)
    assert [row["lr"] for row in rows][-3:] == pytest.approx([0.003, 0.002, 0.0005])
    assert {name: rows[-1][name] for name in names[4:]} == held_out(whole.metrics)


def test_logged_losses_are_means_over_the_steps_since_the_last_row(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "_ROWS", STEPS)
    run_training(spec(), tmp_path / "fine")
    fine = [row["train_loss"] for row in read_metrics(tmp_path / "fine" / "metrics.csv")]
    start = 0
    for row in read_metrics(whole.folder / "metrics.csv"):
        assert row["train_loss"] == pytest.approx(sum(fine[start : row["step"]]) / (row["step"] - start))
        start = row["step"]


def test_training_says_nothing_on_its_own(tmp_path, capfd, caplog):
    with caplog.at_level("INFO"):
        run_training(spec("train.tokens=512"), tmp_path / "run")
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_the_folder_is_named_by_the_run_and_not_by_its_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_training(spec("train.tokens=256"))
    assert result.folder == default_folder(spec("train.tokens=256", "train.seed=5"))
    assert result.folder != default_folder(spec("train.tokens=512"))
    assert result.folder.parent == Path("runs")


@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ("train.lr=0.001", "train.lr: 0.003 -> 0.001"),
        ("train.seed=1", "train.seed: 0 -> 1"),
        ("stages.0.recur=3", "stages.0.recur: 2 -> 3"),
    ],
)
def test_an_edited_spec_on_an_old_folder_is_refused_with_the_difference(whole, setting, change):
    before = contents(whole.folder)
    with pytest.raises(TrainingError) as raised:
        run_training(spec(setting), whole.folder)
    assert str(raised.value).splitlines()[1:-1] == [f"  {change}"]
    assert contents(whole.folder) == before


def test_names_and_caps_do_not_make_another_run(whole):
    assert run_training(spec("name=other", "caps.params=1M"), whole.folder).metrics == whole.metrics


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TrainingError, match=r"not a run folder \(it contains thesis\.tex\)"):
        run_training(spec(), tmp_path)
    with pytest.raises(TrainingError, match="expected a folder for the run, got a file"):
        run_training(spec(), tmp_path / "thesis.tex")
    with pytest.raises(TrainingError, match=r"no spec\.yaml"):
        load_run(tmp_path)


def test_a_folder_in_use_is_refused_with_the_process(whole):
    with (
        held(whole.folder, make_plan(spec())),
        pytest.raises(TrainingError, match=f"process {os.getpid()} is training"),
    ):
        run_training(spec(), whole.folder)
    assert run_training(spec(), whole.folder).finished


def test_what_cannot_be_trained_leaves_no_folder(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SpecError, match=r"caps\.params"):
        run_training(spec("caps.params=10"), out)
    with pytest.raises(DataError):
        run_training(spec("train.data={task: text, path: nowhere.txt, length: 16}", "model.vocab=256"), out)
    with pytest.raises(TrainingError, match="`train` section"):
        run_training(spec("train=null"), out)
    assert not out.exists()


# killed, paused, interrupted, done


def test_killed_at_any_moment_a_run_ends_bit_equal_to_an_uninterrupted_one(whole, tmp_path):
    moments = [
        *[("replace", n) for n in (1, 2, 4)],  # spec, costs, head of metrics
        ("step", 9),
        ("save", 2),
        *[("replace", n) for n in (2, 3)],  # best.ckpt, last.ckpt or weights, whichever comes
        ("row", 3),
    ]
    for moment in moments:
        assert fresh(killed, tmp_path / "run", *moment) == -signal.SIGKILL, moment
    assert fresh(killed, tmp_path / "run", "never", 0) == 0
    assert contents(tmp_path / "run") == contents(whole.folder)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*contents(whole.folder), "lock"}


def test_a_paused_run_goes_on_as_if_it_had_not_paused(whole, tmp_path):
    first = run_training(spec(), tmp_path, until_tokens=8 * TOKENS - 5)
    assert (first.tokens, first.finished) == (8 * TOKENS, False)
    row = read_metrics(tmp_path / "metrics.csv")[-1]
    assert (row["step"], row["held_out_loss"]) == (8, first.metrics["loss"])
    again = run_training(spec(), tmp_path, until_tokens=5 * TOKENS)
    assert (again.tokens, again.metrics, again.trained) == (8 * TOKENS, first.metrics, False)
    rest = run_training(spec(), tmp_path, until_tokens=10**9)
    assert (rest.metrics, rest.tokens, rest.finished) == (whole.metrics, whole.tokens, True)
    ends = [read_checkpoint(folder / "last.ckpt")["state_dict"] for folder in (tmp_path, whole.folder)]
    assert all(torch.equal(ends[0][name], weight) for name, weight in ends[1].items())


def test_a_pause_at_a_checkpoint_that_was_not_evaluated_is_evaluated(tmp_path, monkeypatch):
    def stop(progress):
        if progress.step >= 15:
            raise KeyError

    reference = run_training(spec(), tmp_path / "paused", until_tokens=14 * TOKENS)
    monkeypatch.setattr(recorder, "_REPORT_SECONDS", 0)
    with pytest.raises(KeyError):
        run_training(spec(), tmp_path / "passing", report=stop)  # saved at steps 7 and 14, scored at 10
    assert run_training(spec(), tmp_path / "passing", until_tokens=14 * TOKENS).metrics == reference.metrics


def test_a_finished_run_returns_what_it_found(whole):
    before = contents(whole.folder)
    again = run_training(spec(), whole.folder, report=lambda _: pytest.fail("trained"))
    assert (again.metrics, again.best, again.finished, again.trained) == (
        whole.metrics,
        whole.best,
        True,
        False,
    )
    assert contents(whole.folder) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_an_interrupted_run_saves_its_step_and_goes_on(whole, tmp_path, monkeypatch, number):
    monkeypatch.setattr(recorder, "_REPORT_SECONDS", 0)
    handler = signal.getsignal(number)
    if handler is signal.SIG_IGN:
        pytest.skip("nohup: a run leaves ignored signals alone")
    with pytest.raises(KeyboardInterrupt):
        run_training(
            spec(), tmp_path, report=lambda message: message.step == 11 and os.kill(os.getpid(), number)
        )
    assert signal.getsignal(number) is handler
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 11
    assert run_training(spec(), tmp_path).metrics == whole.metrics
    assert contents(tmp_path)["metrics.csv"] == contents(whole.folder)["metrics.csv"]


def test_progress_is_told_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "_REPORT_SECONDS", 0)
    reports = []
    run_training(spec(), tmp_path, until_tokens=4 * TOKENS, report=reports.append)
    assert [each.step for each in reports] == [0, 1, 2, 3, 4]  # each once
    assert [each.tokens for each in reports[:3]] == [0, TOKENS, 2 * TOKENS]
    assert reports[0].train_loss is None
    assert all(each.train_loss > 0 and each.tokens_per_second > 0 for each in reports[1:])
    assert (reports[-1].steps, reports[-1].seconds_left) == (4, 0)


# what goes wrong


def test_a_loss_that_is_not_finite_ends_the_run_and_is_not_saved(tmp_path):
    with pytest.raises(
        TrainingError, match=r"loss became nan at step \d+, learning rate 1e\+30; lower train.lr"
    ):
        run_training(spec("train.lr=1e30", "train.schedule.warmup=0", "train.schedule.stable=0.8"), tmp_path)
    assert not (tmp_path / "last.ckpt").exists()
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=repr)
def test_running_out_of_memory_is_told_with_what_to_change(tmp_path, monkeypatch, error):
    def loss(*_, **__):
        raise error

    monkeypatch.setattr("composer.module.model.ComposedModel._losses", loss)
    with pytest.raises(
        TrainingError, match=r"out of memory with 16 sequences of 16 tokens .* train.accumulate"
    ):
        run_training(spec(), tmp_path)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt", "model.safetensors"])
def test_a_full_disk_leaves_the_old_files_whole(whole, tmp_path, monkeypatch, name):
    run_training(spec(), tmp_path, until_tokens=10 * TOKENS)
    before = contents(tmp_path)

    def full(number):
        if os.readlink(f"/proc/self/fd/{number}").endswith(f"{name}.tmp"):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(TrainingError, match="no room left to write"):
            run_training(spec(), tmp_path)
    assert contents(tmp_path)[name] == before[name]
    assert not list(tmp_path.glob("*.tmp"))
    run_training(spec(), tmp_path)
    assert contents(tmp_path)["metrics.csv"] == contents(whole.folder)["metrics.csv"]


def test_a_file_that_may_not_grow_is_told_as_a_full_disk(tmp_path):
    assert fresh(on_a_small_disk, tmp_path / "run", 40_000) == 0
    assert "no room left to write (File too large)" in Path(f"{tmp_path / 'run'}.error").read_text()
    assert not (tmp_path / "run" / "last.ckpt").exists()
    assert not list((tmp_path / "run").glob("*.tmp"))


class Evil:
    def __reduce__(self):
        return os.system, ("echo evil",)


@pytest.mark.parametrize("content", [b"", b"half of a checkpoint", Evil()], ids=["empty", "text", "code"])
def test_a_checkpoint_that_is_none_is_refused_and_never_run(tmp_path, content, capfd):
    with held(tmp_path, make_plan(spec())):
        pass
    if isinstance(content, bytes):
        (tmp_path / "last.ckpt").write_bytes(content)
    else:
        torch.save({"state_dict": content}, tmp_path / "last.ckpt")
    with pytest.raises(TrainingError, match=r"last\.ckpt: this checkpoint cannot be read"):
        run_training(spec(), tmp_path)
    assert capfd.readouterr().out == ""


# fields of the spec


def test_evaluations_and_checkpoints_come_at_their_intervals(tmp_path, monkeypatch):
    saved = []
    real = checkpoint.WholeCheckpoints.save_checkpoint

    def save(self, content, path, **options):
        saved.append((Path(path).name, content["global_step"]))
        real(self, content, path, **options)

    monkeypatch.setattr(checkpoint.WholeCheckpoints, "save_checkpoint", save)
    run_training(spec(), tmp_path)
    assert [step for name, step in saved if name == "last.ckpt"] == [7, 14, 21, 28, 30]
    train = spec("train.eval.every=1", "train.checkpoint.every=1G").train
    assert all(Events(train, None).evaluates(step) for step in range(1, STEPS + 1))
    assert [step for step in range(1, STEPS + 1) if Events(train, None).saves(step)] == [STEPS]


def test_precision_reaches_the_products(whole, tmp_path):
    mixed = run_training(spec("train.precision=bf16-mixed"), tmp_path)
    assert mixed.metrics["loss"] != whole.metrics["loss"]
    assert mixed.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=0.1)
    assert score(read(tmp_path)).scores == mixed.best


def test_a_trainer_of_another_precision_is_refused(tmp_path):
    wanted = spec("train.precision=bf16-mixed")
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path, max_epochs=-1
    )
    with pytest.raises(ValueError, match="bf16-mixed, the Trainer runs 32-true"):
        trainer.fit(compile(wanted), datamodule(wanted))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("ddp", "DDPStrategy"), ("fsdp", "Sharded"), ("auto", "SingleDeviceStrategy")],
)
def test_the_strategy_is_the_one_the_spec_asks_for(strategy, expected, tmp_path, monkeypatch):
    seen = []
    real = recorder.Recorder.on_train_start

    def look(self, trainer, module):
        seen.append(type(trainer.strategy).__name__)
        real(self, trainer, module)

    monkeypatch.setattr(recorder.Recorder, "on_train_start", look)
    run_training(spec(f"train.strategy={strategy}", "train.tokens=512"), tmp_path)
    assert seen == [expected]


def test_accumulated_micro_batches_make_one_step(whole, tmp_path):
    parts = run_training(spec("train.accumulate=4"), tmp_path)
    assert parts.tokens == whole.tokens
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=0.05)
    rows = [read_metrics(result.folder / "metrics.csv") for result in (parts, whole)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    assert rows[0][0]["train_loss"] == pytest.approx(rows[1][0]["train_loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(whole, tmp_path):
    both = run_training(spec("train.devices=2", "train.tokens=2560"), tmp_path / "two")
    alone = run_training(spec("train.tokens=2560"), tmp_path / "one")
    assert both.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=0.01)
    weights = [read_weights(result.folder / "model.safetensors")[0] for result in (both, alone)]
    balance = [name for name in weights[0] if name.endswith("balance")]
    assert balance
    assert all(weights[0][name].equal(weights[1][name]) for name in balance)


def test_memory_is_kept_where_malloc_is_glibcs():
    assert keep_freed_memory() == (os.confstr("CS_GNU_LIBC_VERSION") is not None)

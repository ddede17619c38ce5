"""Files that are damaged or of others, and machines too small: told in words, never as a traceback."""

import os
import pickle

import lightning
import pytest
import torch
from runs import SPEC, spec

from composer import SpecError, compile, datamodule, load, load_run
from composer.cli.main import main
from composer.costs.counting.plan import make_plan
from composer.language.description.show import resolved_yaml
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import MetricsFile, read_metrics
from composer.training.folder.run_folder import held
from composer.training.run import run_training


class Code:
    def __reduce__(self):
        return os.system, ("echo evil",)


def checkpoint(**parts):
    return {"state_dict": {}, "hyper_parameters": {"spec": SPEC}} | parts


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([1], "one without a `state_dict`"),
        (checkpoint(state_dict=[1]), "one without a `state_dict`"),
        (checkpoint(state_dict={"embed": 1}), "'embed' in its `state_dict`"),
        (checkpoint(state_dict={1: torch.ones(1)}), "1 in its `state_dict`"),
        (checkpoint(hyper_parameters=[SPEC]), "one without the text of a spec"),
        (checkpoint(hyper_parameters={"spec": 3}), "one without the text of a spec"),
        (checkpoint(hyper_parameters={"lr": 3}), "one without the text of a spec"),
        (checkpoint(more=Code()), "a damaged one or one with other objects"),
        (b"", "a file that is cut short or of another kind"),
        (b"plain text\n", "a file that is cut short or of another kind"),
        (pickle.dumps({"state_dict": Code()}), "a file that is cut short or of another kind"),
    ],
)
def test_a_checkpoint_of_others_is_refused_with_what_it_is(content, got, tmp_path, capfd):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert main(["eval", str(path)]) == 1
    out, output = capfd.readouterr()
    assert output.startswith(
        f"{path}: this checkpoint cannot be read: expected a checkpoint of composer, got {got}"
    )
    assert "torch" not in output.replace(str(path), "")
    assert out == ""


def test_a_spec_in_the_place_of_a_run_is_told_as_one(tmp_path, capsys):
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert main(["eval", str(tmp_path / "spec.yaml")]) == 1
    assert "expected a run folder or a checkpoint in one, got a spec" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_short_is_refused(share, tmp_path, capsys):
    path = tmp_path / "x.ckpt"
    torch.save(checkpoint(state_dict={"embed": torch.ones(1000)}), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert main(["eval", str(path)]) == 1
    assert "x.ckpt: this checkpoint cannot be read: expected" in capsys.readouterr().err


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path):
    with held(tmp_path, make_plan(spec())):
        pass
    torch.save(checkpoint(callbacks=[], global_step=3), tmp_path / "last.ckpt")
    with pytest.raises(
        TrainingError, match=r"last\.ckpt: expected the checkpoint of a run, got one of another"
    ):
        run_training(spec(), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"step,loss\n1,2\n2,\xff\n", r":3: .* expected UTF-8 text, got the byte 0xff"),
        (b"step,loss\n1,2\n2,low\n", r":3: .* expected a number for held_out_loss, got 'low'"),
        (b"tokens,loss\n1,2\n", r":2: .* expected a `step`, got none"),
        (b"step,loss\n,2\n", r":2: .* expected a `step`, got none"),
        (b"step,loss\n1,2,3\n", r":2: .* expected 2 cells, got 3"),
        (b"step,pain\n1,2\n", r":1: .* expected the columns step, .*loss, got 'held_out_pain'"),
    ],
)
def test_damaged_metrics_are_told_with_their_line(text, message, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(text)
    with pytest.raises(TrainingError, match=r"metrics\.csv" + message):
        MetricsFile(path, ["loss"]).cut(5)


def test_what_a_killed_run_wrote_half_is_no_damage(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n1,2.5\n2,\xff")
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 1, "held_out_loss": 2.5}]


@pytest.mark.parametrize("vocab", [10**12, 10**18])
def test_a_model_whose_weights_do_not_fit_is_told_as_that(vocab, tmp_path, capsys):
    huge = spec(f"model.vocab={vocab}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.yaml").write_text(resolved_yaml(huge))
    (tmp_path / "run" / "model.safetensors").touch()
    torch.save(checkpoint(hyper_parameters={"spec": resolved_yaml(huge)}), tmp_path / "x.ckpt")
    message = (
        r"tiny: the weights of [\d.]+ [TP]iB do not fit in memory"
        if vocab < 10**15
        else "do not fit in memory"
    )
    for build in (
        lambda: compile(huge),
        lambda: load_run(tmp_path / "run"),
        lambda: run_training(huge, tmp_path / "new"),
    ):
        with pytest.raises(TrainingError, match=message):
            build()
    for command in (
        ["compile", "--code", str(tmp_path / "run" / "spec.yaml")],
        ["eval", str(tmp_path / "x.ckpt")],
    ):
        assert main(command) == 1
        assert "do not fit in memory" in capsys.readouterr().err


def test_smaller_batches_are_not_advised_where_the_weights_alone_are_too_large(tmp_path, monkeypatch):
    def losses(*_, run):
        raise MemoryError

    monkeypatch.setattr("composer.module.model.ComposedModel._losses", losses)
    monkeypatch.setattr("composer.training.run.device_memory", lambda: 2048)
    with pytest.raises(
        TrainingError, match=r"optimizer take .* of the 2 KiB there are; choose a smaller model"
    ):
        run_training(spec(), tmp_path)


def test_more_processes_than_cores_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"train\.devices: expected at most the 2 CPU cores .*, got 4"):
        run_training(spec("train.devices=4"), tmp_path)


def test_devices_that_do_not_share_a_micro_batch_are_refused_by_the_check():
    assert spec("train.accumulate=4", "train.devices=4").train.devices == 4
    with pytest.raises(SpecError, match=r"train\.devices: expected a divisor of the 4 sequences .*, got 8"):
        spec("train.accumulate=4", "train.devices=8")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match=r"^part of the path is a file, not a directory: .*file/run$"):
        run_training(spec(), tmp_path / "file" / "run")


def test_an_empty_path_is_named():
    with pytest.raises(SpecError, match=r"^''  expected the path of a file, got an empty one$"):
        load("")


def test_a_trainer_tests_on_the_held_out_batches(tmp_path):
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    model, data = compile(spec()), datamodule(spec())
    assert trainer.test(model, data, verbose=False) == trainer.validate(model, data, verbose=False)

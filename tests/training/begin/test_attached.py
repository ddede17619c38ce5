"""Loggers by name and callbacks by import path: what they get, and how they are refused."""

import csv
from importlib.util import find_spec

import pytest
import torch
from runs import spec

from composer.training import attached
from composer.training.folder.checkpoint import read_checkpoint
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import read_metrics
from composer.training.run import run_training

SHORT = ("train.tokens=2560", "train.eval.every=512")  # ten steps, an evaluation after two
MINE = """
import lightning
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

kept = ModelCheckpoint(filename="{step}", monitor="held_out_loss", save_top_k=1, every_n_epochs=1)
number = 3

def stops():
    return EarlyStopping("held_out_loss", patience=1, min_delta=100.0)

class Rates(LearningRateMonitor):
    pass
"""


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f"the package {package} is not installed")


def logged_csv(folder):
    with (folder / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "name",
    ["csv", *(pytest.param(each, marks=needs(each)) for each in ("tensorboard", "wandb", "mlflow"))],
)
def test_each_logger_of_lightning_gets_the_rows_and_norms_of_each_block(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    plain = run_training(spec(*SHORT), tmp_path / "plain")
    result = run_training(spec(*SHORT), tmp_path / "run", loggers=[name])
    assert result.metrics == plain.metrics
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    logs = tmp_path / "run" / "logs"
    if name == "csv":
        logged = [row for row in logged_csv(result.folder) if "held_out_loss" in row]
        expected = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
        assert [row["held_out_loss"] for row in logged] == pytest.approx(expected)
        logged = [row for row in logged_csv(result.folder) if "train_loss" in row]
        assert [row["train_loss"] for row in logged] == pytest.approx([row["train_loss"] for row in rows])
        keys = {key for row in logged_csv(result.folder) for key in row}
        blocks = {key.partition("/")[2] for key in keys if key.startswith("update_norm/")}
        assert {"embedding", "stages.0.step.0.seq", "stages.0.step.2.expert"} <= blocks
    elif name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(logs / "tensorboard")).Reload()
        assert [each.step for each in events.Scalars("held_out_loss")] == [2, 4, 6, 8, 10]
        assert len(events.Scalars("gradient_norm/stages.0.step.0.seq")) == 10
    elif name == "wandb":
        assert [*logs.glob("wandb/offline-run-*/*.wandb")]
    else:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{logs}/mlflow.db")
        (run,) = client.search_runs([client.get_experiment_by_name("composer").experiment_id])
        assert run.data.metrics["held_out_loss"] == pytest.approx(result.metrics["loss"])


def test_the_norms_are_those_of_the_gradient_and_of_the_difference(tmp_path):
    from composer.module.model import ComposedModel
    from composer.training.block_norms import BlockNorms

    seen, whole = {}, spec("train.tokens=256", "train.schedule={warmup: 0, stable: 1, decay: 0}")
    before = ComposedModel(whole).state_dict()

    class Watch(attached.Logger):
        name = version = None

        def log_hyperparams(self, *_, **__):
            pass

        def log_metrics(self, metrics, step=None):
            seen.update(metrics)

    import lightning

    import composer

    model = composer.compile(whole)
    lightning.Trainer(
        logger=Watch(),
        callbacks=[BlockNorms(1)],
        max_steps=1,
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    ).fit(model, composer.datamodule(whole))
    after = dict(model.named_parameters())
    place = "stages.0.step.0.seq"
    updates = [after[name] - before[name] for name in after if name.startswith(f"{place}.")]
    norm = torch.nn.utils.get_total_norm(updates)
    assert seen[f"update_norm/{place}"] == pytest.approx(float(norm), rel=1e-4)
    # the first update of AdamW is lr for each weight with a gradient
    assert seen[f"gradient_norm/{place}"] > 0


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_callbacks_are_called_as_by_a_trainer_and_may_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_to_stop.py").write_text(MINE)
    paths = "train.callbacks=[mine_to_stop.stops, mine_to_stop.kept, mine_to_stop.Rates]"
    result = run_training(spec(*SHORT, paths), tmp_path / "run", loggers=["csv"])
    # the second evaluation is no better by 100
    assert (result.tokens, result.finished) == (4 * 256, False)
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 4
    saved = [*(tmp_path / "run").glob("**/step=*.ckpt")]
    assert [path.name for path in saved] in (["step=2.ckpt"], ["step=4.ckpt"])
    assert any("lr-AdamW/pg1" in row for row in logged_csv(result.folder))
    assert run_training(spec(*SHORT, paths), tmp_path / "run", loggers=["csv"]).trained
    with pytest.raises(TrainingError, match="LearningRateMonitor` callback with `Trainer` that has no"):
        run_training(spec(*SHORT, paths), tmp_path / "other")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.Mine", r"train.callbacks.0: expected the import path of a callback, .*ModuleNotFoundError"),
        ("collections.OrderedDict", r"expected a lightning.Callback, got 'collections.OrderedDict'"),
        ("Mine", r"expected the import path of a callback, .* got 'Mine'"),
    ],
)
def test_other_paths_are_refused_before_there_is_a_folder(path, message, tmp_path):
    with pytest.raises(TrainingError, match=message):
        run_training(spec(f"train.callbacks=[{path}]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_logger_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(attached, "find_spec", lambda package: None)
    with pytest.raises(TrainingError, match=r"wandb: .*pip install 'attention-composer\[wandb\]'"):
        run_training(spec(), tmp_path / "run", loggers=["csv", "wandb"])
    with pytest.raises(TrainingError, match="expected one of csv, tensorboard, wandb, mlflow, got 'comet'"):
        run_training(spec(), tmp_path / "run", loggers=["comet"])

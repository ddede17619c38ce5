import math
import shutil

import lightning
import pytest
from runs import spec

from composer import compile, datamodule, load_run
from composer.costs.counting.plan import make_plan
from composer.training.folder.checkpoint import read_checkpoint, read_weights
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import held_out
from composer.training.folder.run_folder import held
from composer.training.run import run_training
from composer.training.score import at_steps, read, score


def test_load_run_gives_the_best_weights_ready_to_use(whole):
    model = load_run(whole.folder)
    assert not model.training
    data = datamodule(spec())
    losses = [model.loss(batch["tokens"], batch["targets"]).item() for batch in data.val_dataloader()]
    assert math.fsum(losses) / len(losses) == pytest.approx(whole.best["loss"])


def test_checkpoints_load_by_lightnings_own_means(whole):
    model = type(compile(spec())).load_from_checkpoint(whole.folder / "best.ckpt", weights_only=True)
    assert model.spec == spec()
    best = read_weights(whole.folder / "model.safetensors")[0]
    assert all(weight.equal(best[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("name", ["", "best.ckpt", "model.safetensors"])
def test_saved_weights_score_as_they_did_in_training(whole, name):
    assert score(read(whole.folder / name)).scores == whole.best


def test_the_last_weights_can_be_scored_too(whole):
    assert score(read(whole.folder, "last")).scores == whole.metrics
    assert score(read(whole.folder / "last.ckpt")).scores == whole.metrics


def test_other_numbers_of_steps_run_the_same_weights_deeper(whole):
    saved = read(whole.folder)
    losses = [score(saved, at_steps(saved.spec, steps)).scores["loss"] for steps in (1, 2, 3)]
    assert losses[1] == whole.best["loss"]
    assert len(set(losses)) == 3


def test_weights_of_single_steps_do_not_fit_another_depth(tmp_path):
    run_training(spec("train.tokens=256", "blocks.expert.depth_code=bias"), tmp_path)
    with pytest.raises(
        TrainingError, match=r"do not fit the model\n  stages\.0\.step\.2\.expert\..*: \[2, 16\]"
    ):
        score(read(tmp_path), ["stages.0.recur=3"])


def test_steps_need_one_recurrent_stage():
    two = "stages=[{recur: 2, step: [seq, depth]}, {stack: 1, step: [seq]}, {recur: 2, step: [expert]}]"
    with pytest.raises(TrainingError, match=r"stages\.0 and stages\.2; name the stage, such as stages\.0"):
        at_steps(spec(two), 8)
    assert at_steps(spec(two), {"stages.2": 3}) == ["stages.2.recur=3"]
    with pytest.raises(TrainingError, match="expected a recurrent stage, got a stack"):
        at_steps(spec(two), {"stages.1": 3})
    nested = spec("stages=[{stack: 2, step: [seq, {recur: 2, step: [depth, expert]}]}]")
    assert at_steps(nested, 3) == at_steps(nested, {"stages.0.1": 3}) == ["stages.0.step.1.recur=3"]
    with pytest.raises(TrainingError, match="got none"):
        at_steps(spec("stages=[{stack: 2, step: [seq, depth, expert]}]"), 8)
    assert at_steps(spec("stages=[{stack: 2, step: [seq]}, {recur: 2, step: [depth, expert]}]"), 8) == [
        "stages.1.recur=8"
    ]


def test_what_is_no_run_cannot_be_scored(tmp_path, whole):
    with pytest.raises(TrainingError, match=r"^file not found: .*, expected a run folder or a checkpoint$"):
        read(tmp_path / "nowhere")
    with held(tmp_path, make_plan(spec())), pytest.raises(TrainingError, match="no best weights yet"):
        read(tmp_path)
    with pytest.raises(TrainingError, match="no best weights yet; it was never evaluated or saved"):
        load_run(tmp_path)


def test_load_run_gives_the_last_weights_too_and_errors_say_which_there_are(whole, tmp_path):
    last = load_run(whole.folder, weights="last")
    assert not last.training
    saved = read_checkpoint(whole.folder / "last.ckpt")["state_dict"]
    assert all(weight.equal(saved[name]) for name, weight in last.state_dict().items())
    with held(tmp_path, make_plan(spec())):
        shutil.copy(whole.folder / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"no last weights yet; it has best weights, model\.safetensors"):
        load_run(tmp_path, weights="last")
    with pytest.raises(ValueError, match="expected 'best' or 'last', got 'latest'"):
        load_run(tmp_path, weights="latest")


# a Trainer of one's own


@pytest.mark.filterwarnings("ignore:.*(tensorboard|litlogger|deprecated|max_epochs. was not set)")
@pytest.mark.parametrize("options", [{"max_epochs": 1}, {}], ids=str)
def test_a_compiled_spec_is_an_ordinary_lightning_module(tmp_path, options):
    wanted = spec("train.tokens=1280")
    trainer = lightning.Trainer(default_root_dir=tmp_path, accelerator="cpu", **options)
    trainer.fit(compile(wanted), composer_data := datamodule(wanted))
    assert trainer.global_step == wanted.train.steps == 5
    assert trainer.callback_metrics["train_loss"] > 0
    ours = run_training(wanted, tmp_path / "ours").metrics
    theirs = trainer.validate(trainer.lightning_module, composer_data, verbose=False)[0]
    assert theirs == pytest.approx(held_out(ours), rel=1e-6)

"""`train.ema`: an average of the weights is scored and saved, beside weights that train as without it."""

import lightning
import pytest
import torch
from test_optimizer import batches, compiled, spec

from composer import load_run
from composer.training.folder.checkpoint import read_checkpoint
from composer.training.run import run_training
from composer.training.score import read, score

DECAY = 0.5


class Each(lightning.Callback):
    """Notes the weights after each step, and those that are scored."""

    def __init__(self):
        self.weights, self.scored = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append(kept(pl_module))

    def on_validation_epoch_end(self, trainer, pl_module):
        self.scored.append(kept(pl_module))


def kept(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def averaged(steps):
    first, *others = steps
    for weights in others:
        first = {name: DECAY * first[name] + (1 - DECAY) * weights[name] for name in first}
    return first


def fit(folder, ema, **options):
    model, watch = compiled(spec(ema=ema)), Each()
    usual = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(callbacks=[watch], max_epochs=1, default_root_dir=folder, **usual, **quiet)
    trainer.fit(model, batches(model), batches(model), **options)
    return model, watch, trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_trainer_scores_and_saves_the_average_and_trains_the_weights(tmp_path):
    plain, (model, watch, trainer) = fit(tmp_path, None)[1], fit(tmp_path, DECAY)
    expected = averaged(watch.weights)
    for one, two in zip(watch.weights, plain.weights, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)
    for got in (watch.scored[-1], kept(model)):
        torch.testing.assert_close(got, expected)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = read_checkpoint(tmp_path / "end.ckpt")
    torch.testing.assert_close({name: saved["state_dict"][name] for name in expected}, expected)
    assert all(torch.equal(saved["current_model_state"][name], w) for name, w in watch.weights[-1].items())


def test_a_run_keeps_the_average_and_goes_on_to_the_same_end(tmp_path):
    ema = spec(ema=DECAY, eval={"every": 96, "tokens": 64}, checkpoint={"every": 96})
    whole = run_training(ema, tmp_path / "whole")
    run_training(ema, tmp_path / "parts", until_tokens=128)
    parts = run_training(ema, tmp_path / "parts")
    ends = [read_checkpoint(run.folder / "last.ckpt") for run in (whole, parts)]
    for key in ("state_dict", "current_model_state"):
        assert all(torch.equal(ends[1][key][name], weight) for name, weight in ends[0][key].items())
    name = "stages.0.step.0.0.seq.query"
    assert not torch.equal(ends[0]["state_dict"][name], ends[0]["current_model_state"][name])
    assert score(read(whole.folder)).scores == whole.best
    last = load_run(whole.folder, "last").state_dict()
    assert torch.equal(last[name], ends[0]["state_dict"][name])


@pytest.mark.slow
def test_sharded_weights_have_a_sharded_average(tmp_path):
    settings = {"ema": DECAY, "devices": 2, "eval": {"every": 10**6, "tokens": 64}}
    runs = [run_training(spec(**settings, strategy=each), tmp_path / each) for each in ("ddp", "fsdp")]
    ends = [read_checkpoint(run.folder / "last.ckpt")["state_dict"] for run in runs]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)

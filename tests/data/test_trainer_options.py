"""A Trainer's options train as the spec says, or are refused with a sentence."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.tuner import Tuner

import composer
from composer.language.load import loads
from composer.module.model import ComposedModel

SPEC = """
schema: 1
name: tiny
model: {width: 16, vocab: 16, context: 16}
blocks: {ffn: {type: feed_forward, hidden: 16}}
stages: [{recur: 2, step: [ffn]}]
train:
  data: {task: hop, length: 16, symbols: 4, hops: 1}
  tokens: 640  # 10 steps
  batch_tokens: 64
  lr: 1e-2
  clip: 1e-3
  schedule: {warmup: 0.2, stable: 0.5, decay: 0.3}
  eval: {every: 640, tokens: 64}
"""
RATES = [0.005, *[0.01] * 7, pytest.approx(0.02 / 3), pytest.approx(0.01 / 3)]


class Watch(lightning.Callback):
    """Notes the batches read, each step's rate and gradient norm, and evaluations."""

    def __init__(self):
        self.batches, self.rates, self.norms, self.evaluations = [], [], [], []

    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].register_step_post_hook(self.stepped)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch["tokens"].tolist())

    def stepped(self, optimizer, args, kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.norms.append(float(torch.nn.utils.get_total_norm([weight.grad for weight in weights])))

    def on_validation_end(self, trainer, pl_module):
        self.evaluations.append(trainer.global_step)


def trainer(**options):
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{
            "logger": False,
            "enable_checkpointing": False,
            "max_epochs": -1,
            "num_sanity_val_steps": 0,
            **options,
        },
    )


def fit(*settings, callbacks=(), **options):
    spec, watch = loads(SPEC, "tiny.yaml", settings), Watch()
    run = trainer(callbacks=[*callbacks, watch], **options)
    run.fit(composer.compile(spec), composer.datamodule(spec))
    return watch


@pytest.fixture(scope="module")
def whole():
    """A fit with no options."""
    watch = fit()
    assert len({str(batch) for batch in watch.batches}) == 10
    assert watch.rates == RATES
    assert watch.evaluations == [10]
    return watch


@pytest.mark.parametrize(
    ("options", "evaluations"),
    [
        ({"limit_train_batches": 4}, [4, 8, 10]),
        ({"limit_train_batches": 5, "check_val_every_n_epoch": 2}, [10]),
        ({"val_check_interval": 4}, [4, 8, 10]),
        ({"reload_dataloaders_every_n_epochs": 1, "limit_train_batches": 6}, [6, 10]),
        ({"detect_anomaly": True}, [10]),
        ({"use_distributed_sampler": False, "inference_mode": False, "sync_batchnorm": True}, [10]),
        ({"max_steps": 50, "min_steps": 10, "min_epochs": 1}, [10]),
        ({"callbacks": [EarlyStopping("held_out_loss", patience=9)]}, [10]),
    ],
)
def test_options_that_leave_the_training_alone_do(whole, options, evaluations):
    watch = fit(**options)
    assert (watch.batches, watch.rates, watch.norms) == (whole.batches, whole.rates, whole.norms)
    assert watch.evaluations == evaluations


@pytest.mark.filterwarnings("ignore:Detected call of")  # a schedule that goes on beside steps left out
@pytest.mark.parametrize("settings", [[], ["train.accumulate=2"]])
def test_scaled_losses_in_fp16_train_as_unscaled_ones_and_steps_that_overflow_are_left_out(settings):
    losses, weights, norms = {}, {}, {}
    for scale in (1.0, 2.0**12, 1e38):
        spec, watch = loads(SPEC, "tiny.yaml", settings), Watch()
        model = composer.compile(spec)
        before = [weight.detach().clone() for weight in model.parameters()]
        half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        run = trainer(callbacks=[watch], plugins=[half])
        run.fit(model, composer.datamodule(spec))
        losses[scale], norms[scale] = float(run.callback_metrics["train_loss"]), watch.norms
        weights[scale] = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    assert losses[2.0**12] == pytest.approx(losses[1.0], abs=1e-2)
    assert norms[2.0**12] == pytest.approx([1e-3] * 10, rel=1e-3)  # train.clip, of unscaled gradients
    torch.testing.assert_close(weights[2.0**12], weights[1.0], rtol=0, atol=1e-2)
    assert norms[1e38] == []  # no optimizer step
    assert half.scaler.get_scale() < 1e38
    assert weights[1e38].equal(torch.cat([weight.flatten() for weight in before]))


def test_a_shorter_fit_keeps_to_the_schedule_of_the_whole(whole):
    for options, steps in [({"max_steps": 3}, 3), ({"max_epochs": 2, "limit_train_batches": 2}, 4)]:
        watch = fit(**options)
        assert (watch.batches, watch.rates) == (whole.batches[:steps], whole.rates[:steps])
    assert fit(max_time={"seconds": 0}).batches == []
    assert len(fit("train.accumulate=2", fast_dev_run=True).batches) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_overfitting_reads_the_same_batches_in_every_epoch_for_as_many_steps(accumulate):
    watch = fit(f"train.accumulate={accumulate}", overfit_batches=2)
    first = watch.batches[:2]
    assert first[0] != first[1]
    assert watch.batches == first * (5 * accumulate)
    assert watch.rates == RATES


def test_a_clip_of_0_given_to_the_trainer_clips_nothing(whole):
    assert whole.norms == pytest.approx([1e-3] * 10, rel=1e-2)
    assert min(fit(gradient_clip_val=0).norms) > 1e-2
    largest = fit(gradient_clip_val=1e-4, gradient_clip_algorithm="value")
    assert max(largest.norms) > 1.1e-3


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ([], {"accumulate_grad_batches": 2}, r"accumulate_grad_batches=2\), but the spec says accumulate: 1"),
        (
            [],
            {"callbacks": [GradientAccumulationScheduler({0: 2})]},
            "GradientAccumulationScheduler would change .* accumulate: 1 for each of its 10 steps",
        ),
        (["train.accumulate=2"], {"limit_train_batches": 3}, r"limit_train_batches=3\) ends .*multiple of 2"),
        (["train.accumulate=2"], {"overfit_batches": 1}, r"overfit_batches=1\) ends .* multiple of 2"),
        ([], {"min_steps": 11}, r"min_steps=11\): the spec has 10 optimizer steps; raise train.tokens"),
        ([], {"min_epochs": 2}, r"min_epochs=2\): one epoch of a spec's batches is the whole training"),
        ([], {"check_val_every_n_epoch": 2}, r"every_n_epoch=2\): .*give val_check_interval"),
        (
            [],
            {"max_epochs": 1, "callbacks": [StochasticWeightAveraging(1e-3)]},
            "StochasticWeightAveraging averages over epochs",
        ),
        (
            [],
            {"gradient_clip_algorithm": "value"},
            r"train.clip \(0.001\) is a norm.*give it gradient_clip_val",
        ),
        ([], {"precision": "bf16-true"}, r"precision='bf16-true'\) would keep weights .* use 'bf16-mixed'"),
        (["train.precision=32"], {"precision": "64-true"}, "give it precision='32-true'"),
    ],
)
def test_options_that_would_train_otherwise_are_refused_in_words(settings, options, message):
    with pytest.raises(ValueError, match=message):
        fit(*settings, **options)


def test_all_refused_options_are_told_at_once():
    with pytest.raises(ValueError, match=r"(?s)min_steps=20.*min_epochs=3"):
        fit(min_steps=20, min_epochs=3)


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|LR finder stopped early)")
def test_the_learning_rate_finder_searches_and_leaves_the_model_as_it_was(tmp_path):
    spec = loads(SPEC, "tiny.yaml")
    model, run = composer.compile(spec), trainer(default_root_dir=tmp_path)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    result = Tuner(run).lr_find(
        model, datamodule=composer.datamodule(spec), num_training=5, update_attr=False
    )
    assert len(result.results["loss"]) == 5
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    # the rate is the spec's, so there is no attribute to set
    with pytest.raises(AttributeError, match="should have one of these fields"):
        fit(callbacks=[LearningRateFinder(num_training_steps=3)], default_root_dir=tmp_path)


class Rates(LearningRateMonitor):
    """Keeps what it would log."""

    def on_train_batch_start(self, trainer, *_):
        super().on_train_batch_start(trainer, *_)
        self.seen = [*getattr(self, "seen", []), self.lrs["lr-AdamW/pg1"][-1]]


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_loggers_profilers_and_callbacks_of_lightning_leave_the_training_alone(whole, profiler, tmp_path):
    rates, kept = Rates(), ModelCheckpoint(tmp_path / "kept", "{step}", monitor="held_out_loss")
    options = {"logger": CSVLogger(tmp_path), "enable_checkpointing": True, "log_every_n_steps": 1}
    watch = fit(callbacks=[rates, kept], profiler=profiler, default_root_dir=tmp_path, **options)
    assert (watch.batches, watch.rates) == (whole.batches, whole.rates)
    assert rates.seen == pytest.approx([0.005, *[0.01] * 7, 0.02 / 3, 0.01 / 3])
    assert kept.best_model_path.endswith("step=10.ckpt")
    assert ComposedModel.load_from_checkpoint(kept.best_model_path).spec.name == "tiny"


def test_a_fit_goes_on_from_a_checkpoint_with_the_next_batch(whole, tmp_path):
    run = trainer(max_steps=4)
    spec = loads(SPEC, "tiny.yaml")
    run.fit(composer.compile(spec), composer.datamodule(spec))
    run.save_checkpoint(tmp_path / "four.ckpt")
    after = trainer(callbacks=[result := Watch()])
    after.fit(
        composer.compile(spec), composer.datamodule(spec), ckpt_path=tmp_path / "four.ckpt", weights_only=True
    )
    assert (result.batches, result.rates, result.norms) == (
        whole.batches[4:],
        whole.rates[4:],
        whole.norms[4:],
    )


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_data_loader_of_the_users_own_trains_and_scores():
    spec = loads(SPEC, "tiny.yaml")
    tokens = torch.randint(16, (40, 16), generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tokens, tokens), batch_size=4)
    model = composer.compile(spec)
    run = trainer(max_epochs=1, limit_val_batches=2)
    run.fit(model, loader, loader)
    assert run.global_step == 10
    assert 0 < run.callback_metrics["held_out_loss"] < 4
    assert run.validate(model, loader, verbose=False)[0].keys() >= {"held_out_loss", "held_out_accuracy"}
    assert [len(each) for each in run.predict(model, loader)] == [4] * 10

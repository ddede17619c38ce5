"""The optimizer is the one that `train` describes: its groups, its rate at every step, its clipping."""

import math

import lightning
import pytest
import torch
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from models import Loader, compiled, tokens_for
from strategies import make
from torch.nn.utils import get_total_norm

BLOCKS = {
    "seq": {**SEQ, "qk_norm": True},
    "depth": DEPTH,
    "expert": {**EXPERT, "depth_code": "bias"},
    "ffn": FFN,
}
MIX = {"parallel": ["seq", "ffn"], "combine": "gate"}
SPARED = {
    "norm",
    "stages.0.step.0.norm",
    "stages.0.step.0.0.seq.query_norm",
    "stages.0.step.0.0.seq.key_norm",
    "stages.0.step.1.norm",
    "stages.0.step.2.norm",
    "stages.0.step.2.expert.query_bias",
}
STEPS, LR = 10, 4e-3


def spec(**train):
    plain = tree(BLOCKS, {"recur": 2, "step": [MIX, "depth", "expert"], "inject": "concat"}, tie=False)
    model = {**plain["model"], "vocab": 16, "context": 16}
    data = {"task": "hop", "length": 16, "symbols": 4, "hops": 1}
    train = {"data": data, "tokens": STEPS * 32, "batch_tokens": 32, **train}
    return make({**plain, "model": model, "train": train})


class Watch(lightning.Callback):
    """Notes each step's rate, and the norm of the gradient before clipping and as it is applied."""

    def __init__(self):
        self.rates, self.norms, self.applied = [], [], []

    def on_train_start(self, trainer, pl_module):
        trainer.optimizers[0].register_step_post_hook(self.stepped)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.norms.append(norm(optimizer))

    def stepped(self, optimizer, args, kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        self.applied.append(norm(optimizer))


def norm(optimizer):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return float(get_total_norm([p.grad for p in parameters if p.grad is not None]))


def batches(model):
    """The batches of all steps."""
    each = [tokens_for(model.spec, seed=seed) for seed in range(STEPS)]
    return Loader([{"tokens": tokens, "targets": tokens} for tokens in each])


def fit(train, steps=STEPS, **options):
    model, watch = compiled(spec(**train)), Watch()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        max_steps=steps,
        limit_val_batches=0,
        enable_model_summary=False,
        callbacks=[watch],
        **quiet,
        **options,
    ).fit(model, batches(model), batches(model))
    assert len(watch.rates) == steps
    return watch


@pytest.mark.parametrize(
    ("train", "decay", "betas"),
    [
        ({"lr": 1e-3, "weight_decay": 0.3, "betas": [0.8, 0.99]}, 0.3, (0.8, 0.99)),
        ({"lr": 5e-2, "weight_decay": 0, "betas": [0.7, 0.9]}, 0, (0.7, 0.9)),
    ],
)
def test_groups_are_adamw_with_the_values_of_the_spec_and_spare_norms_and_biases(train, decay, betas):
    model = compiled(spec(**train))
    optimizer = model.configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.AdamW
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, spared = ({names.pop(p) for p in group["params"]} for group in optimizer.param_groups)
    assert not names
    assert spared == SPARED
    # every matrix, the least like one among them
    assert {"embedding", "head", "stages.0.step.0.gate", "stages.0.step.2.expert.keys"} <= decayed
    assert [group["weight_decay"] for group in optimizer.param_groups] == [decay, 0]
    for group in optimizer.param_groups:
        assert (group["initial_lr"], tuple(group["betas"])) == (train["lr"], betas)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.2, 0.5, 0.3), [1 / 2, 1, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3]),
        ((0, 0.6, 0.4), [1, 1, 1, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
        ((0.5, 0.5, 0), [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 1, 1, 1, 1]),
        ((0, 1, 0), [1] * 10),
        ((0.4, 0, 0.6), [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ],
)
def test_the_rate_of_every_step_is_warmup_stable_decay(shares, expected):
    watch = fit({"lr": LR, "schedule": dict(zip(("warmup", "stable", "decay"), shares, strict=True))})
    assert watch.rates == [pytest.approx([LR * share] * 2, rel=1e-12) for share in expected]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("sqrt", [1 - (n / 5) ** 0.5 for n in range(5)]),
        ("cosine", [(1 + math.cos(math.pi * n / 5)) / 2 for n in range(5)]),
    ],
)
def test_the_decay_has_the_shape_that_the_spec_says(shape, expected):
    watch = fit({"lr": LR, "schedule": {"warmup": 0.1, "stable": 0.4, "decay": 0.5, "shape": shape}})
    assert watch.rates[:5] == [[LR] * 2] * 5
    assert watch.rates[5:] == [pytest.approx([LR * share] * 2) for share in expected]


@pytest.mark.parametrize("clip", [0, 1e-3, 1e6])
def test_the_gradient_that_is_applied_is_clipped_to_the_norm_of_the_spec(clip):
    watch = fit({"clip": clip, "lr": 1e-4}, steps=3)
    assert min(watch.norms) > 1.5  # above the default clip, which would show
    assert watch.applied == (pytest.approx([clip] * 3, rel=1e-2) if clip == 1e-3 else watch.norms)


def test_a_clip_given_to_the_trainer_goes_before_that_of_the_spec():
    watch = fit({"clip": 1e-3, "lr": 1e-4}, steps=1, gradient_clip_val=0.1)
    assert watch.applied == pytest.approx([0.1], rel=1e-2)

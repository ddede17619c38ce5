"""An optimizer step's gradient is that of the mean over its scored targets, however the step is split."""

import copy
from functools import cache
from itertools import chain

import lightning
import pytest
import torch
from cases import FFN, tree
from hypothesis import given
from hypothesis import strategies as st
from models import Loader, close, compiled
from samples import samples
from strategies import make

from blocks.wiring.loss.cross_entropy.reference import cross_entropy
from composer.module.step_mean import StepMean

LENGTH, VOCAB = 6, 11
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but")


class Gradients(lightning.Callback):
    """Notes the gradients and the loss of each optimizer step, as other callbacks see them."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        by_name = {name: weight.grad.clone() for name, weight in pl_module.named_parameters()}
        self.steps.append((by_name, float(pl_module.step_loss)))


@cache
def built():
    data = {"task": "hop", "length": 16, "symbols": 3, "hops": 2}
    plain = tree({"f": FFN}, {"recur": 2, "step": ["f"]})
    shape = {**plain["model"], "context": 16}
    train = {"data": data, "tokens": "1M", "batch_tokens": 256}
    return compiled(make({**plain, "model": shape, "train": train}))


def model():
    return copy.deepcopy(built())


def fitted(module, parts, accumulate):
    """The gradients and losses of the steps that a Trainer makes of micro-batches of (tokens, targets)."""
    seen = Gradients()
    return seen.steps, fit(module, parts, accumulate, seen)


def fit(module, parts, accumulate, callback):
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Loader([dict(zip(("tokens", "targets"), part, strict=True)) for part in parts]))
    return trainer


def drawn(sizes, scored, seed):
    """Micro-batches of some sequences each, of which about a share of the targets is scored."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for size, share in zip(sizes, scored, strict=True):
        tokens = torch.randint(VOCAB, (size, LENGTH), generator=draw)
        hidden = torch.rand(size, LENGTH, generator=draw) >= share
        parts.append((tokens, tokens.masked_fill(hidden, -100)))
    return parts


def whole(module, parts):
    """The gradients and the loss of all micro-batches as one."""
    module = copy.deepcopy(module).train()
    loss = module.loss(*(torch.cat(each) for each in zip(*parts, strict=True)))
    loss.backward()
    return {name: weight.grad for name, weight in module.named_parameters()}, float(loss.detach())


SHARES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
SPLITS = st.lists(st.tuples(st.integers(1, 4), SHARES), min_size=1, max_size=5)


@samples(24)
@given(parts=SPLITS, accumulate=st.integers(1, 5), seed=st.integers(0, 9))
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, accumulate, seed):
    parts = drawn(*zip(*parts, strict=True), seed)
    expected = whole(module := model(), parts[:accumulate])
    steps, _ = fitted(module, parts, accumulate)
    # Lightning makes a step of what is left at the end
    assert len(steps) == -(-len(parts) // accumulate)
    if expected[1] == 0:  # no target is scored
        assert steps[0][1] == 0
        assert not any(gradient.any() for gradient in steps[0][0].values())
        return
    close(steps[0][0], expected[0], 2e-6)
    assert steps[0][1] == pytest.approx(expected[1], rel=1e-6)


def test_one_micro_batch_on_one_device_gives_its_gradients_to_the_bit():
    parts = drawn([4], [0.3], 0)
    expected = whole(module := model(), parts)
    steps, _ = fitted(module, parts, 1)
    assert steps[0][1] == expected[1]
    assert all(torch.equal(steps[0][0][name], gradient) for name, gradient in expected[0].items())


def test_gradients_are_clipped_after_they_are_rescaled():
    parts = drawn([1, 7], [0.1, 1.0], 0)
    expected, _ = whole(module := model(), parts)
    norm = torch.nn.utils.get_total_norm(expected.values())
    seen = []
    module.clip_gradients = lambda optimizer, *_: seen.append(
        torch.nn.utils.get_total_norm(weight.grad for weight in module.parameters())
    )
    fitted(module, parts, 2)
    torch.testing.assert_close(seen, [norm])


def test_the_logged_loss_is_that_of_the_step():
    parts = drawn([2, 3, 3], [0.2, 0.6, 1.0], 0)
    _, loss = whole(module := model(), parts)
    _, trainer = fitted(module, parts, 3)
    assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(loss, rel=1e-6)


def test_a_step_left_unfinished_does_not_reach_into_the_next_fit():
    parts = drawn([2, 2], [0.2, 1.0], 0)
    module = model()
    module.training_step = real = module.training_step

    def fails(batch, batch_idx):
        if batch_idx == 1:
            raise KeyError
        return real(batch, batch_idx)

    module.training_step = fails
    with pytest.raises(KeyError):
        fitted(module, parts, 2)
    module.training_step = real
    expected, _ = whole(module, parts)
    steps, _ = fitted(module, parts, 2)
    close(steps[0][0], expected, 2e-6)


def test_a_training_step_of_ones_own_is_left_alone():
    class Seen(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.gradients = {name: weight.grad.clone() for name, weight in pl_module.named_parameters()}

    module, parts, seen = model(), drawn([2, 2], [1.0, 1.0], 0), Seen()
    expected, _ = whole(module, parts)
    module.training_step = lambda batch, batch_idx: 3 * module.loss(batch["tokens"], batch["targets"])
    fit(module, parts, 2, seen)
    close(seen.gradients, {name: 3 * gradient for name, gradient in expected.items()}, 2e-6)


@samples(100)
@given(
    ranks=st.lists(SPLITS.filter(lambda parts: len(parts) == 2), min_size=1, max_size=3),
    seed=st.integers(0, 9),
)
def test_ranks_together_give_the_gradient_of_the_whole_batch(ranks, seed):
    """What data parallel training does, in one process: each rank sums, then gradients are averaged."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(VOCAB, VOCAB, generator=draw, dtype=torch.float64)
    batches = [drawn(*zip(*parts, strict=True), seed + n) for n, parts in enumerate(ranks)]

    def loss(held, tokens, targets):
        return cross_entropy(held[tokens], targets)

    held = weight.clone().requires_grad_()
    loss(held, *(torch.cat(each) for each in zip(*chain(*batches), strict=True))).backward()
    expected = held.grad

    means, gradients = [], []
    for parts in batches:
        mean, held = StepMean(), weight.clone().requires_grad_()
        for part in parts:
            (mean.part(loss(held, *part), part[1], 7.0) / len(parts)).backward()
        means.append(mean)
        gradients.append(held.grad)
    together = torch.stack([mean._sums for mean in means]).sum(0)
    averaged = torch.nn.Parameter(weight.clone())
    averaged.grad = torch.stack(gradients).mean(0)
    means[0].finish([averaged], 7.0 * len(ranks) * 2, lambda sums, reduce_op: together)
    torch.testing.assert_close(averaged.grad, expected, rtol=1e-6, atol=1e-9)

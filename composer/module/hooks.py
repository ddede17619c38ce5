"""Lightning hooks of a composed model for training, validation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from composer.language.schema.spec import Train
from composer.module.batch import check_range, read_batch, read_tokens
from composer.module.core import ModelCore
from composer.module.fitting import check_trainer, clipping
from composer.module.optimization.average import WeightAverage
from composer.module.optimization.optimizer import make_optimizer
from composer.module.optimization.schedule import warmup_stable_decay
from composer.module.passes import Losses, losses
from composer.module.scores import Scores
from composer.module.step_mean import StepMean
from composer.settings.errors import SpecError


class TrainerHooks(ModelCore):
    """Trains and evaluates a model as its spec says.

    Attributes:
        average: the moving average of the weights (`train.ema`); None without it.
        step_losses: computes the losses of training steps, for instance by replaying a CUDA graph.
        logs_steps: whether each optimizer step logs `train_loss`, which takes about a millisecond.
    """

    average: WeightAverage | None
    step_losses: Losses = staticmethod(losses)
    logs_steps = True
    _averaged_before = False
    _scores: Scores
    _step_mean: StepMean

    def draw_steps(
        self, optimizer_step: int, micro_batch: int = 0, rows: int | None = None
    ) -> dict[str, int]:
        """Return the numbers of steps for a micro-batch, sampled or fixed."""
        raise NotImplementedError

    def _with_steps(self, steps: dict[str, int], run: Callable[..., Any], *given: Tensor) -> Any:
        raise NotImplementedError

    def _losses(
        self, tokens: Tensor, targets: Tensor, run: Losses = losses
    ) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def _update_balance(self, total: Callable[[Tensor], Tensor]) -> None:
        raise NotImplementedError

    def configure_model(self) -> None:
        """Shard the weights over the devices, if the Trainer's strategy has a mesh of them."""
        if self.device_mesh is not None:
            from composer.module.shard import shard

            shard(self, self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Check the Trainer's options against the spec, and choose kernels for its device.

        Raises:
            ValueError: an option contradicts the spec, or kernels cannot be chosen (see `choose`).
        """
        self._step_mean.start()
        self.randomness.start()
        if self.average is not None:
            self.average.put(self, False)
        if self.plan.spec is not self.spec:
            raise ValueError("expected the steps of the spec to train with: call set_steps({}) before")
        check_trainer(self.trainer, self._train(), self.spec.name)
        with self.trainer.precision_plugin.forward_context():
            self._choose_for_now()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one micro-batch, in any form that `read_batch` accepts, weighted by its targets.

        The optimizer step's gradient and `step_loss` are those of the mean over all its scored targets,
        however they are split into micro-batches and ranks.
        """
        tokens, targets, _ = read_batch(batch)
        if self._trainer is not None:
            self.randomness.at(self.trainer.global_step)
        steps = self.draw_steps(self.global_step, self.randomness.micro_batch, tokens.shape[0])
        run = partial(self._losses, run=self.step_losses)
        loss, reported = self._with_steps(steps, run, tokens, targets)
        parts = 1 if self._trainer is None else self.trainer.accumulate_grad_batches * self.trainer.world_size
        if parts == 1:
            return self._step_mean.whole(loss, reported)
        return self._step_mean.part(loss, targets, self._train().tokens_per_step / parts, reported)

    @property
    def step_loss(self) -> Tensor | None:
        """The mean loss over the scored targets of the last optimizer step, on all ranks; None before it."""
        return self._step_mean.loss

    @property
    def step_reported(self) -> dict[str, Tensor]:
        """Further metrics of the last optimizer step by name, as means over its scored targets."""
        return self._step_mean.reported

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the step's loss."""
        if self.logs_steps and self.step_loss is not None:
            self.log("train_loss", self.step_loss, prog_bar=True)
            self.log_dict({f"train_{name}": value for name, value in self.step_reported.items()})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Evaluate one batch, in any form that `read_batch` accepts."""
        tokens, targets, group = read_batch(batch)
        check_range(targets, self.spec.model.vocab, "targets", ignored=True)
        self._scores.add(self(tokens), targets, group)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the logits [batch, sequence, vocab] of a batch: tokens alone, or with targets."""
        logits: Tensor = self(read_tokens(batch))
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole evaluation, such as `held_out_loss` and `held_out_accuracy`."""
        scores = self._scores.take(self.trainer.strategy.reduce)
        self.log_dict({f"held_out_{name}": value for name, value in scores.items()}, prog_bar=True)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its warmup-stable-decay schedule, one update per optimizer step."""
        train = self._train()
        optimizer = make_optimizer(self.named_parameters(), self.plan.graph, train)
        schedule = warmup_stable_decay(optimizer, train)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the spec says, unless the Trainer was given a value of its own; 0 clips nothing."""
        self.clip_gradients(optimizer, *clipping(gradient_clip_val, gradient_clip_algorithm, self._train()))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step the optimizer, then update states without gradients (the balancing biases of experts)."""

        def gradients() -> Any:
            loss = optimizer_closure() if optimizer_closure is not None else None
            weights = (weight for group in optimizer.param_groups for weight in group["params"])
            self._step_mean.finish(weights, self._train().tokens_per_step, self.trainer.strategy.reduce)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, gradients)
        self._update_balance(partial(self.trainer.strategy.reduce, reduce_op="sum"))
        self.update_average()

    def update_average(self) -> None:
        """Update the moving average of the weights, if `train.ema` is set.

        Call it after each optimizer step of a training loop of your own; a Trainer calls it.
        """
        if self.average is not None:
            self.average.update(self)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap in the moving average of the weights, if there is one, until the context ends."""
        with nullcontext() if self.average is None else self.average.applied(self):
            yield

    def on_validation_start(self) -> None:
        """Swap in the moving average of the weights."""
        if self.average is not None:
            self._averaged_before = self.average.is_in_model
            self.average.put(self, True)

    def on_validation_end(self) -> None:
        """Restore the trained weights."""
        if self.average is not None:
            self.average.put(self, self._averaged_before)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_train_end(self) -> None:
        """Leave the moving average in the model, as Lightning's WeightAveraging does."""
        if self.average is not None:
            self.average.put(self, True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the moving average as the weights, and the trained weights beside it."""
        if self.average is not None:
            self.average.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the moving average, and leave the trained weights for Lightning to load."""
        if self.average is not None:
            self.average.load(checkpoint)

    def _train(self) -> Train:
        if self.spec.train is None:
            raise SpecError([self.spec.fault((), "a `train` section to train by", "none")])
        return self.spec.train

"""The callback of a run: logs, evaluates, saves, reports and stops, all at the end of optimizer steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from composer.language.schema.spec import Train
from composer.module.model import ComposedModel
from composer.module.optimization.schedule import decay_start, schedule
from composer.training.evaluate import evaluate
from composer.training.folder.checkpoint import read_checkpoint, save_weights
from composer.training.folder.errors import TrainingError
from composer.training.folder.files import link
from composer.training.folder.metrics import TRAIN, TRAIN_LOSS, MetricsFile, held_out
from composer.training.folder.run_folder import BEST, LAST, METRICS, STABLE, STABLE_BEST, WEIGHTS
from composer.training.processes.interrupt import Interrupted, Stop
from composer.training.speed import Speed

_ROWS = 200  # about as many rows in metrics.csv as the whole run logs
_REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    Attributes:
        step: optimizer steps done, of `steps` until it ends or pauses.
        tokens: training tokens read.
        train_loss: loss of the last step on its own batch; None before the first.
        tokens_per_second: of training alone, over the last few seconds; None before there are two reports.
        seconds_left: until the end or pause, evaluations and checkpoints included.
        held_out: scores of the last evaluation; empty before the first.
    """

    step: int
    steps: int
    tokens: int
    train_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    held_out: dict[str, float] | None = None


class Events:
    """At which optimizer steps a run logs, evaluates, saves and ends; functions of the spec alone.

    Attributes:
        row_steps: optimizer steps between two rows of metrics.
    """

    def __init__(self, train: Train, until_tokens: int | None) -> None:
        """`until_tokens` is where to pause; the run's end is the latest."""
        self.train = train
        pause = train.steps if until_tokens is None else -(-until_tokens // train.tokens_per_step)
        self.last = max(1, min(train.steps, pause))
        self.row_steps = max(1, train.steps // _ROWS)
        self._evaluate = max(1, round(train.eval.every / train.tokens_per_step))
        self._save = max(1, round(train.checkpoint.every / train.tokens_per_step))
        self.stable = decay_start(train)

    @property
    def evaluation_batches(self) -> int:
        """Micro-batches between two evaluations."""
        return self._evaluate * self.train.accumulate

    def rate(self, step: int) -> float:
        """Return the learning rate of the step, counted from 1."""
        return self.train.lr * schedule(self.train, step - 1)

    def logs(self, step: int) -> bool:
        """Whether a row of metrics is due."""
        return step % self.row_steps == 0 or self.evaluates(step)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due."""
        return self.evaluates_anyway(step) or step == self.last

    def evaluates_anyway(self, step: int) -> bool:
        """Whether an evaluation is due in a longer run as well."""
        return step % self._evaluate == 0

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due."""
        return step % self._save == 0 or step == self.last


class Recorder(lightning.Callback):
    """Logs, evaluates, keeps the best weights and saves, in this order, at the steps where it is due.

    Lightning's own validation loop and checkpoints are off, because in their order a resumed run would
    repeat or skip an evaluation.

    Attributes:
        metrics: of the last evaluation, made at step `evaluated`; empty before the first.
        best: metrics of the evaluation with the lowest loss.
        stop: a request to end after the current step; one rank's request ends all ranks.
    """

    def __init__(
        self,
        folder: Path,
        events: Events,
        scores: list[str],
        report: Callable[[Progress], None] | None,
        stop: Stop | None = None,
        reported: Sequence[str] = (),
    ) -> None:
        self.folder, self.events, self.report, self.stop = folder, events, report, stop or Stop()
        columns = [TRAIN_LOSS, *(TRAIN + name for name in reported)]
        self.file = MetricsFile(folder / METRICS, scores, columns[1:])
        self.metrics: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.evaluated = 0
        self._step = 0  # the last step whose events were handled
        # losses and metrics of steps that were not read yet: reading waits for the device
        self._steps: list[Tensor] = []
        # the same of the steps since the last row, by column
        self._losses: dict[str, list[float]] = {name: [] for name in columns}
        self._loss: float | None = None
        self._rate = 0.0  # of the last step; the schedule has moved on when a row is written
        self._speed = Speed()
        self._last_report = 0.0
        self._last_row: int | None = None  # the step of the last row
        self._kept: int | None = None  # the step of the state that is kept for a longer run
        self._reported: int | None = None  # the step of the last report
        self._saved: int | None = None  # the step of the last checkpoint

    @property
    def step(self) -> int:
        """The last optimizer step that was taken."""
        return self._step

    # hooks that Lightning calls

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to write the same rows; plain values only."""
        return {
            "metrics": self.metrics,
            "best": self.best,
            "evaluated": self.evaluated,
            "losses": self._losses[TRAIN_LOSS],
            "reported": {name: values for name, values in self._losses.items() if name != TRAIN_LOSS},
            "row": self._last_row,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.metrics, self.best = dict(state_dict["metrics"]), dict(state_dict["best"])
        self.evaluated = state_dict["evaluated"]
        kept = {TRAIN_LOSS: state_dict["losses"], **state_dict.get("reported", {})}
        self._losses = {name: list(kept.get(name, [])) for name in self._losses}
        self._last_row = state_dict.get("row")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Cut the metrics back to the resumed step, and report it."""
        self._step = trainer.global_step
        if trainer.is_global_zero:
            self.file.cut(trainer.global_step if self._last_row is None else self._last_row)
        if (kept := self.folder / STABLE).exists():
            self._kept = read_checkpoint(kept)["global_step"]
        self._report(trainer.global_step)

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Record the learning rate of the step."""
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """After the last micro-batch of a step, record its loss and handle the events that are due."""
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        assert isinstance(pl_module, ComposedModel)
        assert pl_module.step_loss is not None
        reported = pl_module.step_reported.values()
        self._steps.append(torch.stack([each.float() for each in (pl_module.step_loss, *reported)]))
        keeps = step == self.events.stable != self._kept
        # a longer run would not evaluate here only because it ends
        early = self.events.evaluates(step) and not self.events.evaluates_anyway(step)
        if keeps and early:
            self._keep(trainer)
        if self.events.logs(step):
            self._row(trainer, pl_module, step)
        if keeps and not early:
            self._keep(trainer)
        if self.events.saves(step):
            self._save(trainer)
        if self.report is not None and time.monotonic() - self._last_report > _REPORT_SECONDS:
            self._look(step)
            self._report(step)
        if step < self.events.last and self._asked_to_stop(trainer):
            if not self.events.saves(step):
                self._save(trainer)
            raise Interrupted

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save if a callback stopped the training early, and report the end, unless that was done."""
        assert isinstance(pl_module, ComposedModel)
        if self._step < self.events.last and self._step:
            if self.evaluated != self._step:
                with self._speed.paused(), pl_module.averaged():
                    self._evaluate(trainer, pl_module, self._step)
            if self._saved != self._step:
                self._save(trainer)
        if trainer.global_step != self._reported:
            self._report(trainer.global_step)

    # what happens at a step

    def _row(self, trainer: lightning.Trainer, model: ComposedModel, step: int) -> None:
        self._look(step)
        row = {
            "step": step,
            "tokens": step * self.events.train.tokens_per_step,
            "lr": self._rate,
            **{name: math.fsum(values) / len(values) for name, values in self._losses.items()},
        }
        for values in self._losses.values():
            values.clear()
        self._last_row = step
        # the losses were read, so the device's queue is empty
        with self._speed.paused(), model.averaged():
            self._score(trainer, model, step, row)

    def _score(
        self, trainer: lightning.Trainer, model: ComposedModel, step: int, row: dict[str, float]
    ) -> None:
        """Evaluate if due, write the row, and keep the best weights."""
        scored = self._evaluate(trainer, model, step) if self.events.evaluates(step) else {}
        if trainer.is_global_zero:
            self.file.append(row | held_out(scored))
        for logger in trainer.loggers:
            logger.log_metrics(row | held_out(scored), step=step)
        if scored and scored["loss"] < self.best.get("loss", math.inf):
            self.best = scored
            trainer.save_checkpoint(self.folder / BEST, weights_only=True)
            # by all ranks, since each has a part of sharded weights
            strategy: Any = trainer.strategy
            weights = getattr(strategy, "whole_weights", strategy.lightning_module_state_dict)()
            if trainer.is_global_zero:
                save_weights(self.folder / WEIGHTS, weights, model.hparams["spec"])
        if scored:
            self._tell_callbacks(trainer, model)

    def _tell_callbacks(self, trainer: lightning.Trainer, model: ComposedModel) -> None:
        """Call the evaluation hooks of other callbacks, such as early stopping, with the scores."""
        model.log_dict(held_out(self.metrics), on_step=True, on_epoch=False, logger=False)
        others = [each for each in trainer.callbacks if each is not self]  # type: ignore[attr-defined]
        for hook in ("validation_start", "validation_epoch_start", "validation_epoch_end", "validation_end"):
            for callback in others:
                getattr(callback, f"on_{hook}")(trainer, model)

    def _evaluate(self, trainer: lightning.Trainer, model: ComposedModel, step: int) -> dict[str, float]:
        batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        precision, reduce = trainer.precision_plugin.forward_context, trainer.strategy.reduce
        self.metrics, self.evaluated = evaluate(model, batches, precision, reduce), step
        if not math.isfinite(self.metrics["loss"]):
            raise self._diverged("the evaluation loss", self.metrics["loss"], step)
        return self.metrics

    def _save(self, trainer: lightning.Trainer) -> None:
        self._look(trainer.global_step)
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            self.file.sync()
        with self._speed.paused():
            trainer.save_checkpoint(self.folder / LAST)

    def _keep(self, trainer: lightning.Trainer) -> None:
        """Keep the state before the learning rate falls, from which a longer run continues."""
        self._look(trainer.global_step)
        with self._speed.paused():
            if trainer.is_global_zero:
                if self.best:
                    link(self.folder / BEST, self.folder / STABLE_BEST)
                else:
                    (self.folder / STABLE_BEST).unlink(missing_ok=True)
            trainer.save_checkpoint(self.folder / STABLE)

    def _asked_to_stop(self, trainer: lightning.Trainer) -> bool:
        """Whether any rank was asked to stop; all ranks learn it at the end of the same step."""
        if trainer.world_size == 1:
            return self.stop.asked
        asked = torch.tensor(float(self.stop.asked), device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(asked, reduce_op="sum"))

    def _look(self, step: int) -> None:
        """Read the losses of the steps up to `step`; a loss that is not finite ends the run."""
        if not self._steps:
            return
        rows = torch.stack(self._steps).tolist()
        self._steps.clear()
        losses = [loss for loss, *_ in rows]
        for at, loss in enumerate(losses, start=step - len(losses) + 1):
            if not math.isfinite(loss):
                raise self._diverged("the training loss", loss, at)
        for values, column in zip(self._losses.values(), zip(*rows, strict=True), strict=True):
            values += column
        self._loss = losses[-1]

    def _diverged(self, what: str, value: float, step: int) -> TrainingError:
        rate = self.events.rate(step)
        return TrainingError(
            f"{self.folder}: {what} became {value} at step {step}, learning rate {rate:.3g}; "
            f"lower train.lr ({self.events.train.lr:g}) or train.clip ({self.events.train.clip:g})"
        )

    def _report(self, step: int) -> None:
        if self.report is None:
            return
        self._last_report, self._reported = time.monotonic(), step
        per_step = self.events.train.tokens_per_step
        self._speed.at(step * per_step)
        self.report(
            Progress(
                step,
                self.events.last,
                step * per_step,
                self._loss,
                self._speed.tokens_per_second,
                self._speed.seconds_for((self.events.last - step) * per_step),
                self.metrics,
            )
        )

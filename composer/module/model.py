"""The LightningModule that a spec compiles to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blocks.ir.kernel import Target
from blocks.ir.walk import Place, weights
from composer.costs.counting.plan import Plan, make_plan
from composer.graph.passes.choose_kernels import Kernels
from composer.language.description.show import resolved_yaml
from composer.language.load import loads
from composer.language.schema.row_steps import CallSteps, row_steps
from composer.language.schema.spec import Spec
from composer.language.schema.steps import drawn_steps, trained_steps
from composer.module.balance import (
    UNBALANCED,
    UNSAMPLED,
    Reminder,
    moves_biases,
    over_ranks,
    update_balance,
)
from composer.module.batch import as_targets, as_tokens, check_length, check_range
from composer.module.emission.code import Code, Compiled, TorchCompile, without_code
from composer.module.emission.lookup import gather
from composer.module.emission.part import anyone_watches, tensors
from composer.module.emission.stage import Stage, add_parts, add_stages, put, take_graphs
from composer.module.exits import exit_logits
from composer.module.generates import Generates
from composer.module.hooks import TrainerHooks
from composer.module.optimization.average import WeightAverage
from composer.module.passes import Losses, losses
from composer.module.randomness import Randomness, this_rank
from composer.module.record import refuse_recording
from composer.module.scores import Scores
from composer.module.step_mean import StepMean
from composer.module.steps import StepSwitch
from composer.module.target import functions, target_of
from composer.module.weights import initial, residual_writers

_WORTH_COMPILING = 1000
"""The number of training steps from which compiling, which takes about a minute, pays off."""


class ComposedModel(Generates, TrainerHooks):
    """A model compiled from a spec; `model(tokens)` gives logits, a Trainer trains it as the spec says.

    Attributes:
        spec: the spec it was compiled from.
        plan: the plan its code was emitted from.
        target: the device and dtype its kernels were chosen for; None until it first runs with `fused`.
        randomness: the state that random numbers are derived from. In a training loop of your own,
            `randomness.step` counts training passes; restore it when you resume such a loop.
    """

    _watched = False

    def __init__(
        self,
        spec: Spec | str | Plan,
        kernels: Kernels = "auto",
        recompute: Collection[str] | None = None,
        torch_compile: TorchCompile = "auto",
    ) -> None:
        """Build the model with fresh weights, a function of `train.seed` (0 without a `train` section).

        Args:
            spec: a spec, its plan, or the text of a resolved spec, as in a checkpoint.
            kernels: "auto" uses the best kernel that fits the model's device for each operation, "reference"
                plain PyTorch; "fused" is "auto" that raises an error where a fused kernel does not fit.
            recompute: the operations that are recomputed in the backward pass (activation checkpointing), by
                their places as in `Costs.by_operation`. Default: those of the plan.
            torch_compile: "on" runs torch.compile on the code between custom kernels in training; "auto" does
                so for runs of at least 1000 steps on a GPU.

        Raises:
            ValueError: an operation cannot be recomputed, or both a plan and `recompute` were given.
        """
        super().__init__()
        if isinstance(spec, Plan):
            if recompute is not None:
                raise ValueError("recompute: expected none beside a plan, which has its own")
        else:
            first: Kernels = "reference" if kernels == "reference" else "auto"
            read = spec if isinstance(spec, Spec) else loads(spec, "checkpoint")
            spec = make_plan(read, kernels=first, recompute=recompute)
        self.kernels: Kernels = kernels
        self.torch_compile: TorchCompile = torch_compile
        self.target: Target | None = None
        if kernels != "fused" or spec.kernels == "fused":
            self.target = replace(spec.target, here=True)
            spec = spec.on(self.target, kernels)
        # otherwise the device on which `fused` may be refused is known only when the model runs
        self.plan, self.spec = spec, spec.spec
        options = {"kernels": kernels, "recompute": [*spec.recomputed], "torch_compile": torch_compile}
        self.save_hyperparameters({"spec": resolved_yaml(self.spec), **options})
        self.stages = nn.ModuleList()
        add_stages(self, self.graph, Place(), self._compiled)
        seed, writers = self.spec.train.seed if self.spec.train else 0, residual_writers(self.graph)
        one_hot = 0
        for name, weight, place in weights(self.graph):
            put(self, name, weight, initial(name, weight, place, writers, seed, one_hot))
            one_hot += weight.init.kind == "one_hot"
        for stage, stage_spec in zip(self.stages, self.spec.stages, strict=True):
            assert isinstance(stage, Stage)
            add_parts(stage, stage_spec, self.spec.blocks)
        self.emit()
        self._switch = StepSwitch()
        self._scores = Scores(self.spec)
        self._reminder = Reminder(UNBALANCED, moves_biases(self, self.graph))
        self._sampling = Reminder(UNSAMPLED, bool(trained_steps(self.spec)))
        self._step_mean = StepMean()
        ema = self.spec.train.ema if self.spec.train else None
        self.average = None if ema is None else WeightAverage(ema)
        self.randomness = Randomness(seed)
        # each rank counts its own loads until they are summed
        counters = [name for name, weight, _ in weights(self.graph) if not weight.saved]
        self._ddp_params_and_buffers_to_ignore = counters

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def choose(self, target: Target, watched: bool = False) -> None:
        """Choose the kernels for a target and emit the code that calls them; weights do not change.

        While hooks are registered (`watched`), the parts of the model are called one by one.

        It is called at the start of a fit, and by a forward pass if the device or dtype has changed.

        Raises:
            SpecError: `kernels` is "fused", and an operation cannot use its fused kernel on this target.
        """
        before = functions(self.graph), self._compiled, self._watched
        kernels: Kernels = "auto" if watched and self.kernels == "fused" else self.kernels
        self.plan = self.plan.on(target, kernels, apart=watched)
        self.target, self._watched = target, watched
        self._switch.forget()
        take_graphs(self, self.graph, Place())
        if watched or (functions(self.graph), self._compiled, self._watched) != before:
            self._emit_all()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def set_steps(self, steps: Mapping[str, int | Sequence[int]]) -> None:
        """Set the numbers of steps of recurrent stages, such as more at test time.

        `steps` maps the places of stages, such as `stages.0` or `stages.0.1`, to a number, or to one number
        for each row of the batch. Other stages run the number of steps of the spec; an empty mapping resets
        all. Values that depend on the number of steps, such as a residual scale of `1/steps`, follow it.
        `plan` has the costs at these numbers. A Trainer refuses to train with them.

        Raises:
            ValueError: a place is not that of a recurrent stage, a number is below 1, or a weight has an
                entry for each step.
        """
        self._switch.run(self, {place: row_steps(number, place) for place, number in steps.items()})

    def draw_steps(
        self, optimizer_step: int, micro_batch: int = 0, rows: int | None = None
    ) -> dict[str, int]:
        """Return the numbers of steps for a micro-batch, by the places of the stages.

        They are a function of `train.seed`, the optimizer step and the micro-batch, both counted from 0.
        Stages that always run the steps of evaluation are left out. If each sequence has its own number, the
        stage runs the largest, and `rows` are the numbers of the sequences on this device: as many as given,
        by default as in the spec. A Trainer calls this; call it in a training loop of your own.
        """
        return drawn_steps(self.spec, optimizer_step, micro_batch, rows, *this_rank())

    def emit_again(self) -> None:
        """Emit all code for the graph as it is now."""
        take_graphs(self, self.graph, Place())
        self._emit_all()

    def _emit_all(self) -> None:
        """Emit the model's own code and that of all stages."""
        self.emit()
        for module in self.modules():
            if isinstance(module, Stage):
                module.emit("no" if self._watched else self._compiled, self._watched)

    @property
    def _compiled(self) -> Compiled:
        """Whether torch.compile is used on the current target."""
        steps = self.spec.train.steps if self.spec.train else _WORTH_COMPILING
        worth = self.target is not None and self.target.device == "cuda" and steps >= _WORTH_COMPILING
        if self.torch_compile == "auto":
            return "tried" if worth else "no"
        return "required" if self.torch_compile == "on" else "no"

    def emit(self) -> None:
        """Emit the code outside of stages."""
        logits, *others, loss = self.graph.outputs
        self.code = Code(self.graph, Place(), [logits], "Model", self._compiled)
        self._loss = Code(self.graph, Place(), [loss, *others], "Loss", self._compiled)

    def _choose_for_now(self) -> None:
        """Choose kernels again if the device, the dtype of products or the presence of hooks changed."""
        target, watched = target_of(next(self.parameters())), self._is_watched()
        if (target, watched) != (self.target, self._watched):
            self.choose(target, watched)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _is_watched(self) -> bool:
        return anyone_watches(self)

    def extra_repr(self) -> str:
        """Return the tensors outside of stages and their shapes."""
        return tensors(self)

    def __getstate__(self) -> dict[str, Any]:
        return without_code(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.emit()

    def forward(
        self, tokens: Tensor, steps: CallSteps | None = None, exit_threshold: float | None = None
    ) -> Tensor:
        """Return logits [batch, sequence, vocab] for tokens, int64 [batch, sequence].

        `steps` apply to this call only: a number for the only recurrent stage, one number for each row of the
        batch, or a mapping from places to these, as in `set_steps`. With an `exit_threshold`, the logits of a
        token are those of the step at which it leaves.

        Raises:
            ValueError: tokens are not integers [batch, sequence], are longer than `model.context` or (checked
                on a CPU only) not below `model.vocab`; see also `set_steps` and `exit_logits`.
        """
        if steps is not None:
            run = partial(self.forward, exit_threshold=exit_threshold)
            return self._switch.call(self, steps, run, tokens)
        tokens = self._ready(tokens)
        if exit_threshold is not None:
            refuse_recording(self, "exit_threshold")
            return exit_logits(self, tokens, exit_threshold, self._keys(tokens))
        logits: Tensor = self.code(tokens, None, *self._keys(tokens), *gather(self, self.graph))
        return logits

    def loss(self, tokens: Tensor, targets: Tensor, steps: CallSteps | None = None) -> Tensor:
        """Return the loss that training minimises, over targets [batch, sequence] that are not -100.

        The target at a position is the desired output there: for language, the next token. By default the
        loss is the mean cross-entropy of the last step (see `model.loss` in a spec). `steps` are as in
        `forward`.

        Raises:
            ValueError: tokens and steps as in `forward`, or targets are not integers of the same shape.
        """
        if steps is not None:
            return self._switch.call(self, steps, self.loss, tokens, targets)
        return self._losses(tokens, targets)[0]

    def _with_steps(self, steps: CallSteps, run: Callable[..., Any], *given: Tensor) -> Any:
        return self._switch.call(self, steps, run, *given)

    def _losses(
        self, tokens: Tensor, targets: Tensor, run: Losses = losses
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and further metrics by name, as `run` computes them."""
        tokens, targets = self._ready(tokens), as_targets(targets, tokens)
        check_range(targets, self.spec.model.vocab, "targets", ignored=True)
        return run(self, tokens, targets)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _keys(self, tokens: Tensor) -> list[Tensor | bool]:
        """Return the further inputs of this pass, such as its random key (see `Randomness.keys`)."""
        keys = self.randomness.keys(self.graph, tokens, self.training, self._switch.steps)
        if self.training and torch.is_grad_enabled() and self._trainer is None:
            self.randomness.passed()
        return keys

    def update_expert_balance(self) -> None:
        """Update the balancing biases of experts from the loads since the last call, and reset the loads.

        Call it on all ranks after each optimizer step of a training loop of your own; a Trainer calls it.
        """
        self._update_balance(over_ranks)

    def _update_balance(self, total: Callable[[Tensor], Tensor]) -> None:
        update_balance(self, self.graph, total)
        self._reminder.updated()

    def _ready(self, tokens: Tensor) -> Tensor:
        """Check tokens and choose kernels for the current device."""
        tokens = as_tokens(tokens)
        check_length(tokens, self.spec.model.context)
        check_range(tokens, self.spec.model.vocab, "tokens")
        self._choose_for_now()
        if self.training and torch.is_grad_enabled():
            self._reminder.counted(self)
            if not self._switch.steps:
                self._sampling.counted(self)
        return tokens

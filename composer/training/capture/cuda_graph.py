"""The callback with which a Trainer replays training steps from CUDA graphs, where possible."""

from __future__ import annotations

import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from composer.graph.passes.choose_kernels import Kernels
from composer.language.schema.spec import Spec
from composer.launches.fake_gpu import Precision
from composer.launches.step import DependsOnData, step_launches
from composer.module.capture.recorder import CudaGraphChoice, CudaGraphs, check_choice
from composer.module.model import ComposedModel
from composer.module.passes import losses
from composer.settings.errors import first_line
from composer.training.capture.step_graphs import StepGraphs
from composer.training.folder.errors import TrainingError

WORTH_CAPTURING = 1000
"""The number of training steps from which recording pays off."""

SHARDED = "expected whole weights on each device (strategy ddp), got sharded ones (fsdp)"


def refuse(choice: CudaGraphChoice, kind: str, strategy: str) -> None:
    """Refuse "on" for runs with sharded weights, or on a device without CUDA graphs, before they begin.

    `kind` is the device's, `strategy` that of `train`.

    Raises:
        TrainingError: `choice` is "on", and such a run cannot be recorded.
    """
    sharded = SHARDED if strategy == "fsdp" else ""
    reason = CudaGraphs().refusal(torch.device(kind)) or sharded
    if choice == "on" and reason:
        raise TrainingError(f"cuda_graph on: {reason}")


def strategy_refusal(strategy: Strategy) -> str:
    """Return why steps under a Trainer's strategy are not recorded; "" if they can be.

    A recording holds one rank's own forward and backward pass and no communication: it hands gradients to
    autograd, whose hooks average them over ranks under DDP, after the whole backward pass.
    """
    if isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        return ""
    return f"expected one device or DDP, got {type(strategy).__name__}"


def what_depends_on_data(spec: Spec, precision: Precision, kernels: Kernels) -> str:
    """Return why a training step cannot be recorded on a GPU, found without one; "" if it can."""
    try:
        step_launches(spec, precision=precision, kernels=kernels)
    except DependsOnData as error:
        return " ".join(str(error).split())
    except Exception as error:  # an operation does not run on fake tensors
        return f"the step does not run on fake tensors: {first_line(error)}"
    return ""


class CudaGraph(lightning.Callback):
    """Replays the forward and backward pass of each micro-batch from a CUDA graph.

    The optimizer, clipping, accumulation and the averaging of DDP stay outside. "auto" is on for runs of at
    least 1000 steps on GPUs, whose steps do not depend on data that only the device has; otherwise it warns
    why not, but not on a CPU or for short runs. With "on" what stands against it is an error.

    Attributes:
        graphs: the recordings of the running fit; None if there are none.
    """

    def __init__(self, choice: CudaGraphChoice = "auto") -> None:
        """Raise ValueError where there is no such choice."""
        check_choice(choice)
        self.choice = choice
        self.graphs: StepGraphs | None = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Decide whether to record, from the first training step on.

        Raises:
            TrainingError: `choice` is "on", and the steps cannot be recorded.
        """
        assert isinstance(pl_module, ComposedModel)
        if self.choice == "off":
            return
        refused = CudaGraphs().refusal(trainer.strategy.root_device)
        train = pl_module.spec.train
        steps = train.steps if train is not None and trainer.max_steps < 0 else trainer.max_steps
        if self.choice == "auto" and (refused or steps < WORTH_CAPTURING):
            return
        if reason := refused or self._reason(trainer, pl_module):
            if self.choice == "on":
                raise TrainingError(f"cuda_graph on: {reason}")
            warnings.warn(f"training goes on without a CUDA graph: {reason}", stacklevel=2)
            return
        self.graphs = StepGraphs(CudaGraphs, required=self.choice == "on")
        pl_module.step_losses = self.graphs.losses

    def _reason(self, trainer: lightning.Trainer, model: ComposedModel) -> str:
        if model.device_mesh is not None:
            return SHARDED
        if reason := strategy_refusal(trainer.strategy):
            return reason
        if torch.is_anomaly_enabled() or getattr(trainer, "_detect_anomaly", False):
            return "detect_anomaly reads what each operation makes"
        precision: Precision = "bfloat16" if trainer.precision == "bf16-mixed" else "float32"
        return what_depends_on_data(model.spec, precision, model.kernels)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: Any) -> None:
        """Release the recordings."""
        if self.graphs is not None:
            assert isinstance(pl_module, ComposedModel)
            pl_module.step_losses = losses
            self.graphs.forget()
            self.graphs = None

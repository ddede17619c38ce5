"""An exponential moving average of the weights, which can replace them during evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

RAW = "current_model_state"
"""The checkpoint's key of the trained weights, as in Lightning's WeightAveraging."""


class WeightAverage:
    """Averages the weights of a model over its optimizer steps: average * decay + weights * (1 - decay).

    It starts as the weights after the first step. A sharded weight has a sharded average.

    Attributes:
        is_in_model: whether the model currently holds the average.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.is_in_model = False
        self._tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the current weights."""
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        if not self._tensors:
            self._tensors = {name: weight.clone() for name, weight in weights.items()}
            return
        self._place(weights)
        pairs = [(_local(self._tensors[name]), _local(weight)) for name, weight in weights.items()]
        averages, current = zip(*pairs, strict=True)
        update: Any = get_ema_multi_avg_fn(self.decay)  # type: ignore[no-untyped-call]
        update([*averages], [*current], 1)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Swap the average into a model, if there is one, until the context ends."""
        before = self.is_in_model
        self.put(model, True)
        try:
            yield
        finally:
            self.put(model, before)

    @torch.no_grad()
    def put(self, model: nn.Module, average: bool) -> None:
        """Copy the average, or the trained weights, into a model in place."""
        if not self._tensors or average == self.is_in_model:
            return
        weights = {name: weight.detach() for name, weight in model.named_parameters()}
        self._place(weights)
        for name, weight in weights.items():
            there, here = _local(self._tensors[name]), _local(weight)
            before = here.clone()
            here.copy_(there)
            there.copy_(before)
        self.is_in_model = average

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Save the average as a checkpoint's weights, and the trained ones beside it; called by all ranks."""
        if not self._tensors:
            return
        here = checkpoint["state_dict"]
        # all ranks gather sharded weights; only those that write a checkpoint get them
        in_parts = any(isinstance(weight, DTensor) for weight in here.values())
        other = here | {name: each if in_parts else _whole(each) for name, each in self._tensors.items()}
        averaged, raw = (here, other) if self.is_in_model else (other, here)
        if here:
            checkpoint["state_dict"] = averaged
        if here and "optimizer_states" in checkpoint:  # otherwise nothing resumes from it
            checkpoint[RAW] = raw

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Load the average of a checkpoint that has one, and leave the trained weights to be loaded."""
        if RAW in checkpoint:
            averaged: Mapping[str, Tensor] = checkpoint["state_dict"]
            checkpoint["state_dict"] = checkpoint.pop(RAW)
            self._tensors = {name: tensor.clone() for name, tensor in averaged.items()}

    def _place(self, weights: Mapping[str, Tensor]) -> None:
        """Move the loaded average to the devices of the weights; drop tensors without gradients."""
        self._tensors = {name: _like(self._tensors[name], weight) for name, weight in weights.items()}


def _like(tensor: Tensor, weight: Tensor) -> Tensor:
    if isinstance(weight, DTensor) and not isinstance(tensor, DTensor):
        return distribute_tensor(tensor.to(weight.device), weight.device_mesh, weight.placements)
    return tensor.to(weight.device)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor

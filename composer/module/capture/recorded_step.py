"""The forward and backward pass of one micro-batch, recorded once and replayed within autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from composer.module.capture.recorder import Recorder

Losses = Callable[..., Sequence[Tensor]]
"""Computes the loss and further metrics from the tensors of a micro-batch."""


class RecordedStep:
    """Computes a loss by replaying a recorded forward pass; autograd replays the backward pass.

    Gradients reach weights through autograd, so accumulation, clipping and hooks of weights work as usual. A
    weight without a gradient uses the recording's buffer as its gradient, until the next backward pass.

    Attributes:
        made: the buffers that the forward pass writes the loss and further metrics to.
    """

    def __init__(
        self, recorder: Recorder, run: Losses, given: Sequence[Tensor], weights: Sequence[nn.Parameter]
    ) -> None:
        """Record `run` for inputs of the shapes of `given`. Warm-up passes run, which also update buffers.

        The recording reads weights, and all else that is not in `given`, at their current addresses.
        """
        self._run, self._weights = run, weights
        self._given = [each.clone() for each in given]
        self._loss: Tensor | None = None
        self._latest: object = None
        self._used: list[bool] = []
        with torch.enable_grad():
            # a backward pass, so that its seed is allocated before the recording
            self._seed = torch.ones_like(self._forward_pass()[0])
            self._backward_pass()
            recorder.warm_up(lambda: (self._forward_pass(), self._backward_pass()))
            self.made, self._forward = recorder.record(self._forward_pass)
            self._made_gradients, self._backward = recorder.record(self._backward_pass)

    def __call__(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the loss and further metrics of a micro-batch."""
        for here, each in zip(self._given, given, strict=True):
            here.copy_(each)
        self._forward()
        self._latest = turn = object()
        made: tuple[Tensor, ...] = _Replayed.apply(self, turn, *self._weights)  # type: ignore[no-untyped-call]
        return made

    def gradients(self, turn: object, seed: Tensor) -> list[Tensor | None]:
        """Replay the backward pass; return the buffers of the weights' gradients.

        Raises:
            RuntimeError: `turn` is not the latest forward pass, or its backward pass has run already.
        """
        if turn is not self._latest:
            raise RuntimeError(
                "a step that is replayed from a recording has one backward pass, before the next forward pass"
            )
        self._latest = None
        gradients = self._by_weight()
        for weight, gradient in zip(self._weights, gradients, strict=True):
            # gradients that are buffers of the recording are about to be overwritten
            if gradient is not None and weight.grad is not None and _same_place(weight.grad, gradient):
                weight.grad = weight.grad.clone()
        self._seed.copy_(seed)
        self._backward()
        return gradients

    def _by_weight(self) -> list[Tensor | None]:
        made = iter(self._made_gradients)
        return [next(made).detach() if used else None for used in self._used]

    def _forward_pass(self) -> list[Tensor]:
        # cached casts of weights must not be shared with passes outside of the recording
        torch.clear_autocast_cache()
        self._loss, *reported = self._run(*self._given)
        torch.clear_autocast_cache()
        return [each.detach() for each in (self._loss, *reported)]

    def _backward_pass(self) -> list[Tensor]:
        assert self._loss is not None
        loss, self._loss = self._loss, None
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(loss, self._weights, self._seed, allow_unused=True)
        self._used = [each is not None for each in gradients]
        return [each for each in gradients if each is not None]


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: RecordedStep, turn: object, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.step, ctx.turn = step, turn
        loss, *reported = (each.clone() for each in step.made)
        ctx.mark_non_differentiable(*reported)
        return loss, *reported

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, seed: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.step.gradients(ctx.turn, seed)


def _same_place(one: Tensor, two: Tensor) -> bool:
    return one.data_ptr() == two.data_ptr()

"""The forward and the backward pass of one micro-batch, recorded once and replayed as part of autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from composer.module.capture.recorder import Recorder

Losses = Callable[..., Sequence[Tensor]]
"""Makes a loss, and what is reported beside it, of the tensors of a micro-batch."""


class RecordedStep:
    """Computes a loss by replaying its recorded forward pass; its backward pass is replayed by autograd's.

    Gradients arrive at weights through autograd, so accumulation, clipping and hooks of weights are as
    without. A weight without a gradient takes that of the recording as its own, until the next backward pass.

    Attributes:
        made: the loss, and what is reported beside it, where the forward pass writes them.
    """

    def __init__(
        self, recorder: Recorder, run: Losses, given: Sequence[Tensor], weights: Sequence[nn.Parameter]
    ) -> None:
        """Record `run` for inputs of the shapes of `given`. Passes run meanwhile, also on the buffers.

        What is recorded reads weights, and all else that is not given, where it is now.
        """
        self._run, self._weights = run, weights
        self._given = [each.clone() for each in given]
        self._loss: Tensor | None = None
        self._latest: object = None
        self._used: list[bool] = []
        with torch.enable_grad():
            # a backward pass on a shape of its own, so that the seed is there before the recording
            self._seed = torch.ones_like(self._forward_pass()[0])
            self._backward_pass()
            recorder.warm_up(lambda: (self._forward_pass(), self._backward_pass()))
            self.made, self._forward = recorder.record(self._forward_pass)
            self._made_gradients, self._backward = recorder.record(self._backward_pass)

    def __call__(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the loss of a micro-batch, and what is reported beside it."""
        for here, each in zip(self._given, given, strict=True):
            here.copy_(each)
        self._forward()
        self._latest = turn = object()
        made: tuple[Tensor, ...] = _Replayed.apply(self, turn, *self._weights)  # type: ignore[no-untyped-call]
        return made

    def gradients(self, turn: object, seed: Tensor) -> list[Tensor | None]:
        """Replay the backward pass; return the gradients of the weights, where it writes them.

        Raises:
            RuntimeError: `turn` is not that of the latest forward pass, or had its backward pass.
        """
        if turn is not self._latest:
            raise RuntimeError(
                "a step that is replayed from a recording has one backward pass, before the next forward pass"
            )
        self._latest = None
        gradients = self._by_weight()
        for weight, gradient in zip(self._weights, gradients, strict=True):
            # what a weight took of the last replay is about to be written anew
            if gradient is not None and weight.grad is not None and _same_place(weight.grad, gradient):
                weight.grad = weight.grad.clone()
        self._seed.copy_(seed)
        self._backward()
        return gradients

    def _by_weight(self) -> list[Tensor | None]:
        made = iter(self._made_gradients)
        return [next(made).detach() if used else None for used in self._used]

    def _forward_pass(self) -> list[Tensor]:
        # casts of weights belong to the recording, neither to what ran before nor to what comes after
        torch.clear_autocast_cache()
        self._loss, *reported = self._run(*self._given)
        torch.clear_autocast_cache()
        return [each.detach() for each in (self._loss, *reported)]

    def _backward_pass(self) -> list[Tensor]:
        assert self._loss is not None
        loss, self._loss = self._loss, None
        with torch.autocast(loss.device.type, enabled=False):
            found = torch.autograd.grad(loss, self._weights, self._seed, allow_unused=True)
        self._used = [each is not None for each in found]
        return [each for each in found if each is not None]


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

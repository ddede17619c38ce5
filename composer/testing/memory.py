"""The peak of a training step as it is measured, by counting live storages."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, nullcontext
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from composer.language.schema.spec import Spec
from composer.language.schema.steps import most_steps
from composer.module.model import ComposedModel
from composer.module.optimization.optimizer import make_optimizer
from composer.testing.choices import deciding, deciding_as


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most of them since `peak` was set."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0
        self.exclusive: tuple[int, ...] = ()  # what tells a gradient that autograd alone holds

    def count(self, *tensors: Tensor) -> None:
        """Count tensors that are alive."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.sizes:
                self.sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation of torch, and count what it makes."""
        kwargs = kwargs or {}
        if function is torch.ops.aten.add.Tensor and self._adds_up(*args):
            results: Any = args[0].add_(args[1])
        else:
            results = function(*args, **kwargs)
        self.count(*(each for each in tree_leaves(results) if isinstance(each, Tensor)))
        return results

    def _adds_up(self, old: Any, new: Any) -> bool:
        """Whether autograd would add a gradient to another in place, which it never does under a mode."""
        # with gradients on, an operation is running again
        if torch._C._current_graph_task_id() < 0 or torch.is_grad_enabled() or not isinstance(new, Tensor):
            return False
        holders = (old._use_count(), torch._C._storage_Use_Count(old.untyped_storage()._cdata))
        if not self.exclusive:
            self.exclusive = holders
        return holders == self.exclusive and old.shape == new.shape

    def __enter__(self) -> Any:
        """Begin to count."""
        super().__enter__()  # type: ignore[no-untyped-call]
        # the first two gradients that are added up here are nobody else's
        x = torch.ones(1, requires_grad=True)
        (x.exp() + x.sin()).backward()  # type: ignore[no-untyped-call]
        return self


def trainable(
    spec: Spec, dtype: torch.dtype = torch.bfloat16, device: str = "cpu", recompute: Collection[str] = ()
) -> tuple[ComposedModel, torch.optim.Optimizer]:
    """Return the model in a dtype as a whole, and its optimizer."""
    model = ComposedModel(spec, recompute=recompute, torch_compile="off")
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in tables:
            for name, tensor in held.items():
                if tensor is not None:
                    trained = isinstance(tensor, torch.nn.Parameter)
                    data = tensor.detach().to(device, dtype if tensor.is_floating_point() else None)
                    held[name] = torch.nn.Parameter(data) if trained else data
    if spec.train is None:
        return model, torch.optim.AdamW(model.parameters(), fused=True)
    return model, make_optimizer(model.named_parameters(), model.graph, spec.train)


def step(
    model: ComposedModel,
    optimizer: torch.optim.Optimizer,
    tokens: Tensor,
    targets: Tensor,
    autocast: bool = False,
) -> None:
    """Take one optimizer step, as a Trainer does, with the most steps that training runs."""
    with torch.autocast(tokens.device.type, torch.bfloat16) if autocast else nullcontext():
        loss = model.loss(tokens, targets, most_steps(model.spec) or None)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def make_moments(model: ComposedModel, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the states that it has after a step."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measured(
    spec: Spec,
    batch: int,
    dtype: torch.dtype = torch.bfloat16,
    recompute: Collection[str] = (),
    autocast: bool = False,
    fake: bool = True,
) -> int:
    """Return the most bytes alive at once in the second step, on a CPU.

    Under fake tensors nothing is computed, which an operation whose sizes depend on data cannot do without.
    """
    with ExitStack() as stack:
        if fake and not deciding(spec):
            stack.enter_context(FakeTensorMode())
        stack.enter_context(deciding_as(spec, "most"))
        stack.enter_context(sdpa_kernel(SDPBackend.FLASH_ATTENTION))
        model, optimizer = trainable(spec, dtype, recompute=recompute)
        tokens = torch.zeros(batch, spec.model.context, dtype=torch.int64)
        targets = tokens.clone()
        alive = stack.enter_context(LiveBytes())
        alive.count(*model.parameters(), *model.buffers(), tokens, targets)
        make_moments(model, optimizer)
        alive.peak = 0
        step(model, optimizer, tokens, targets, autocast)
    peak: int = alive.peak
    return peak

"""Activation checkpointing: recomputes operations in the backward pass instead of saving their tensors.

A marked operation saves at most its inputs. Where autograd would save an intermediate of it, or an output of
it in an operation that reads it, a handle is saved instead. The first handle that is unpacked runs the
operation again and fills all handles. An input from another marked operation is a handle as well, so
operations are recomputed in chains. They are functions of their inputs and weights, so results are equal bit
for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Recomputed(nn.Module):
    """Calls the function of a marked operation and returns its outputs as `Recomputable`.

    Without gradients it is a plain call.

    Attributes:
        inside: whether it saves a tensor of its own that grows with the batch.
        inputs: the number of arguments that are values; the others after them are weights.
        counters: positions of weights that are incremented in place; None when it runs again.
    """

    def __init__(self, function: Callable[..., Any], inside: bool, inputs: int, *counters: int) -> None:
        super().__init__()
        self.function, self.inside = function, inside
        self.inputs, self.counters = inputs, frozenset(counters)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return what the function returns."""
        tensors = [plain(argument) for argument in arguments]
        if not torch.is_grad_enabled():
            return self.function(*tensors, **named)
        run = _Run(self.function, [*map(_given, arguments)], named, _autocast(tensors), self.inside)
        for place in self.counters:
            run.arguments[place] = _Given(None)
        with _Packing(arguments, run, self.inputs):
            made = self.function(*tensors, **named)
        if isinstance(made, tuple):
            return tuple(Recomputable(tensor, run, place) for place, tensor in enumerate(made))
        return Recomputable(made, run, 0)


class Reading(nn.Module):
    """Calls the function of an operation that saves its tensors, except for recomputable inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return what the function returns."""
        tensors = [plain(argument) for argument in arguments]
        if not torch.is_grad_enabled():
            return self.function(*tensors, **named)
        with _Packing(arguments):
            return self.function(*tensors, **named)


@dataclass(slots=True)
class Recomputable:
    """Output number `place` of a marked operation, with the run that made it."""

    tensor: Tensor
    run: _Run
    place: int

    def handle(self, tensor: Tensor) -> _Handle | None:
        """Return a handle for a tensor in the memory of this one; None if it is not a plain view."""
        if tensor.dtype != self.tensor.dtype or tensor.is_conj() or tensor.is_neg():
            return None
        return _Handle(self.run, _View(self.place, tensor.size(), tensor.stride(), tensor.storage_offset()))


def plain(value: Any) -> Any:
    """Return the tensor itself, for operations that save it."""
    return value.tensor if isinstance(value, Recomputable) else value


class _Kept:
    """A tensor that is saved as it is."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        # detached, since its history would reference the operation that saves it
        self.tensor, self.version = tensor.detach(), tensor._version

    def take(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                "a tensor needed by the backward pass was changed in place since the forward pass"
            )
        return self.tensor


class _View(NamedTuple):
    """The view of output number `place` that a tensor is."""

    place: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any


class _Handle:
    """A tensor to recompute: a view of an output, or the tensor that the function saves at a position."""

    __slots__ = ("__weakref__", "made", "run", "what")

    def __init__(self, run: _Run, what: _View | int) -> None:
        self.run, self.what = run, what
        self.made: Tensor | None = None
        run.handles.append(weakref.ref(self))

    def fill(self, outputs: list[Tensor], packed: list[Tensor]) -> None:
        if isinstance(self.what, int):
            self.made = packed[self.what]
        else:
            place, size, stride, offset = self.what
            self.made = outputs[place].as_strided(size, stride, offset)

    def take(self) -> Tensor:
        if self.made is None:
            self.run.again()
        made, self.made = self.made, None  # a second backward pass over a retained graph recomputes it
        assert made is not None
        return made


class _Given(NamedTuple):
    """An argument as a run saves it."""

    value: Any
    requires_grad: bool = False
    carried: Any = None
    """Attributes of the tensor, such as where gradients of a weight accumulate."""

    def take(self) -> Any:
        if isinstance(self.value, (_Kept, _Handle)):
            made = self.value.take().detach().requires_grad_(self.requires_grad)
            vars(made).update(self.carried or {})
            return made
        return self.value


class _Run:
    """A call of a marked operation. Handles reference it, not the other way round."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: list[_Given],
        named: dict[str, Any],
        autocast: _Autocast,
        inside: bool,
    ) -> None:
        self.function, self.arguments, self.named = function, arguments, named
        self.autocast, self.inside = autocast, inside
        self.handles: list[weakref.ref[_Handle]] = []
        self.packed: list[torch.Size] = []

    def again(self) -> None:
        """Call the function as it was called before and fill all handles.

        Raises:
            RuntimeError: the function saves other tensors than before.
        """
        arguments = [argument.take() for argument in self.arguments]
        packed: list[Tensor] = []
        hooks = saved_tensors_hooks(lambda tensor: packed.append(tensor.detach()), _open)
        with _like(self.autocast), torch.enable_grad(), hooks:
            made = self.function(*arguments, **self.named)
        if [tensor.shape for tensor in packed] != self.packed:
            raise RuntimeError(
                f"{self.function.__name__} keeps other tensors when it runs again for the backward pass: "
                "both passes must run alike, under one choice of attention backends too"
            )
        outputs = [tensor.detach() for tensor in (made if isinstance(made, tuple) else (made,))]
        for handle in self._alive():
            handle.fill(outputs, packed)
        if torch._C._current_graph_task_id() >= 0:
            # a backward pass over a part of the graph unpacks only some of them
            torch.autograd.Variable._execution_engine.queue_callback(partial(_forget, weakref.ref(self)))

    def forget(self) -> None:
        """Drop the tensors of handles that were filled but not unpacked."""
        for handle in self._alive():
            handle.made = None

    def _alive(self) -> list[_Handle]:
        return [handle for reference in self.handles if (handle := reference()) is not None]


class _Autocast(NamedTuple):
    """The autocast state of a device."""

    device: str
    enabled: bool
    dtype: torch.dtype


def _autocast(values: list[Any]) -> _Autocast:
    device = _tensors(values)[0].device.type
    return _Autocast(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))


def _like(autocast: _Autocast) -> AbstractContextManager[Any]:
    device, enabled, dtype = autocast
    if not enabled and not torch.is_autocast_enabled(device):
        return nullcontext()
    # casts made here are not reused later
    return torch.autocast(device, dtype, enabled, cache_enabled=False)


class _Packing(saved_tensors_hooks):
    """Packs the tensors that autograd saves in one call: of a marked operation, or of a reader of one.

    The first `inputs` arguments are values, the others weights.
    """

    def __init__(self, arguments: tuple[Any, ...], run: _Run | None = None, inputs: int = 0) -> None:
        super().__init__(self._pack, _open)
        self.run = run
        self.sources = {_memory(each.tensor): each for each in arguments if isinstance(each, Recomputable)}
        self.own = {_memory(tensor) for tensor in _tensors(arguments)}
        self.weights = _tensors(arguments[inputs:])

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        # autograd keeps its hooks as long as the packed tensors
        vars(self).clear()

    def _pack(self, tensor: Tensor) -> _Kept | _Handle:
        run = self.run
        if run is not None:
            run.packed.append(tensor.shape)
        source = self.sources.get(_memory(tensor))
        if source is not None and (handle := source.handle(tensor)) is not None:
            return handle
        if run is None or not run.inside or _memory(tensor) in self.own:
            return _Kept(tensor)
        # queried here, since autocast is disabled inside an operation that it casts
        if run.autocast.enabled and _is_cast(tensor, self.weights):
            return _Kept(tensor)
        return _Handle(run, len(run.packed) - 1)


def _forget(reference: weakref.ref[_Run]) -> None:
    if (run := reference()) is not None:
        run.forget()


def _open(kept: _Kept | _Handle) -> Tensor:
    return kept.take()


def _memory(tensor: Tensor) -> int:
    """Return a key of a tensor's memory, the same for all its views."""
    address: int = tensor.untyped_storage()._cdata
    return address


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def _given(argument: Any) -> _Given:
    if isinstance(argument, Recomputable):
        return _Given(argument.handle(argument.tensor), argument.tensor.requires_grad)
    if isinstance(argument, Tensor):
        return _Given(_Kept(argument), argument.requires_grad, {**vars(argument)})
    return _Given(argument)


def _is_cast(tensor: Tensor, weights: list[Tensor]) -> bool:
    """Return whether a tensor is autocast's (cached) cast of a weight."""
    made = tensor.grad_fn
    while made is not None and len(made.next_functions) == 1:
        made = made.next_functions[0][0]
        if made is not None and any(made is _origin(weight) for weight in weights):
            return True
    return False


def _origin(weight: Tensor) -> Any:
    """Return the leaf of a weight's history."""
    return torch.autograd.graph.get_gradient_edge(weight).node if weight.requires_grad else None

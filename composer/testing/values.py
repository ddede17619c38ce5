"""What operations really make: shape and precision of every value of a forward pass, inputs intact."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn

from blocks.ir.graph import Graph
from blocks.ir.operation import Value
from blocks.ir.selected_tokens import SelectsTokens, selected_count
from blocks.ir.tensor_type import TensorType
from blocks.ir.walk import Place
from composer.costs.base.precision import FULL, MIXED
from composer.costs.memory.saved_tensors import Sizes, element_bytes, place_at
from composer.graph.passes.some_tokens import values_of_some
from composer.module.emission.code import Code, StepCode
from composer.module.emission.emit import NODE
from composer.module.emission.stage import Stage
from composer.module.model import ComposedModel
from composer.module.target import target_of
from composer.testing.choices import deciding_as


def check_values(model: ComposedModel, tokens: Tensor, mixed: bool) -> None:
    """Assert that every value has the declared shape and precision, and that no operation writes its inputs.

    Runs one forward pass of the loss, under autocast to bf16 if `mixed`.
    """
    with (
        warnings.catch_warnings(),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
        deciding_as(model.spec, "most"),
    ):
        # torch says that a norm with fp32 gains is not one kernel in bf16
        warnings.simplefilter("ignore", UserWarning)
        model.choose(target_of(next(model.parameters())))
        size, states = MIXED if mixed else FULL, {*map(id, model.buffers())}
        with ExitStack() as stack:
            for owner, graph, place in _graphs(model):
                sizes = element_bytes(graph, place_at(place.trips, tokens.shape[1], size))
                for code in _codes(owner):
                    watched = _Watched(code.plain, graph, sizes, tokens.shape, states)
                    stack.enter_context(patch.object(code, "plain", watched))
            model.loss(tokens, tokens)


def _graphs(model: ComposedModel) -> Iterator[tuple[nn.Module, Graph, Place]]:
    yield model, model.graph, Place()
    for module in model.modules():
        if isinstance(module, Stage):
            yield module, module.loop.body, module.place


def _codes(owner: nn.Module) -> Iterator[Code]:
    for held in vars(owner).values():
        if isinstance(held, Code):
            yield held
        elif isinstance(held, StepCode):
            yield from held.codes


class _Watched(nn.Module):
    """Emitted code that is run call by call, each of them looked at."""

    def __init__(
        self, code: fx.GraphModule, graph: Graph, sizes: Sizes, tokens: torch.Size, states: set[int]
    ) -> None:
        super().__init__()
        self.code, self.graph, self.sizes, self.tokens, self.states = code, graph, sizes, tokens, states
        self.some = values_of_some(graph)

    def forward(self, *arguments: Any) -> Any:
        """Run the code."""
        return _Calls(self).run(*arguments)


class _Calls(fx.Interpreter):
    def __init__(self, watched: _Watched) -> None:
        super().__init__(watched.code)
        self.watched = watched

    def run_node(self, n: fx.Node) -> Any:
        node = n.meta.get(NODE)
        if node is None or n.op == "call_method":
            return super().run_node(n)
        given, _ = self.fetch_args_kwargs_from_env(n)
        tensors = [each for each in given if isinstance(each, Tensor) and id(each) not in self.watched.states]
        before = [each._version for each in tensors]
        made = super().run_node(n)
        after = [each._version for each in tensors]
        assert after == before, f"{node}: writes into input {_first(before, after)}"
        self._look(node, made)
        return made

    def _look(self, node: str, made: Any) -> None:
        types = self.watched.graph.node(node).types
        for output, (type, got) in enumerate(zip(types, made if len(types) > 1 else [made], strict=True)):
            if not isinstance(got, Tensor):
                continue
            where = f"{node}, output {output}" if len(types) > 1 else node
            if type.kind == "token":
                value = Value(node, output)
                self._look_at(where, type, got, self.watched.sizes[value], self.watched.some.get(value))
            elif type.kind == "row":
                wanted = (self.watched.tokens[0], *type.shape)
                assert tuple(got.shape) == wanted, (
                    f"{where}: shape {list(got.shape)}, declared {list(wanted)}"
                )
            elif type.kind in ("table", "mask", "pairs"):
                batch, length = self.watched.tokens
                element = self.watched.sizes[Value(node, output)]
                size = type.table_bytes(length, batch * length, element)
                assert got.nbytes == size, f"{where}: takes {got.nbytes} bytes, its type {type} says {size}"

    def _look_at(
        self, where: str, type: TensorType, got: Tensor, size: int, chooses: SelectsTokens | None
    ) -> None:
        batch, length = self.watched.tokens
        if chooses:
            # of these numbers, one at each step
            sizes = {selected_count(length, share) for share in chooses.keep}
            length = got.shape[1] if got.shape[1] in sizes else max(sizes)
        _expect_shape(where, got, (batch, length, *type.shape))
        message = f"{where}: {got.dtype} takes {got.element_size()} bytes, its type {type} says {size}"
        assert got.element_size() == size, message


def _expect_shape(where: str, got: Tensor, wanted: tuple[int, ...]) -> None:
    assert tuple(got.shape) == wanted, f"{where}: shape {list(got.shape)}, declared {list(wanted)}"


def _first(before: list[int], after: list[int]) -> int:
    return next(n for n, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])

"""Regional torch.compile: compiles the code between operations that it cannot trace.

A step's code is split into regions. Each is compiled once for any number of steps, because operations that
depend on the step, such as slots and rotations, stay outside.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module

from blocks.primitives.reference import rotate, rotate_step, wide

TRACEABLE = "traceable"
"""The key in `fx.Node.meta` of nodes that torch.compile can trace."""

COMPILED = "compiled"
"""The key of the function that replaces a node's, if part of it can be compiled."""

_LEAST = 2
"""Minimum number of operations in a region; a single one is a kernel already."""


def with_regions(code: fx.GraphModule, required: bool) -> fx.GraphModule:
    """Return the code with its regions compiled; the result is equal up to rounding.

    Args:
        code: as emitted, one call for each operation, marked with `TRACEABLE`.
        required: whether a region that cannot be compiled is an error; otherwise it warns and runs eagerly.
    """
    for node in code.graph.nodes:
        node.target = node.meta.get(COMPILED, node.target) if required else node.target
    _split_rotations(code.graph)
    levels = _levels(code.graph)
    sorted_code, levels = _in_order(code, levels)
    whole = split_module(sorted_code, sorted_code, levels.__getitem__, keep_original_order=True)
    for name, part in [*whole.named_children()]:
        if isinstance(part, fx.GraphModule) and _is_region(part):
            whole.add_module(name, Region(part, required))
    return whole


class Region(nn.Module):
    """A piece of code that runs compiled.

    Raises:
        RuntimeError: it is called, is `required`, and cannot be compiled.
    """

    def __init__(self, code: fx.GraphModule, required: bool) -> None:
        super().__init__()
        self.code, self.required = code, required
        self.compiled: Callable[..., Any] | None = torch.compile(code, fullgraph=True)
        self.proved = False

    def forward(self, *arguments: Any) -> Any:
        """Return what the code returns."""
        if self.compiled is None:
            return self.code(*arguments)
        try:
            made = self.compiled(*arguments)
        except Exception as error:  # a compiler may fail in any way, also because there is no C compiler
            self._failed(error)
            return self.code(*arguments)
        self.proved = True
        return made

    def _failed(self, error: Exception) -> None:
        if self.proved:
            # dynamo's limit of recompilations: further kinds of input run eagerly
            if type(error).__name__ != "FailOnRecompileLimitHit":
                raise error
            return
        lines = str(error).strip().splitlines()
        message = f"torch.compile failed: {type(error).__name__}: {lines[0] if lines else ''}"
        if self.required:
            raise RuntimeError(message) from error
        warnings.warn(f"{message}; what it was to compile runs as it is", stacklevel=3)
        self.compiled = None


def turns_now(angle: Tensor, index: int) -> Tensor:
    """Return the rotation of one step [pairs, 2], cosine and sine: `index` steps of angle [pairs]."""
    turn = index * angle
    return torch.stack([turn.cos(), turn.sin()], -1)


def rotate_real(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x by turns [..., pairs, 2] in reals, which inductor fuses."""
    even, odd = torch.unflatten(wide(x), -1, (-1, 2)).unbind(-1)
    cos, sin = turns.unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return turned.flatten(-2).to(x.dtype)


def _split_rotations(graph: fx.Graph) -> None:
    """Move the table of a rotation out of regions, which must not have complex numbers or a step's index."""
    for node in [*graph.nodes]:
        if node.op == "call_function" and node.target in (rotate, rotate_step):
            x, table = node.args
            with graph.inserting_before(node):
                if node.target is rotate_step:
                    turns = graph.call_function(turns_now, (table, node.kwargs["index"]))
                else:
                    turns = graph.call_function(torch.view_as_real, (table,))
            node.target, node.args, node.kwargs = rotate_real, (x, turns), {}
            node.meta[TRACEABLE] = True


def _traceable(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is operator.getitem:
        return _traceable(node.all_input_nodes[0])
    return bool(node.meta.get(TRACEABLE))


def _levels(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return the level of each node: odd in regions, even outside, and not below those of its inputs."""
    levels: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            levels[node] = 0
            continue
        level = max((levels[each] for each in node.all_input_nodes), default=0)
        levels[node] = level + (level % 2 != _traceable(node))
    return levels


def _in_order(code: fx.GraphModule, levels: dict[fx.Node, int]) -> tuple[fx.GraphModule, dict[fx.Node, int]]:
    """Return the code with its nodes in the order of their levels, and the levels of the new nodes."""
    inner = [node for node in code.graph.nodes if node.op not in ("placeholder", "output")]
    given = [node for node in code.graph.nodes if node.op == "placeholder"]
    last = [node for node in code.graph.nodes if node.op == "output"]
    copied, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in [*given, *sorted(inner, key=levels.__getitem__), *last]:
        copies[node] = copied.node_copy(node, copies.__getitem__)
    copied_levels = {copies[node]: level for node, level in levels.items()}
    return fx.GraphModule(code, copied), copied_levels


def _is_region(part: fx.GraphModule) -> bool:
    nodes = [node for node in part.graph.nodes if node.op not in ("placeholder", "output")]
    calls = [node for node in nodes if node.target is not operator.getitem]
    return len(calls) >= _LEAST and all(map(_traceable, nodes))

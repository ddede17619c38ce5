"""Tokens that decide for themselves how many steps they run, made to decide as costs are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Literal
from unittest.mock import patch

import torch
from torch import Tensor

from blocks.ir.selected_tokens import SelectsTokens, selected_count
from blocks.ir.walk import graphs, operations
from composer.graph.compile import compile_graph
from composer.language.schema.spec import Spec


def deciding(spec: Spec) -> dict[str, SelectsTokens]:
    """Map each function by which tokens of a model decide to an operation that runs those that did."""
    all_operations = (
        operation for body, _ in graphs(compile_graph(spec)) for _, operation, _ in operations(body)
    )
    return {each.decides: each for each in all_operations if isinstance(each, SelectsTokens) and each.decides}


@contextmanager
def deciding_as(spec: Spec, how: Literal["expected", "most"]) -> Iterator[None]:
    """Let tokens of each sequence choose numbers of steps as often as expected, or all the largest one."""
    with ExitStack() as stack:
        for place in deciding(spec):
            module, _, name = place.partition(":")
            stack.enter_context(
                patch.object(import_module(module), name, _expected if how == "expected" else _most)
            )
        yield


def _most(chances: Tensor) -> Tensor:
    """Return the largest number for each token, given the chances [.., tokens, steps] of numbers from 1."""
    return chances.new_full(chances.shape[:-1], chances.shape[-1], dtype=torch.int64)


def _expected(chances: Tensor) -> Tensor:
    """Return numbers of steps that equally many tokens choose, up to rounding."""
    length, steps = chances.shape[-2:]
    counts = [selected_count(length, (steps - step) / steps) for step in range(steps)]
    numbers = torch.tensor([sum(count > token for count in counts) for token in range(length)])
    return numbers.to(chances.device).expand(chances.shape[:-1])

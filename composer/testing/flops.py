"""FLOPs as torch counts them while a model runs, and as they are declared for the same convention."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from composer.costs.counting.count import count_graph
from composer.graph.compile import compile_graph
from composer.language.schema.spec import Spec
from composer.module.model import ComposedModel
from composer.testing.choices import deciding_as
from composer.testing.models import tokens_for


def grouped(a: Any, b: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """[m, k] x [groups, k, n] is 2 m k n; [m, k] x [k, n], cut into groups along k, is the same."""
    return int(2 * a[0] * a[1] * b[-1])


def counted(spec: Spec, batch: int = 2, trains: bool = True) -> tuple[int, int]:
    """Return forward and backward FLOPs of one training step, counted by torch as it runs."""
    model = ComposedModel(spec)
    tokens = tokens_for(spec, batch)
    formulas = {torch.ops.aten._grouped_mm: grouped}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
        deciding_as(spec, "expected"),
        # the counter has hooks on all modules, for which each part would be called on its own
        patch("composer.module.model.anyone_watches", lambda model: False),
    ):
        loss = model.loss(tokens, tokens)
        forward = counter.get_total_flops()
        if trains:
            loss.backward()  # type: ignore[no-untyped-call]
    return forward, counter.get_total_flops() - forward


def declared(spec: Spec, batch: int = 2) -> tuple[int, int]:
    """Return the same as declared, with causal attention as the full square that torch counts."""
    tokens = batch * spec.model.context
    # of the tokens that run, not of those that training would take at a time
    with patch("composer.graph.lowering.build.micro_batch_tokens", lambda spec: tokens):
        rows = count_graph(spec, compile_graph(spec), full_mask=True).by_operation
    # some of the tokens, per token of all, need not be a whole number of FLOPs
    forward, backward = sum(row.share.forward for row in rows), sum(row.share.backward for row in rows)
    return round(forward * tokens), round(backward * tokens)

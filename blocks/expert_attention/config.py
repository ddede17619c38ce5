"""Config and lowering of expert attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count, NonNegative, Width
from blocks.base.invalid import independent
from blocks.expert_attention.operations import Experts, Route
from blocks.ir.operation import ZEROS, Init, Value, Weight

_STEP_CODES = {"rotary": "rotary over steps", "bias": "bias for each step", "none": "no step code"}


class ExpertAttention(BlockConfig):
    """Each token attends over learned expert keys; the chosen experts are its values (arXiv 2601.21582).

    Experts are chosen by logits plus a balancing bias, weighted by the sigmoid of the bare logits,
    renormalised over the chosen. The bias moves outside the gradient (arXiv 2408.15664).
    """

    type: Literal["expert_attention"] = "expert_attention"
    experts: Count
    """Number of experts."""
    active: Count
    """Experts used by each token (top-k)."""
    hidden: Width
    """Width of one expert, a SwiGLU feed-forward layer (arXiv 2002.05202)."""
    depth_code: Literal["none", "rotary", "bias"] = "rotary"
    """How the router's query encodes the step: not at all, by a rotation, or by a learned vector per step."""
    balance_rate: NonNegative = 1e-3
    """Step size of the load-balancing bias after each optimizer step; 0 disables load balancing."""

    def problems(self, width: int) -> Iterator[Problem]:
        """Check that experts suffice and that a rotation has pairs to rotate."""
        yield from independent(self._number(), self._code(width))

    def _number(self) -> Iterator[Problem]:
        if self.active > self.experts:
            yield Problem("active", f"at most the number of experts ({self.experts})", self.active)

    def _code(self, width: int) -> Iterator[Problem]:
        if self.depth_code == "rotary" and width % 2:
            yield Problem(
                "depth_code", f"none or bias, since an odd width ({width}) has no pairs to rotate", "rotary"
            )

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe the experts, their sizes and the step code."""
        yield f"{fields.pop('active')} of {fields.pop('experts')} experts"
        yield f"SwiGLU {width} → {fields.pop('hidden')} → {width}"
        yield _STEP_CODES[fields.pop("depth_code")]

    def lower(self, build: Builder, x: Value) -> Value:
        """Code the query by depth, route it, run the chosen experts."""
        width, experts, hidden = build.width, self.experts, self.hidden
        query = build.score_input(x)
        if self.depth_code == "rotary":
            query = build.rotate_step(query, "query_rotated", (width,), 10000.0)
        elif self.depth_code == "bias":
            query = build.add_step_bias(query, "query_bias")
        keys = Weight("keys", (experts, width), Init("normal"))
        balance = Weight("balance", (experts,), ZEROS, trained=False)
        load = Weight("load", (experts,), ZEROS, trained=False, saved=False)
        route = Route(width, experts, self.active, self.balance_rate)
        routed = build.op("route", route, query, weights=[keys, balance, load])
        share = (self.active, experts)
        gate_up = Weight("gate_up", (experts, width, 2 * hidden), Init("normal", width**-0.5), active=share)
        down_init = Init("normal", hidden**-0.5)
        down = Weight("down", (experts, hidden, width), down_init, active=share, writes_residual=True)
        run = Experts(width, experts, self.active, hidden)
        return build.op("experts", run, x, routed, Value(routed.node, 1), weights=[gate_up, down])

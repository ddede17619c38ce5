"""Config and lowering of expert attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count, Natural, NonNegative, Positive, Width
from blocks.base.invalid import independent
from blocks.ir.operation import ZEROS, Init, Value, Weight
from blocks.ir.tensor_type import TRAINING
from blocks.primitives.operations import Sum

if TYPE_CHECKING:
    from blocks.expert_attention.batched import BatchedExperts
    from blocks.expert_attention.operations import Route

_STEP_CODES = {"rotary": "rotary over steps", "bias": "bias for each step", "none": "no step code"}


class ExpertAttention(BlockConfig):
    """A mixture of experts whose router attends over learned expert keys (arXiv 2601.21582).

    The top-k experts are selected by logits plus a load-balancing bias, and weighted by the sigmoids of the
    logits, normalised over the selected experts. The bias has no gradient; it is updated after each optimizer
    step (arXiv 2408.15664).
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "experts": "num_experts n_experts n_routed_experts num_local_experts num_moe_experts expert_count",
        "active": "top_k topk k num_experts_per_tok num_experts_per_token experts_per_token n_active "
        "active_experts num_active_experts moe_top_k router_topk",
        "hidden": "moe_intermediate_size expert_dim expert_hidden expert_size d_expert",
        "balance_rate": "load_balancing load_balance balancing bias_update_speed gamma",
        "balance_loss": "aux_loss aux_loss_coef router_aux_loss_coef load_balancing_loss",
        "z_loss": "router_z_loss router_z_loss_coef",
        "shared": "shared_experts n_shared_experts num_shared_experts",
        "capacity": "capacity_factor expert_capacity",
        "type": "moe mixture_of_experts expert experts smoe sparse_moe mixture ea router",
    }

    type: Literal["expert_attention"] = "expert_attention"
    experts: Count
    """The number of experts."""
    active: Count
    """The number of experts that each token uses (top-k)."""
    hidden: Width
    """The hidden size of one expert, by default a SwiGLU feed-forward layer (arXiv 2002.05202)."""
    depth_code: Literal["none", "rotary", "bias"] = "rotary"
    """How the router's query encodes the step: not at all, by a rotation, or by a learned vector per step."""
    balance_rate: NonNegative = 1e-3
    """The step size of the load-balancing bias, which is updated after each optimizer step; 0 for no bias."""
    scores: Literal["sigmoid", "softmax"] = "sigmoid"
    """The weights of experts: sigmoids of their logits, or a softmax over all logits (arXiv 2101.03961)."""
    renormalize: bool = True
    """Whether the weights of a token's selected experts are divided by their sum."""
    activation: Literal["swiglu", "relu"] = "swiglu"
    """The activation of the experts; with `relu` they have no gate (sigma-MoE, arXiv 2310.10837)."""
    shared: Natural = 0
    """The number of additional experts that every token uses, with weight 1 (DeepSeekMoE, arXiv
    2401.06066)."""
    z_loss: NonNegative = 0.0
    """The weight of the router z-loss in training, the mean of logsumexp(logits) ** 2 (arXiv 2202.08906)."""
    balance_loss: NonNegative = 0.0
    """The weight of the load-balancing loss in training: `experts` times the sum over experts of load times
    mean score (arXiv 2101.03961)."""
    capacity: Positive | None = None
    """The capacity factor: in training an expert processes at most this multiple of its even share of a
    sequence's tokens, others are dropped (arXiv 2006.16668). With `active` above 1 this is not causal in
    training."""
    routing: Literal["token_choice", "expert_choice"] = "token_choice"
    """`token_choice`: each token selects experts; `expert_choice`: each expert selects the tokens with the
    highest scores (arXiv 2202.09368). The latter is not causal in training; outside of training experts use
    learned thresholds on the scores, which are causal."""

    def not_causal(self) -> str:
        """Experts select among all tokens, and first choices take precedence over earlier tokens' second
        ones."""
        if self.routing == "expert_choice":
            return (
                "experts select among all tokens of a sequence (at inference by thresholds, token by token)"
            )
        if self.capacity is not None and self.active > 1:
            return "first choices of later tokens use up capacity (at inference no token is dropped)"
        return ""

    def crosses_documents(self) -> str:
        """Tokens interact only through expert choice and capacity."""
        if self.routing == "expert_choice":
            return "experts select among all tokens of a sequence"
        return "" if self.capacity is None else "tokens of all documents use up capacity"

    def mixes_tokens(self) -> bool:
        """Only expert choice and capacity let tokens interact."""
        return bool(self.crosses_documents())

    def needs_all_tokens(self) -> str:
        """Experts run on any set of tokens."""
        return ""

    def counts_tokens(self) -> str:
        """Expert choice, capacity and balancing depend on all tokens."""
        fields = {
            "routing: expert_choice": self.routing == "expert_choice",
            "capacity": self.capacity is not None,
            "balance_rate": self.balance_rate > 0,
            "balance_loss": self.balance_loss > 0,
            "z_loss": self.z_loss > 0,
        }
        return next((name for name, there in fields.items() if there), "")

    def weights_per_step(self) -> bool:
        """The router's query has a learned vector for each step."""
        return self.depth_code == "bias"

    def problems(self, width: int) -> Iterator[Problem]:
        """Check the number of experts, the rotation, and options that exclude each other."""
        yield from independent(self._number(), self._code(width), self._chosen(), self._balanced())

    def _number(self) -> Iterator[Problem]:
        if self.active > self.experts:
            yield Problem("active", f"at most the number of experts ({self.experts})", self.active)

    def _code(self, width: int) -> Iterator[Problem]:
        if self.depth_code == "rotary" and width % 2:
            yield Problem(
                "depth_code", f"none or bias, since an odd width ({width}) has no pairs to rotate", "rotary"
            )

    def _chosen(self) -> Iterator[Problem]:
        if self.routing != "expert_choice":
            return
        if self.capacity is not None:
            why = "none with routing: expert_choice, where each runs exactly its share of the tokens"
            yield Problem("capacity", why, self.capacity)
        if self.balance_loss:
            why = "0 with routing: expert_choice, where loads are equal"
            yield Problem("balance_loss", why, self.balance_loss)
        if self.balance_rate != type(self).model_fields["balance_rate"].default:
            why = "none with routing: expert_choice, where loads are equal"
            yield Problem("balance_rate", why, self.balance_rate)

    def _balanced(self) -> Iterator[Problem]:
        """Refuse to balance loads that cannot differ."""
        usual = type(self).model_fields["balance_rate"].default
        balanced = bool(self.balance_loss) or self.balance_rate not in (0, usual)
        if self.routing == "expert_choice" or not balanced or self.active < self.experts:
            return
        why = "where each token uses " + (
            "the only expert" if self.experts == 1 else f"all {self.experts} experts"
        )
        if self.balance_rate not in (0, usual):
            yield Problem("balance_rate", f"none {why}", self.balance_rate, unread=True)
        if self.balance_loss:
            yield Problem("balance_loss", f"0 {why}", self.balance_loss, unread=True)

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe the experts, their sizes and the step code."""
        shared = fields.pop("shared")
        beside = f" and {shared} shared" if shared else ""
        yield f"{fields.pop('active')} of {fields.pop('experts')} experts{beside}"
        unit = {"swiglu": "SwiGLU", "relu": "ReLU"}[fields.pop("activation")]
        yield f"{unit} {width} → {fields.pop('hidden')} → {width}"
        yield _STEP_CODES[fields.pop("depth_code")]

    def lower(self, build: Builder, x: Value) -> Value:
        """Encode the step in the query, route, and run the selected experts."""
        from blocks.expert_attention.operations import Experts

        width, experts, hidden = build.width, self.experts, self.hidden
        query = build.score_input(x)
        if self.depth_code == "rotary":
            query = build.rotate_step(query, "query_rotated", (width,), 10000.0)
        elif self.depth_code == "bias":
            query = build.add_step_bias(query, "query_bias")
        share = (self.active, experts)
        run = Experts(width, experts, self.active, hidden, self.activation)
        first, second = run.weight_shapes()
        up_role, halves = ("gate_up", 2) if self.activation == "swiglu" else ("up", 1)
        up = Weight(up_role, first, Init("normal", width**-0.5), active=share, grid=(1, halves))
        down_init = Init("normal", hidden**-0.5)
        down = Weight("down", second, down_init, active=share, writes_residual=True)
        products, routing = [up, down], self._routing_weights(width)
        if self.routing == "expert_choice" or self.capacity is not None:
            training = build.model_input("training", TRAINING)
            weights = [*products, *routing]
            y = build.op("experts", self._sized(width), x, query, training, weights=weights)
            losses = y
        else:
            losses = build.op("route", self._route(width), query, weights=routing)
            y = build.op("experts", run, x, losses, Value(losses.node, 1), weights=products)
        self._add_losses(build, losses)
        return build.op("add", Sum((width,)), y, self._shared(build, x)) if self.shared else y

    def _routing_weights(self, width: int) -> list[Weight]:
        """Return the experts' keys, and the buffers of load balancing."""
        keys = Weight("keys", (self.experts, width), Init("normal"))
        names, counted = ("balance", "load"), self.experts
        if self.routing == "expert_choice":
            names, counted = ("threshold", "cutoffs"), self.experts + 1
        state = Weight(names[0], (self.experts,), ZEROS, trained=False)
        return [keys, state, Weight(names[1], (counted,), ZEROS, trained=False, saved=False)]

    def _route(self, width: int) -> Route:
        from blocks.expert_attention.operations import Route

        return Route(
            width,
            self.experts,
            self.active,
            self.balance_rate,
            self.scores,
            self.renormalize,
            self.z_loss > 0,
            self.balance_loss > 0,
        )

    def _sized(self, width: int) -> BatchedExperts:
        from blocks.expert_attention.batched import BatchedExperts

        return BatchedExperts(
            width,
            self.experts,
            self.active,
            self.hidden,
            self.activation,
            None if self.routing == "expert_choice" else self.capacity,
            self.balance_rate,
            self.scores,
            self.renormalize,
            self.z_loss > 0,
            self.balance_loss > 0,
        )

    def _add_losses(self, build: Builder, routed: Value) -> None:
        """Add the last outputs of an operation to the training loss."""
        losses = [name for name in ("z_loss", "balance_loss") if getattr(self, name)]
        first = 2 if self.routing == "token_choice" and self.capacity is None else 1
        for output, name in enumerate(losses, start=first):
            build.auxiliary_loss(name, Value(routed.node, output), getattr(self, name))

    def _shared(self, build: Builder, x: Value) -> Value:
        """Run the shared experts as one wide feed-forward layer."""
        from blocks.expert_attention.operations import SharedUnit

        hidden = self.shared * self.hidden
        roles = ("shared_gate", "shared_up") if self.activation == "swiglu" else ("shared_up",)
        halves = [build.project(x, role, (hidden,)) for role in roles]
        y = build.op("shared", SharedUnit(hidden, self.activation), *halves)
        init = Init("normal", self.hidden**-0.5)
        return build.project(y, "shared_down", (build.width,), hidden, init=init, writes_residual=True)

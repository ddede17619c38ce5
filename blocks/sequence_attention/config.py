"""Config and lowering of sequence attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import floor
from typing import Any, ClassVar, Literal

from blocks.base.attention import AttentionConfig, SharedKV
from blocks.base.builder import Builder
from blocks.base.config import Config, Problem
from blocks.base.fields import LARGEST, Count, Fraction, Natural, Positive, Width
from blocks.base.invalid import independent
from blocks.base.sublayer import Use, most_runs
from blocks.ir.numbers import label
from blocks.ir.operation import Value
from blocks.ir.steps import Steps
from blocks.ir.tensor_type import Shape
from blocks.kernels.slots import WriteExtraSlot, WriteSlot
from blocks.primitives.operations import SequenceTable


class Yarn(Config):
    """YaRN: low frequencies are divided by `factor`, high ones kept, others interpolated (arXiv 2309.00071).

    Queries and keys are multiplied by max(1, 0.1 ln(factor) + 1).
    """

    factor: Positive
    """The new context divided by the original one."""
    context: Count
    """The original context in tokens: the length of earlier training."""
    beta_fast: Positive = 32.0
    """Frequencies with at least this many rotations within the original context are kept."""
    beta_slow: Positive = 1.0
    """Frequencies with at most this many rotations within the original context are divided by `factor`."""


class RopeScaling(Config):
    """RoPE scaling for a context longer than that of earlier training; exactly one of three methods."""

    linear: Positive | None = None
    """Divide positions by this number (position interpolation, arXiv 2306.15595)."""
    ntk: Positive | None = None
    """Raise the base so that the lowest frequency is divided by this number ("NTK-aware", arXiv
    2309.00071)."""
    yarn: Yarn | None = None
    """Scale low frequencies only, and the scores (YaRN, arXiv 2309.00071)."""


class SequenceAttention(AttentionConfig):
    """Causal softmax attention over the tokens of the same step, with grouped heads and RoPE."""

    shares_kv: ClassVar[bool] = True

    other_names: ClassVar[Mapping[str, str]] = {
        "heads": "n_heads n_head num_heads num_attention_heads attention_heads nheads n_query_heads "
        "num_query_heads query_heads",
        "kv_heads": "n_kv_heads n_kv_head num_kv_heads num_key_value_heads key_value_heads n_query_groups "
        "num_query_groups groups num_groups kv",
        "head_dim": "d_head dim_head head_size d_k d_v kv_channels dh",
        "rope": "rotary pos_embedding positional_embedding position_embedding pos_emb positional_encoding "
        "position_encoding pos_enc pe positions rotary_embedding use_rope rope_enabled",
        "rope_base": "rope_theta theta rotary_base rotary_emb_base base",
        "rope_fraction": "rotary_pct partial_rotary_factor rotary_percent partial_rotary",
        "sinks": "attention_sinks sink_tokens num_sink_tokens start_size",
        "soft_cap": "attn_logit_softcapping logit_cap softcap attn_logits_soft_cap",
        "window": "sliding_window window_size local_window attention_window swa local",
        "qk_norm": "qk_layernorm qknorm query_key_norm use_qk_norm qk_rmsnorm",
        "type": "attention self_attention selfattention attn mha gqa mqa causal_attention "
        "causal_self_attention multi_head_attention multihead_attention seq_attention sequence "
        "sdpa softmax_attention token_attention sa",
    }

    type: Literal["sequence_attention"] = "sequence_attention"
    rope: bool = True
    """Whether to rotate queries and keys by position (RoPE, arXiv 2104.09864)."""
    rope_base: Positive = 10000.0
    """Base of the RoPE frequencies; a single rotated pair has the frequency 1 with any base."""
    rope_fraction: Fraction = 1.0
    """The fraction of each head that is rotated: its first elements, in whole pairs (arXiv 2204.06745)."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a longer context: `{linear: 4}`, `{ntk: 4}` or `{yarn: ..}`. Default: none."""
    window: Width | None = None
    """The size of a sliding attention window, the token itself included. Default: the whole context."""
    sinks: Natural = 0
    """The number of first tokens that remain visible outside the window (attention sinks, arXiv
    2309.17453)."""
    soft_cap: Positive | None = None
    """Soft-capping of the scores: cap * tanh(score / cap) (Gemma 2, arXiv 2408.00118). Default: none."""
    depth: Literal["none", "joint"] = "none"
    """`joint`: one softmax over earlier tokens and over the token's own earlier steps (MoDA, arXiv
    2603.15619)."""
    steps: Literal["own", "all"] = "own"
    """`own`: attend to tokens at the current step; `all`: at all steps so far (CoTFormer, arXiv
    2310.10845)."""
    qk_norm: bool = False
    """Whether to norm the queries and keys of each head before the rotation, by the model's `norm_type`."""

    def shares_step(self) -> bool:
        """Whether it attends to earlier steps."""
        return self.depth == "joint" or self.steps == "all"

    def unread(self, uses: Sequence[Use]) -> Iterator[Problem]:
        """Refuse to read other steps where none are."""
        if self.shares_step() and most_runs(uses) == 1:
            field, alone = ("depth", "none") if self.depth == "joint" else ("steps", "own")
            hint = "a stage with recur: 2 or more has earlier steps"
            expected = f"{alone} where the block runs once, so has no earlier steps"
            yield Problem(field, expected, getattr(self, field), hint)

    def needs_all_tokens(self) -> str:
        """Masks and slots cover whole sequences; without them any ordered selection works."""
        fields = {
            "window": self.window is not None,
            "soft_cap": self.soft_cap is not None,
            "depth: joint": self.depth == "joint",
            "steps: all": self.steps == "all",
        }
        return next((f"{name} needs whole sequences" for name, there in fields.items() if there), "")

    def makes_kv(self) -> bool:
        """Every token has keys and values."""
        return True

    def crosses_documents(self) -> str:
        """Document masks exist for attention over the tokens of one step only."""
        fields = {
            "sinks": self.sinks > 0,
            "soft_cap": self.soft_cap is not None,
            "depth: joint": self.depth == "joint",
            "steps: all": self.steps == "all",
        }
        return next(
            (f"{name} does not support document masks" for name, there in fields.items() if there), ""
        )

    def rotates(self) -> bool:
        """Return whether heads are rotated."""
        return self.rope and self.rope_fraction == 1

    def _rotated(self, head_dim: int) -> int:
        """Return how many elements of a head are rotated."""
        if self.rope_fraction == 1:
            return head_dim
        # a fraction without an exact binary form must not lose a pair
        return 2 * floor(head_dim * self.rope_fraction / 2 + 1e-9)

    def problems(self, width: int) -> Iterator[Problem]:
        """Check the heads, and that no field is set that nothing reads."""
        yield from independent(super().problems(width), self._unread(), self._rope(width))

    def _unread(self) -> Iterator[Problem]:
        for name in ("rope_base", "rope_fraction", "rope_scaling"):
            if not self.rope and name in self.model_fields_set:
                yield Problem(name, f"no {name}, since rope is false", getattr(self, name))
        wider = {"depth: joint": self.depth == "joint", "steps: all": self.steps == "all"}
        for option in (name for name, on in wider.items() if on and self.soft_cap is not None):
            yield Problem("soft_cap", f"no soft_cap, since {option} does not support it", self.soft_cap)
        if all(wider.values()):
            yield Problem(
                "depth", "none, since steps: all sees the token's own earlier steps too", self.depth
            )
        if self.sinks and self.window is None:
            hint = "or set window"
            yield Problem(
                "sinks", "none without a window, since all earlier tokens are attended to", self.sinks, hint
            )

    def _rope(self, width: int) -> Iterator[Problem]:
        head_dim = self.geometry(width)[2]
        if (scaling := self.rope_scaling) is not None:
            ways = ("linear", "ntk", "yarn")
            given = [name for name in ways if getattr(scaling, name) is not None]
            if len(given) != 1:
                yield Problem("rope_scaling", f"one of {', '.join(ways)}", ", ".join(given) or "none")
            if scaling.ntk is not None and self._rotated(head_dim) == 2:
                yield Problem(
                    "rope_scaling.ntk", "more than one rotated pair, whose base it changes", scaling.ntk
                )
            if scaling.yarn is not None:
                yield from self._yarn(scaling.yarn)
        if self._rotated(head_dim) == 0:
            expected = f"a fraction that rotates a pair of the {head_dim} elements of a head"
            yield Problem("rope_fraction", expected, self.rope_fraction)

    def _yarn(self, yarn: Yarn) -> Iterator[Problem]:
        if yarn.beta_fast <= yarn.beta_slow:
            expected = f"a number above beta_slow ({yarn.beta_slow:g})"
            yield Problem("rope_scaling.yarn.beta_fast", expected, yarn.beta_fast)
        if self.rope_base <= 1:
            expected = "a number above 1, so that yarn can tell slow pairs from fast ones"
            yield Problem("rope_base", expected, self.rope_base)

    def canonical(self, width: int) -> dict[str, Any]:
        fields = super().canonical(width)
        return (
            fields if self.rope else {**fields, "rope_base": None, "rope_fraction": 1.0, "rope_scaling": None}
        )

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe heads, positions and norms, and the window."""
        yield self.heads_words(fields)
        fraction, scaling = fields.pop("rope_fraction"), self.rope_scaling
        if fields.pop("rope_scaling") is not None and scaling is not None:
            yarn = scaling.yarn and scaling.yarn.factor
            ways = {"positions": scaling.linear, "NTK": scaling.ntk, "YaRN": yarn}
            scaled = " \u00b7 ".join(f"{way} / {by:g}" for way, by in ways.items() if by)
        else:
            scaled = ""
        partial = "" if fraction == 1 else f" on {fraction:g} of each head"
        options = [
            f"RoPE{partial}" if fields.pop("rope") else "no positions",
            scaled,
            "QK norm" if fields.pop("qk_norm") else "",
        ]
        yield " · ".join(filter(None, options))
        window = fields.pop("window")
        sinks, cap = fields.pop("sinks"), fields.pop("soft_cap")
        seen = f"window of {window}" if window else "all earlier tokens"
        seen = f"{seen} and the first {sinks}" if sinks else seen
        seen = f"{seen}, at all steps so far" if fields.pop("steps") == "all" else seen
        seen = f"{seen}, own earlier steps" if fields.pop("depth") == "joint" else seen
        yield f"{seen}, scores up to {cap:g}" if cap else seen

    def lower(self, build: Builder, x: Value) -> Value:
        """Project, norm, rotate, attend, project back."""
        heads, _, head_dim = self.geometry(build.width)
        if build.first_kv:
            y = self._attend_first(build, x)
        else:
            q, k, v = self.projections(build, x)
            q, k = self._normed(build, q, "query"), self._normed(build, k, "key")
            q, k = self._turned(build, q, "query"), self._turned(build, k, "key")
            self._publish(build, k, v)
            y = self._attend(build, q, k, v)
        return build.project(y, "out", (build.width,), heads * head_dim, writes_residual=True)

    def _publish(self, build: Builder, k: Value, v: Value) -> None:
        name, shape = build.block, self.geometry(build.width)[1:]

        def write(build: Builder, k: Value, v: Value) -> None:
            with build.at(build.prefix, name):
                slots = build.depth_slots(*shape)
                token = build.op("keep", WriteExtraSlot(*shape), k, v, build.depth_token(), slots)
                build.set_depth_token(token)

        shared = SharedKV(k, v, self._rotate, shape, write if self.reads_own_steps() else None)
        build.published[name] = shared

    def reads_own_steps(self) -> bool:
        """Those of the same attention, and what other blocks add."""
        return self.depth == "joint"

    def _shape(self, build: Builder, role: str) -> Shape:
        heads, kv_heads, head_dim = self.geometry(build.width)
        return (heads if role == "query" else kv_heads, head_dim)

    def _normed(self, build: Builder, x: Value, role: str) -> Value:
        return build.norm(x, f"{role}_norm", self._shape(build, role)) if self.qk_norm else x

    def _turned(self, build: Builder, x: Value, role: str) -> Value:
        return self._rotate(build, x, f"{role}_rotated", self._shape(build, role))

    def _attend_first(self, build: Builder, x: Value) -> Value:
        """Make keys and values at the first step alone, and attend to them."""
        from blocks.sequence_attention.slots.first import AttendFirst, KeepFirst

        sizes = self.geometry(build.width)
        q = self._turned(build, self._normed(build, self.query(build, x), "query"), "query")
        slots = build.depth_slots(*sizes[1:])
        with build.active(Steps(stop=1)):
            k, v = self.key_and_value(build, x)
            k = self._turned(build, self._normed(build, k, "key"), "key")
            token = build.op("keep", KeepFirst(*sizes[1:]), k, v, build.depth_token(), slots)
        build.set_depth_token(token)
        assert build.places is not None
        return build.op("attend", AttendFirst(*sizes), q, build.places, token, slots)

    def _rotate(self, build: Builder, x: Value, name: str, shape: Shape) -> Value:
        if not self.rope:
            return x
        scaling = self.rope_scaling or RopeScaling.model_construct()
        size, base = self._rotated(shape[-1]), self.rope_base
        if scaling.ntk is not None:
            base = base * scaling.ntk ** (size / (size - 2))
        table = SequenceTable(size, base, scaling.linear or 1.0)
        if (yarn := scaling.yarn) is not None:
            from blocks.sequence_attention.yarn import YarnTable

            table = YarnTable(size, base, yarn.factor, yarn.context, yarn.beta_fast, yarn.beta_slow)
        return build.rotate(x, name, shape, table)

    def _attend(self, build: Builder, q: Value, k: Value, v: Value) -> Value:
        from blocks.sequence_attention.operations import Attend, WindowAttend, WindowMask

        sizes, window, sinks = self.geometry(build.width), self.window, self.sinks
        if build.document_start is not None:
            from blocks.sequence_attention.documents import DocumentAttend, DocumentMask

            mask = build.shared("documents", DocumentMask(build.document_start, window))
            return build.op("attend", DocumentAttend(*sizes, window or LARGEST), q, k, v, mask)
        if window is None and self.soft_cap is None and self.depth == "none" and self.steps == "own":
            return build.op("attend", Attend(*sizes), q, k, v)
        name = f"window_{label(window)}" if window else "causal"
        mask = build.shared(name, WindowMask(window, sinks))
        if self.depth == "joint" or self.steps == "all":
            slots = build.depth_slots(*sizes[1:])
            token = build.op("keep", WriteSlot(*sizes[1:]), k, v, build.depth_token(), slots)
            build.set_depth_token(token)
            if self.steps == "all":
                from blocks.sequence_attention.slots.steps import StepsAttend

                every = StepsAttend(*sizes, window or LARGEST, sinks)
                return build.op("attend", every, q, mask, token, slots)
            from blocks.sequence_attention.slots.joint import JointAttend

            joint = JointAttend(*sizes, window or LARGEST, sinks)
            return build.op("attend", joint, q, k, v, mask, token, slots)
        if self.soft_cap is None:
            assert window is not None
            return build.op("attend", WindowAttend(*sizes, window, sinks=sinks), q, k, v, mask)
        from blocks.sequence_attention.capped import CappedAttend

        capped = CappedAttend(*sizes, window or LARGEST, sinks=sinks, cap=self.soft_cap)
        return build.op("attend", capped, q, k, v, mask)

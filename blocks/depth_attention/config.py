"""Config and lowering of depth attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from blocks.base.attention import AttentionConfig
from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count
from blocks.base.invalid import independent
from blocks.base.sublayer import Use, View, depth_scope
from blocks.ir.operation import Init, Value, Weight
from blocks.kernels.slots import Reach

SlotCount = Annotated[Count, Field(le=1024)]
"""A number of slots, bounded because cost estimates iterate over a window."""


class DepthAttention(AttentionConfig):
    """Softmax attention of each token over its own keys and values of earlier steps (arXiv 2601.21582).

    All uses of one block within the depth scope share their slots.
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "rotary": "rope depth_rope",
        "span": "inclusive exclusive include_current",
        "type": "depth depthwise_attention da layer_attention cross_layer_attention attention_over_depth",
    }

    type: Literal["depth_attention"] = "depth_attention"
    rotary: bool = True
    """Whether to rotate queries and keys by the index of their step (RoPE over depth)."""
    span: Literal["inclusive", "exclusive"] = "inclusive"
    """`inclusive`: a step attends to its own slot and earlier ones; `exclusive`: only to earlier ones, so
    that the output is 0 at the first step."""
    window: SlotCount | None = None
    """The number of latest slots that are read, its own included (arXiv 2609.03379). Default: all."""
    stride: SlotCount = 1
    """Read only every n-th slot, counted back from the latest."""
    bias: Literal["none", "distance"] = "none"
    """`distance`: a learned slope per head times a slot's distance is subtracted from its score.

    Slopes are initialized as in ALiBi (arXiv 2108.12409; learned: arXiv 2609.03379).
    """
    depth_scope: Reach = "recur"
    """The steps that are read. `recur`: those of the innermost enclosing `recur`, else of the innermost
    stage; `stage`: those of the outermost enclosing stage; `model`: those of all stages.
    """
    input: bool = False
    """Whether the input of the depth scope is an additional first slot, with its own norm and projections."""

    kv_from: str | None = None
    """The name of a sequence attention, earlier in the same step, whose keys and values are used.

    Only queries are projected then (arXiv 2606.05014). Both blocks need equal kv_heads and head_dim. Default:
    its own keys and values.
    """

    def sources(self) -> dict[str, str]:
        """Return the block whose keys and values it reads, if it does."""
        return {} if self.kv_from is None else {"kv_from": self.kv_from}

    def source_problems(self, field: str, source: BlockConfig, width: int) -> Iterator[Problem]:
        """Check that the source has keys and values of the same geometry."""
        if not isinstance(source, AttentionConfig) or not source.shares_kv:
            yield Problem(field, "a block of type sequence_attention", self.kv_from)
            return
        (_, *theirs), (_, *own) = source.geometry(width), self.geometry(width)
        for name, here, there in zip(("kv_heads", "head_dim"), own, theirs, strict=True):
            if here != there:
                yield Problem(
                    name, f"{there}, as {self.kv_from} has", here, "kv_from shares its keys and values"
                )

    def written_before(self) -> str:
        """The slot of the input."""
        return "slot of the input" if self.input else ""

    def crosses_documents(self) -> str:
        """Each token sees its own steps alone."""
        return ""

    def problems(self, width: int) -> Iterator[Problem]:
        """Check the heads, and that shared keys need not be changed."""
        yield from independent(super().problems(width), self._unshared())

    def _unshared(self) -> Iterator[Problem]:
        if self.kv_from is None:
            return
        if self.rotary:
            hint = "keys of kv_from carry no step; bias: distance tells steps apart"
            yield Problem("rotary", "false, since keys are shared", True, hint)
        if self.input:
            yield Problem("input", "false, since sequence attention has no keys of the input", True)

    def unread(self, uses: Sequence[Use]) -> Iterator[Problem]:
        """Refuse a wider scope that has no more steps."""
        stages = {use[0].number for use in uses}
        nested = any(len(depth_scope(use)) > 1 for use in uses)
        # the input of the first stage is that of the model
        wider = nested or (
            self.depth_scope == "model" and (len(stages) > 1 or (self.input and stages != {0}))
        )
        if self.depth_scope != "recur" and not wider:
            where = "stage" if self.depth_scope == "stage" else "only stage with the block"
            expected = f"recur, since the {where} is in no other and holds no recur: both read the same steps"
            yield Problem("depth_scope", expected, self.depth_scope)

    def mixes_tokens(self) -> bool:
        """Each token sees its own steps alone."""
        return False

    def views(self) -> frozenset[View]:
        """Return those that are projected."""
        return super().views() if self.kv_from is None else frozenset({"q"})

    def shares_step(self) -> bool:
        """Uses in one step write slots of one index."""
        return True

    def rotates(self) -> bool:
        """Return whether heads are rotated."""
        return self.rotary

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe heads, rotation and span."""
        yield self.heads_words(fields)
        kv_from = fields.pop("kv_from")
        codes = [f"keys and values of {kv_from}"] if kv_from else []
        codes += ["rotary over steps" if fields.pop("rotary") else "no step code"]
        if fields.pop("bias") == "distance":
            codes.append("bias by distance")
        yield " · ".join(codes)
        own, window, stride = (fields.pop(name) for name in ("span", "window", "stride"))
        read = "steps so far" if own == "inclusive" else "earlier steps only"
        read = f"the last {window}, {read}" if window else read
        read = f"{read}, every {stride}" if stride > 1 else read
        reach = {"recur": "", "stage": " of the whole stage", "model": " of the model"}[
            fields.pop("depth_scope")
        ]
        yield f"{read}{reach}, and the input" if fields.pop("input") else f"{read}{reach}"

    def lower(self, build: Builder, x: Value) -> Value:
        """Project, rotate by depth, append to the slots, attend over them, project back."""
        from blocks.depth_attention.operations import WriteKV

        heads, kv_heads, head_dim = self.geometry(build.width)
        if self.kv_from is None:
            q, k, v = self.projections(build, x)
        else:
            k, v, rotate, *_ = build.published[self.kv_from]
            q = self.query(build, x)
            q = rotate(build, q, "query_rotated", (heads, head_dim))
        if self.rotary:
            q = build.rotate_step(q, "query_rotated", (heads, head_dim), 10000.0)
            k = build.rotate_step(k, "key_rotated", (kv_heads, head_dim), 10000.0)
        slots = build.depth_slots(
            kv_heads, head_dim, self._write_input if self.input else None, self.depth_scope
        )
        token = build.op("append", WriteKV(kv_heads, head_dim), k, v, build.depth_token(), slots)
        build.set_depth_token(token)
        y = self._attend(build, q, token, slots)
        return build.project(y, "out", (build.width,), heads * head_dim, writes_residual=True)

    def _attend(self, build: Builder, q: Value, *slots: Value) -> Value:
        from blocks.depth_attention.operations import Attend

        heads, kv_heads, head_dim = self.geometry(build.width)
        biased = self.bias == "distance"
        if self.window is None and self.stride == 1 and not biased:
            return build.op("attend", Attend(heads, kv_heads, head_dim, self.span), q, *slots)
        from blocks.depth_attention.windowed import BiasedAttend, WindowedAttend

        kind = BiasedAttend if biased else WindowedAttend
        read = kind(heads, kv_heads, head_dim, self.span, window=self.window, stride=self.stride)
        bias = Weight("distance_bias", (heads,), Init("powers", 2.0**-8), decay=False)
        return build.op("attend", read, q, *slots, weights=[bias] if biased else [])

    def _write_input(self, build: Builder, x: Value, token: Value, slots: Value) -> Value:
        """Write the input of a depth scope into its first slot, outside of it."""
        from blocks.depth_attention.operations import WriteKV

        _, kv_heads, head_dim = self.geometry(build.width)
        normed = build.norm(x, "norm", (build.width,))
        k, v = (build.project(normed, role, (kv_heads, head_dim)) for role in ("key", "value"))
        return build.op("append", WriteKV(kv_heads, head_dim), k, v, token, slots)

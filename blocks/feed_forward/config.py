"""Config and lowering of the feed-forward layer. Torch-free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from blocks.base.attention import AttentionConfig, SharedKV
from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Width
from blocks.ir.operation import Value
from blocks.ir.steps import Steps

_WORDS = {
    "swiglu": "SwiGLU",
    "gelu": "GELU",
    "gelu_tanh": "GELU (tanh)",
    "geglu": "GeGLU",
    "relu": "ReLU",
    "relu2": "ReLU²",
}


class FeedForward(BlockConfig):
    """Two layers with an activation between them, gated (arXiv 2002.05202) or not."""

    other_names: ClassVar[Mapping[str, str]] = {
        "hidden": "d_ff ff_dim ffn_dim dim_ff dim_feedforward intermediate_size ffn_hidden_size mlp_dim "
        "d_mlp inner_dim n_inner mlp_hidden ffn_size",
        "activation": "act act_fn activation_function hidden_act nonlinearity act_func",
        "type": "mlp ffn ff feedforward dense swiglu glu feed_forward_network fc position_wise",
    }

    type: Literal["feed_forward"] = "feed_forward"
    hidden: Width
    """The hidden size."""
    activation: Literal["swiglu", "gelu", "gelu_tanh", "geglu", "relu", "relu2"] = "swiglu"
    """The activation. `swiglu` and `geglu` have a third weight matrix, the gate. `gelu` is exact, `gelu_tanh`
    the tanh approximation of GPT-2; `relu2` is the square of ReLU (arXiv 2109.08668).
    """

    kv_for: str | None = None
    """The name of a sequence attention with `depth: joint` that runs before it in each step. From its input
    this layer makes a key and a value for it, which the same token sees at later steps (MoDA, arXiv
    2603.15619); at the last step, so also in a stage of one, it makes none. Default: it makes none.
    """

    def sources(self) -> dict[str, str]:
        """Return the block that gets its keys and values, if one does."""
        return {} if self.kv_for is None else {"kv_for": self.kv_for}

    def source_problems(self, field: str, source: BlockConfig, width: int) -> Iterator[Problem]:
        """Check that something reads them."""
        if not isinstance(source, AttentionConfig) or not source.reads_own_steps():
            yield Problem(field, "a block of type sequence_attention with depth: joint", self.kv_for)

    def crosses_documents(self) -> str:
        """Each token goes through alone."""
        return ""

    def mixes_tokens(self) -> bool:
        """Each token goes through alone."""
        return False

    def needs_all_tokens(self) -> str:
        """Each token goes through alone."""
        return ""

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe sizes and activation."""
        yield f"{width} → {fields.pop('hidden')} → {width}"
        yield _WORDS[fields.pop("activation")]
        if (name := fields.pop("kv_for")) is not None:
            yield f"a key and a value for {name}"

    def lower(self, build: Builder, x: Value) -> Value:
        """Project up, activate, project down; make a key and a value before."""
        from blocks.feed_forward.operations import ACTIVATIONS, GATED

        if self.kv_for is not None:
            self._write(build, x, build.published[self.kv_for])
        name = self.activation
        up = build.project(x, "up", (self.hidden,))
        if name in GATED:
            gate = build.project(x, "gate", (self.hidden,))
            y = build.op(name, GATED[name]((self.hidden,)), gate, up)
        else:
            y = build.op(name, ACTIVATIONS[name](self.hidden), up)
        return build.project(y, "down", (build.width,), self.hidden, writes_residual=True)

    def _write(self, build: Builder, x: Value, attention: SharedKV) -> None:
        """Make a key, rotated as those of the attention, and a value, and let its later steps read them."""
        assert attention.write is not None
        steps: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if build.at_all_steps and build.step_count() == build.trips():
            # nothing reads those of the last step
            if build.trips() == 1:
                return
            steps = build.active(Steps(stop=-1))
        with steps:
            k = build.project(build.score_input(x), "key", attention.shape)
            k = attention.rotate(build, k, "key_rotated", attention.shape)
            attention.write(build, k, build.project(x, "value", attention.shape))

"""From a spec to its graph: embedding, stages, final norm, head and loss; blocks lower themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig
from blocks.ir.graph import Graph
from blocks.ir.operation import ZEROS, Init, Value, Weight
from blocks.ir.tensor_type import IDS
from blocks.primitives.operations import Sum
from composer.costs.measures.limits import MemoryLimits
from composer.graph.lowering.operations import CrossEntropy, Embed, Gate, InjectAdd, InjectConcat, Mean
from composer.language.schema.spec import Parallel, Spec, Stage

Blocks = Mapping[str, BlockConfig]


def build(spec: Spec) -> Graph:
    """Return the model's graph, inputs (tokens, targets), outputs (logits, loss), before any pass.

    Weights of stage i stand under `stages.i`, then position in the step, block and role.
    """
    width, vocab = spec.model.width, spec.model.vocab
    root = Builder(width)
    tokens, targets = root.input("tokens", IDS), root.input("targets", IDS)
    embedding = Weight("embedding", (vocab, width), Init("normal", width**-0.5))
    x = root.op("embed", Embed(vocab, width), tokens, weights=[embedding])
    for number, stage in enumerate(spec.stages):
        x = _stage(root, f"stages.{number}", stage, spec.blocks, x)
    # a small gain keeps the first logits near 0 though tied embeddings are as long as the state
    x = root.norm(x, "norm", (width,), start=width**-0.5)
    logits = root.project(x, "head", (vocab,))
    loss = root.op("loss", CrossEntropy(vocab, micro_batch_tokens(spec)), logits, targets)
    root.graph.outputs = [logits, loss]
    if spec.model.tie_embeddings:
        root.graph.ties["head"] = "embedding"
    return root.graph


def micro_batch_tokens(spec: Spec) -> int:
    """Return the tokens of one micro-batch: as `train` says, else as the cap does, else one sequence."""
    if spec.train is None:
        cap = spec.caps.train_memory
        stated = cap.batch_tokens if isinstance(cap, MemoryLimits) else None
        return stated or spec.model.context
    return spec.train.tokens_per_step // spec.train.accumulate


def _stage(build: Builder, name: str, stage: Stage, blocks: Blocks, x: Value) -> Value:
    return build.stage(name, stage.trips, stage.tied, x, partial(_step, stage, blocks))


def _step(stage: Stage, blocks: Blocks, build: Builder, x: Value) -> Value:
    x = _inject(build, stage.inject, x)
    for position, entry in enumerate(stage.step):
        if isinstance(entry, Stage):
            x = _stage(build, str(position), entry, blocks, x)
        else:
            x = _sublayer(build, str(position), entry, blocks, x)
    return x


def _inject(build: Builder, inject: str, x: Value) -> Value:
    if inject == "add":
        return build.op("inject", InjectAdd(build.width, build.trip()), x, build.stage_input())
    if inject == "concat":
        operation = InjectConcat(build.width)
        weight = Weight("inject", operation.weight_shapes()[0], Init("eye"))
        return build.op("inject", operation, x, build.stage_input(), weights=[weight])
    return x


def _sublayer(build: Builder, place: str, entry: str | Parallel, blocks: Blocks, x: Value) -> Value:
    """Add one pre-norm residual sublayer: x + mix(norm(x))."""
    normed = build.norm(x, f"{place}.norm", (build.width,))
    if isinstance(entry, str):
        y = _block(build, f"{place}.{entry}", entry, blocks, normed)
    else:
        y = _parallel(build, place, entry, blocks, normed)
    return build.op(f"{place}.add", Sum((build.width,)), x, y)


def _block(build: Builder, place: str, name: str, blocks: Blocks, x: Value) -> Value:
    build.prefix, build.block = f"{place}.", name
    y = blocks[name].lower(build, x)
    build.prefix, build.block = "", ""
    return y


def _parallel(build: Builder, place: str, entry: Parallel, blocks: Blocks, x: Value) -> Value:
    names = entry.parallel
    branches = [_block(build, f"{place}.{n}.{name}", name, blocks, x) for n, name in enumerate(names)]
    if entry.combine == "sum":
        return build.op(f"{place}.sum", Sum((build.width,), len(names)), *branches)
    if entry.combine == "mean":
        return build.op(f"{place}.mean", Mean(build.width, len(names)), *branches)
    logits = build.project(x, f"{place}.gate", (len(names),), init=ZEROS)
    return build.op(f"{place}.mix", Gate(build.width, len(names)), logits, *branches)

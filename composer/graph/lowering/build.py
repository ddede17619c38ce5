"""Lowers a spec to its graph: embedding, stages, final norm, head and loss; blocks lower themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from blocks.base.builder import Builder
from blocks.base.dropout import dropout
from blocks.ir.graph import Graph
from blocks.ir.operation import Init, Value, Weight
from blocks.ir.steps import Steps
from blocks.ir.tensor_type import IDS, TensorType
from blocks.wiring.combine.config import Combine
from blocks.wiring.documents import Documents
from blocks.wiring.loss import Loss, Lowered, ModelEnd
from blocks.wiring.train.rows import keep_rows
from composer.graph.lowering.operations import AddDocumentPositions, AddPositions, Embed
from composer.language.schema.levels import Options, Sublayer, entry_options, stage_options, sublayer_places
from composer.language.schema.recur import Recur
from composer.language.schema.spec import Model, Parallel, Spec, Stage, used
from composer.measures.limits import MemoryLimits


def build(spec: Spec, handed: int | None = None) -> Graph:
    """Return the model's graph, inputs (tokens, targets), outputs (logits, loss), before any pass.

    What the loss reports besides stands between the two outputs (`Graph.reported`), then what it hands to a
    second pass (`Graph.handed`). With `handed` it is the graph of such a pass, which is given that many.

    Weights of stage i stand under `stages.i`, then position in the step, block and role.
    """
    width, vocab = spec.model.width, spec.model.vocab
    root = Builder(width, norm_type=spec.model.norm_type, bias=spec.model.bias)
    root.micro_batch_tokens = micro_batch_tokens(spec)
    root.document_start = spec.model.option(Documents).start()
    tokens, targets = root.input("tokens", IDS), root.input("targets", IDS)
    x = _embedded(root, spec.model, tokens)
    loss = spec.model.option(Loss)
    given = [root.input(f"handed_{number}", TensorType((width,), "stream")) for number in range(handed or 0)]
    stages = partial(_stages, spec, loss.reads_steps, root)
    x = _wrapped("around_model", spec.model.wiring(), root, stages, x)
    lower = loss.lower if handed is None else loss.lower_second
    lowered = lower(
        root,
        ModelEnd(
            x,
            root.collected,
            spec.stages[-1].trips,
            partial(_norm, root),
            partial(_head, root, vocab),
            targets,
            vocab,
            root.micro_batch_tokens,
            given,
        ),
    )
    total, reported = _with_auxiliary(root, lowered)
    root.graph.outputs = [lowered.logits, *reported.values(), *lowered.handed, total]
    root.graph.reported, root.graph.handed = (*reported,), len(lowered.handed)
    # the last inputs, whatever random numbers take
    names = [value.node for value in given]
    root.graph.inputs = [*(name for name in root.graph.inputs if name not in names), *names]
    if spec.model.tie_embeddings:
        root.graph.ties["head"] = "embedding"
    return root.graph


def _stages(spec: Spec, reads_steps: bool, build: Builder, x: Value) -> Value:
    for number, stage in enumerate(spec.stages):
        reads = reads_steps and stage is spec.stages[-1]
        x = _stage(build, f"stages.{number}", stage, spec, x, reads)
    return x


def _embedded(root: Builder, model: Model, tokens: Value) -> Value:
    """Look up token embeddings and add position embeddings, if the model has any."""
    width, std = model.width, model.width**-0.5
    scale = None if model.embedding_scale == "sqrt_width" else model.embedding_scale
    embedding = Weight("embedding", (model.vocab, width), Init("normal", std))
    x = root.op("embed", Embed(model.vocab, width, scale), tokens, weights=[embedding])
    if model.positions == "learned":
        # as large as what they are added to
        start = Init("normal", 1.0 if scale is None else scale * std)
        weights = [Weight("positions", (model.context, width), start)]
        if root.document_start is None:
            x = root.op("add_positions", AddPositions(model.context, width), x, weights=weights)
        else:
            anew = AddDocumentPositions(model.context, width, root.document_start)
            x = root.op("add_positions", anew, x, tokens, weights=weights)
    return dropout(root, x, model.dropout)


def _with_auxiliary(root: Builder, lowered: Lowered) -> tuple[Value, dict[str, Value]]:
    """Add the auxiliary losses of blocks and options; return the sum, and the values reported beside it."""
    added = root.auxiliary_losses()
    if not added:
        return lowered.loss, {**lowered.reported}
    from blocks.primitives.scalars import AddWeighted

    total = root.op("total_loss", AddWeighted((1.0,) * len(added)), lowered.loss, *added.values())
    return total, {"cross_entropy": lowered.loss, **lowered.reported, **added}


def _norm(build: Builder, x: Value) -> Value:
    # a small gain keeps the first logits near 0 though tied embeddings are as long as the state
    return build.norm(x, "norm", (build.width,), start=build.width**-0.5)


def _head(build: Builder, vocab: int, x: Value) -> Value:
    return build.project(x, "head", (vocab,), bias=False)


def micro_batch_tokens(spec: Spec) -> int:
    """Return the tokens of one micro-batch: from `train`, else from the memory cap, else one sequence."""
    if spec.train is None:
        cap = spec.caps.train_memory
        stated = cap.batch_tokens if isinstance(cap, MemoryLimits) else None
        return stated or spec.model.context
    return spec.train.tokens_per_step // spec.train.accumulate


def _stage(build: Builder, name: str, stage: Stage, spec: Spec, x: Value, collects: bool = False) -> Value:
    """Add a stage; with `collects` it also returns the state after each step."""
    options = stage_options(spec.model, stage)

    def step(body: Builder, x: Value) -> Value:
        before, carried = x, {**body.carried}
        x = _step(stage, options, spec, body, x)
        if collects:
            body.collect(_single(options, body, x), "state")
        if isinstance(stage.recur, Recur) and stage.recur.runs_rows_apart:
            x = keep_rows(body, x, before)
            body.carried = {key: keep_rows(body, body.carried[key], old) for key, old in carried.items()}
        return x

    def loop(x: Value) -> Value:
        with build.at(""):
            return build.stage(name, stage.trips, stage.tied, x, step, entered)

    with build.at(""):
        entered = _single(options, build, x) if build.open_streams else x
    # a stage in another has nothing of that one's steps
    with build.at(f"{name}."), build.step_weights(None):
        return _wrapped("around_loop", options, build, loop, x)


def _single(options: Options, build: Builder, x: Value) -> Value:
    """Return the state of a stage as one value [width], after any conversion by its options."""
    for option in options.values():
        x = option.single(build, x)
    return x


def _step(stage: Stage, options: Options, spec: Spec, build: Builder, x: Value) -> Value:
    places = iter(sublayer_places(stage, spec.blocks))

    def body(x: Value) -> Value:
        for position, entry in enumerate(stage.step):
            with _at_its_steps(build, entry):
                if isinstance(entry, Stage):
                    x = _stage(build, str(position), entry, spec, x)
                    continue
                own, build.sublayer = entry_options(options, entry), next(places)
                with build.at(f"{position}."):
                    x = _wrapped("around_sublayer", own, build, partial(_entry, build, entry, spec), x)
        return x

    return _wrapped("around_step", options, build, body, x)


def _at_its_steps(build: Builder, entry: Sublayer | Stage) -> AbstractContextManager[None]:
    at = None if isinstance(entry, str) else entry.at
    return nullcontext() if at is None else build.active(Steps.parse(at))


def _wrapped(hook: str, options: Options, build: Builder, run: Callable[[Value], Value], x: Value) -> Value:
    """Lower a part of a stage within the hooks of its options, lowest order outermost."""
    for option in sorted(options.values(), key=lambda option: option.order, reverse=True):
        run = partial(getattr(option, hook), build, run=run)
    return run(x)


def _entry(build: Builder, entry: Sublayer, spec: Spec, x: Value) -> Value:
    """Add the block or the parallel blocks of a sublayer; `build` is at its place."""
    if not isinstance(entry, Parallel):
        (name,) = used(entry)
        return _block(build, f"{build.prefix}{name}.", spec, name, x)
    branches = [
        _block(build, f"{build.prefix}{n}.{name}.", spec, name, x) for n, name in enumerate(entry.parallel)
    ]
    return entry.option(Combine).lower(build, x, branches)


def _block(build: Builder, place: str, spec: Spec, name: str, x: Value) -> Value:
    with build.at(place, name):
        return dropout(build, spec.blocks[name].lower(build, x), spec.model.dropout)

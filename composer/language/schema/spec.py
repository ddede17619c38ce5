"""The sections of a spec as strict models: model, blocks, stages, caps, training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    Strict,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from blocks.base.config import BlockConfig, Config
from blocks.base.fields import Count, Natural, NonNegative, Positive, Width
from blocks.base.operations import NormType
from blocks.find import block_type, block_types
from composer.data.base.config import DataConfig
from composer.data.find import data_task, data_tasks
from composer.language.schema.at import At
from composer.language.schema.caps import Caps
from composer.language.schema.provenance import Provenance
from composer.language.schema.recur import Recur, Steps
from composer.language.schema.unions import DiscoveredUnion
from composer.language.schema.wired import Wired
from composer.settings.errors import Fault
from composer.settings.tree import fault_at, join
from composer.settings.types import Description, Many

_BLOCKS: DiscoveredUnion[BlockConfig] = DiscoveredUnion("type", block_types, block_type)
_TASKS: DiscoveredUnion[DataConfig] = DiscoveredUnion("task", data_tasks, data_task)


class Model(Wired, owner="model"):
    """Settings shared by all stages."""

    width: Width
    """The size of the hidden state."""
    vocab: Count
    """The number of token ids."""
    context: Count
    """The longest sequence in tokens, and the length at which costs are computed."""
    tie_embeddings: bool = True
    """Whether the head reads the embedding's weights instead of its own."""
    embedding_scale: Literal["sqrt_width"] | Positive = "sqrt_width"
    """The factor on embeddings; `sqrt_width` makes their root mean square 1 at the start."""
    positions: Literal["none", "learned"] = "none"
    """Whether a learned vector for each position is added to the embeddings; RoPE is a field of blocks."""
    norm_type: NormType = "rms"
    """The kind of all norms: RMSNorm (eps 1e-6), or LayerNorm (eps 1e-5)."""
    bias: bool = False
    """Whether projections have biases, and LayerNorms shifts. The head, experts and `inject` have none."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The probability with which training sets each element of the embeddings, positions included, and of the
    output of each block to 0; the others are divided by 1 - p (arXiv 1207.0580). Not of attention weights.
    """


BlockName: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=60),
    Description("a name of letters, digits, _ and - that begins with a letter"),
]
"""A block's name: letters, digits, _ and -."""


def _entry_kind(value: Any) -> str | None:
    match value:
        case str():
            return "block"
        case BlockUse():
            return "use"
        case Parallel():
            return "parallel"
        case Stage():
            return "stage"
        case {"recur": _} | {"stack": _} | {"step": _}:
            return "stage"
        case {"use": _}:
            return "use"
        case {"parallel": _}:
            return "parallel"
        case Mapping() if value.keys() & BlockUse.model_fields.keys():
            return "use"
        case Mapping() if value.keys() & Parallel.model_fields.keys():
            return "parallel"
        case _:
            return None


def _shortest(value: Any) -> Any:
    """Return only the block's name if an entry with `use` has no options."""
    return value.use if isinstance(value, BlockUse) and value == BlockUse(use=value.use) else value


Entry: TypeAlias = Annotated[
    Annotated[BlockName, Tag("block")]
    | Annotated["BlockUse", Tag("use")]
    | Annotated["Parallel", Tag("parallel")]
    | Annotated["Stage", Tag("stage")],
    Discriminator(_entry_kind),
    AfterValidator(_shortest),
    Description("a block's name, {use: ..}, {parallel: [..]}, or a stage: recur or stack, and step"),
]
"""One place in a step: a block, blocks in parallel, or a nested stage."""


class BlockUse(Wired, owner="use"):
    """A block with options of its own, the long form of its name in a step."""

    use: BlockName
    """The name of the block."""
    at: At = None
    """The steps of the stage at which it runs. At others the state passes it unchanged."""


class Parallel(Wired, owner="parallel"):
    """Blocks that read the same input, their outputs combined into one residual update."""

    parallel: Annotated[Many[BlockName], Field(min_length=2)]
    """The names of the blocks, two or more."""
    at: At = None
    """The steps of the stage at which they run. At others the state passes them unchanged."""


class Stage(Wired, owner="stage"):
    """Steps in order: `recur: N` shares one set of weights among them, `stack: N` gives each its own."""

    not_options: ClassVar[frozenset[str]] = frozenset({"recur", "stack"})

    recur: Steps | None = None
    """The number of steps that share their weights."""
    stack: Count | None = None
    """The number of layers with weights of their own."""
    step: Annotated[Many[Entry], Field(min_length=1)]
    """The sublayers that one step runs, in order, each with a residual connection."""
    at: At = None
    """For a nested stage, the steps of the stage around it at which it runs."""

    @model_validator(mode="after")
    def _one_kind(self) -> Stage:
        if (self.recur is None) == (self.stack is None):
            got = "neither" if self.recur is None else "both"
            context = {"expected": "either recur or stack", "got": got, "hint": self._hint()}
            raise PydanticCustomError("expected", "{expected}", context)
        return self

    def _hint(self) -> str:
        if self.recur is None:
            return "recur: N runs the step N times with one set of weights, stack: N makes N layers"
        given = type(self.recur) is type(self.stack) is int
        recur, stack = (self.recur, self.stack) if given else ("N", "M")
        nested = f"recur: {recur}, step: [{{stack: {stack}, step: [..]}}]"
        return f"for {stack} layers looped {recur} times write {nested}"

    @property
    def trips(self) -> int:
        """The number of steps, in evaluation if training runs other numbers."""
        trips = self.stack if self.recur is None else self.recur
        assert trips is not None
        return trips.steps if isinstance(trips, Recur) else trips

    @property
    def recurrence(self) -> Recur | None:
        """The number of steps with shared weights, as a spec writes it; None for a stack."""
        return Recur(steps=self.recur) if isinstance(self.recur, int) else self.recur

    @property
    def tied(self) -> bool:
        """Whether the steps share their weights."""
        return self.recur is not None

    @property
    def recurs(self) -> bool:
        """Whether the stage recurs: several steps with one set of weights."""
        return self.tied and self.trips > 1


Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A share from 0 to 1."""


class Schedule(Config):
    """The learning rate over the run: warmup, stable, decay, as shares that add up to 1."""

    warmup: Share = 0.05
    """Share of the optimizer steps in which the rate rises from 0 to `lr`."""
    stable: Share = 0.75
    """Share of the optimizer steps at `lr`."""
    decay: Share = 0.2
    """Share of the optimizer steps in which the rate falls to 0."""
    shape: Literal["linear", "sqrt", "cosine"] = "linear"
    """How the rate falls: in a line, as 1 - sqrt(share of the decay) (arXiv 2405.18392), or half a cosine.
    Linear where `decay` is less than two optimizer steps."""

    @model_validator(mode="after")
    def _whole(self) -> Schedule:
        total = self.warmup + self.stable + self.decay
        if not math.isclose(total, 1, abs_tol=1e-6):
            context = {"expected": "warmup + stable + decay = 1", "got": f"{total:g}"}
            raise PydanticCustomError("expected", "{expected}", context)
        return self


class Eval(Config):
    """When the model is evaluated, and on how much held-out data; the end of training is always evaluated."""

    every: Count = 500_000
    """Training tokens between two evaluations."""
    tokens: Count = 65_536
    """Held-out tokens that one evaluation reads, rounded up to whole batches."""


class Checkpoint(Config):
    """When the state of the run is saved; it is always saved at the end."""

    every: Count = 500_000
    """Training tokens between two checkpoints."""


def _precision(value: Any) -> Any:
    return 32 if value == "32" else value


Beta: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
"""A decay rate from 0 up to, but not, 1."""


class Train(Wired, owner="train"):
    """How the model is trained, under a warmup-stable-decay schedule."""

    model_config = ConfigDict(defer_build=True)

    unhashed: ClassVar[frozenset[str]] = frozenset({"seed"})

    data: Annotated[SerializeAsAny[DataConfig], _TASKS]
    """The data, selected by `task`."""
    tokens: Count
    """Training tokens of the whole run."""
    batch_tokens: Count = 4096
    """Tokens per optimizer step, rounded down to whole sequences."""
    lr: Positive = 3e-3
    """The learning rate of the stable phase (peak learning rate)."""
    schedule: Schedule = Schedule.model_construct()
    """The learning-rate schedule."""
    weight_decay: NonNegative = 0.1
    """Weight decay, applied to matrices only, not to norms and biases."""
    betas: Annotated[tuple[Beta, Beta], Strict(False)] = (0.9, 0.95)
    """AdamW's betas."""
    clip: NonNegative = 1.0
    """The largest gradient norm; 0 disables clipping."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is evaluated and saved; null for none."""
    precision: Annotated[
        Literal["auto", 32, "bf16-mixed"],
        BeforeValidator(_precision),
        WithJsonSchema({"enum": ["auto", 32, "32", "bf16-mixed"]}),
    ] = "auto"
    """Precision of matrix products; `auto` is bf16-mixed if the hardware supports it, else 32."""
    accumulate: Count = 1
    """Micro-batches per optimizer step; must divide the number of sequences in a batch."""
    seed: Natural = 0
    """The random seed of weights and batches."""
    eval: Eval = Eval.model_construct()
    """When and on how much data the model is evaluated."""
    checkpoint: Checkpoint = Checkpoint.model_construct()
    """When the run is saved."""
    devices: Literal["auto"] | Count = "auto"
    """Number of devices; `auto` uses all."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Parallelism over several devices; `fsdp` also shards weights, gradients and optimizer moments."""

    callbacks: Many[str] = ()
    """Import paths of Lightning callbacks, or of functions that make them, such as `my_module.MyCallback`."""

    @property
    def length(self) -> int:
        """Tokens per sequence of the data."""
        return self.data.length

    @property
    def batch_sequences(self) -> int:
        """Sequences per optimizer step."""
        return self.batch_tokens // self.length

    @property
    def tokens_per_step(self) -> int:
        """Tokens per optimizer step, in whole sequences."""
        return self.batch_sequences * self.length

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return -(-self.tokens // self.tokens_per_step)

    @property
    def decay_steps(self) -> int:
        """Optimizer steps of the schedule's decay; the first of them still has the whole rate."""
        return round(self.schedule.decay * self.steps)


class Spec(Config):
    """One model and how it is trained, complete and valid."""

    model_config = ConfigDict(defer_build=True)

    unhashed: ClassVar[frozenset[str]] = frozenset({"schema_", "name", "caps"})

    schema_: Annotated[Literal[1], Field(alias="schema")]
    """The version of the spec language."""
    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100),
        Description("letters, digits, `.`, `_` and `-`, up to 100"),
    ]
    """The name of the run folder: letters, digits, `.`, `_` and `-`."""
    model: Model
    """Settings shared by all stages."""
    blocks: dict[BlockName, Annotated[SerializeAsAny[BlockConfig], _BLOCKS]]
    """The blocks by name; each use of a block has weights of its own."""
    stages: Annotated[Many[Stage], Field(min_length=1)]
    """The stages of the model, in order."""
    caps: Caps = Caps.model_construct()
    """Upper limits on the model's costs."""
    train: Train | None = None
    """How the model is trained; not needed to only cost or compile a model."""

    _provenance: Provenance = PrivateAttr(default_factory=Provenance)

    def origin(self, *path: str | int) -> str:
        """Say where the value at `path` came from: `file:line`, an option, or `default`."""
        return self._provenance.origin(path)

    def fault(self, path: Sequence[str | int], expected: str, got: str, hint: str = "") -> Fault:
        """Return a fault at `path`, for problems found when the spec is built or costed."""
        node = self._provenance.tree
        for step in path:
            node = node.child(step) if node else None
        dotted = ".".join(map(str, path))
        if node is None:
            return Fault(self.name, 0, 0, dotted, expected, got, hint)
        return node.fault(dotted, expected, got, hint)

    def fault_at(self, path: tuple[str | int, ...], expected: str, got: str, hint: str = "") -> Fault:
        """Make a fault at a key of this spec, with its place where the spec was read from a file."""
        tree = self._provenance.tree
        if tree is None:
            return Fault(self.name, 0, 0, join(*path), expected, got, hint)
        return fault_at(tree, path, expected, got, hint)

    def used(self) -> Iterator[str]:
        """Yield the names of the blocks that stages use, in order of first use, each as often as used."""
        for stage in self.stages:
            yield from used(stage)


def used(entry: str | BlockUse | Parallel | Stage) -> Iterator[str]:
    """Yield the names of the blocks of an entry of a step, or of a stage, each as often as it is used."""
    match entry:
        case str():
            yield entry
        case BlockUse():
            yield entry.use
        case Parallel():
            yield from entry.parallel
        case Stage():
            for item in entry.step:
                yield from used(item)

"""The base of wiring options: how a stage, a parallel mix or the model connects its blocks. Torch-free.

An option is a value of a key of the spec, such as `norm: post` or `residual: {scale: 0.5}`. A *kind* is a
class that declares the key; each *value* of it is a subclass in a file of its own. The file's presence in
`blocks/wiring/`, or an entry point of the group `composer.wiring`, makes it a part of the language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from blocks.base.config import Config, Problem
from blocks.base.sublayer import SublayerPlace, View

if TYPE_CHECKING:
    from blocks.base.builder import Builder
    from blocks.ir.operation import Value

Owner = Literal["model", "stage", "recur", "use", "parallel", "train"]
"""What of a spec has a key: `model`, a stage, its `recur`, a step's `use` or `parallel`, or `train`."""

Run: TypeAlias = "Callable[[Value], Value]"
"""What an option wraps: it takes a value of the residual stream [width] and returns the next one."""


@dataclass(frozen=True)
class Site:
    """Where an option is used, for its checks and words.

    Attributes:
        width: d_model.
        steps: how often the stage runs; 1 outside a stage.
        tied: whether these steps share their weights.
        wiring: the options beside it and itself, by key.
        entries: for an option used in a stage, the options of each entry that is not a stage, by key.
        model: the options of the model, by key.
        last_stage: for an option of the model, where the options of the last stage are used.
        stages: for an option of the model, where those of each stage are used, nested ones included.
        is_last: whether this is the last stage of the model.
        nested: the options of each stage in the step, by key, if the option is used in a stage.
        varies: whether the number of steps varies in training.
        sublayers: the place of each entry that is not a stage, in a stage.
    """

    width: int
    steps: int = 1
    tied: bool = False
    wiring: Mapping[str, WiringConfig] = field(default_factory=dict)
    entries: Sequence[Mapping[str, WiringConfig]] = ()
    model: Mapping[str, WiringConfig] = field(default_factory=dict)
    last_stage: Site | None = None
    stages: Sequence[Site] = ()
    is_last: bool = False
    nested: Sequence[Mapping[str, WiringConfig]] = ()
    varies: bool = False
    sublayers: Sequence[SublayerPlace] = ()


class WiringConfig(Config):
    """One option. A spec writes its name, or a mapping that has the name as a key: `{scale: 0.5}`.

    An option with fields therefore has a field of its own name. A kind sets `key`, `owner` and `default`, and
    its docstring documents the key; a value sets `name`, and its docstring documents the value.
    """

    key: ClassVar[str] = ""
    """The key in the spec."""
    owner: ClassVar[tuple[Owner, ...]] = ("stage",)
    """What has that key. An entry without it takes that of its stage, a stage that of the model."""
    default: ClassVar[str] = ""
    """The name of the value that applies where the key is missing; it has no required fields."""
    key_aliases: ClassVar[str] = ""
    """Names of the key in other frameworks, separated by spaces, for hints."""
    recurrent: ClassVar[bool] = False
    """Whether the key is about recurrence, so that layers made from a recurrent stage do without it."""
    order: ClassVar[int] = 0
    """Options of lower order wrap those of higher order. The residual sum is at 0."""
    unskippable: ClassVar[str] = ""
    """Why no sublayer with it can be left out at some steps (`at`), such as `which reads each sublayer`."""
    changes_result: ClassVar[bool] = False
    """Whether it changes the state after the last step, so that what a stage returns is no step's state."""

    weights_per_step: ClassVar[bool] = False
    """Whether it has weights for each step of the stage, so that the number of steps is fixed."""

    some_tokens: ClassVar[bool] = False
    """Whether the blocks of a stage with it run on some of the tokens of a sequence."""

    name: ClassVar[str] = ""
    """The value in the spec."""
    aliases: ClassVar[str] = ""
    """Names of the value in other frameworks, separated by spaces, for hints."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Yield what a schema cannot say, such as another option that this one excludes.

        The key of a problem is relative to the option; "" is the option itself.
        """
        yield from ()

    def spans_stages(self) -> bool:
        """Return whether the option, given on the model, holds all stages, so that none can have another."""
        return False

    def not_causal(self) -> str:
        """Return how training lets tokens see later ones, and what inference does instead; else ""."""
        return ""

    def batch_wide(self) -> bool:
        """Return whether its loss for a batch is not the mean of those of the batch's parts."""
        return False

    def expected_costs(self) -> str:
        """Return why FLOPs and time are expectations, and what they and memory stand for; else ""."""
        return ""

    def pads(self) -> bool:
        """Return whether blocks also get tokens that nothing reads, behind those of rows with fewer."""
        return False

    def first_kv(self) -> bool:
        """Return whether attention reads keys and values of the first step."""
        return False

    def makes_views(self, place: SublayerPlace) -> Sequence[View]:
        """Return which views it makes differ from the input that it gives the blocks of a sublayer."""
        return ()

    def words(self, site: Site) -> str:
        """Return a line for pictures that says what the option does here, or ""."""
        return ""

    def plain(self, *, defaults: bool = True) -> str | dict[str, Any]:
        """Return the option as a spec writes it, with or without the fields at their defaults."""
        if not type(self).model_fields:
            return self.name
        # a fault may quote an option that has an invalid field
        fields = self.model_dump(exclude_defaults=not defaults, by_alias=True, warnings=False)
        if fields and self.name in type(self).model_fields:
            fields = {self.name: getattr(self, self.name), **fields}
        return fields or self.name

    # lowering: each hook adds operations around `run`, and by default none

    def around_model(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap all stages: `run` takes the embedded tokens and returns what the final norm reads."""
        return run(x)

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap a whole stage: `run` takes the state of the first step and returns that of the last."""
        return run(x)

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap one step of a stage. `build.stage_input()` and `build.trip()` say where the step is."""
        return run(x)

    def single(self, build: Builder, x: Value) -> Value:
        """Return the state between steps as one value [width], for what reads it besides the steps."""
        return x

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap a block, or a parallel mix, of a step.

        Outside the residual sum (`order` below 0) `run` returns the stream, inside it the update.
        """
        return run(x)


def acts_on_stage(option: WiringConfig | type[WiringConfig]) -> bool:
    """Return whether an option adds something around a stage or its steps, not only around sublayers."""
    hooks = ("around_loop", "around_step")
    kind = option if isinstance(option, type) else type(option)
    return any(getattr(kind, hook) is not getattr(WiringConfig, hook) for hook in hooks)


def inherits(kind: type[WiringConfig], owner: Owner) -> bool:
    """Return whether `owner` takes the option of what is around it where it does not have the key itself."""
    outer: dict[Owner, tuple[Owner, ...]] = {"model": (), "stage": ("model",)}
    return any(each in kind.owner for each in outer.get(owner, ("model", "stage")))


def kind_of(option: type[WiringConfig]) -> type[WiringConfig]:
    """Return the class that declares the option's key."""
    return next(each for each in reversed(option.__mro__) if getattr(each, "key", ""))


def default_of(options: Mapping[str, type[WiringConfig]]) -> WiringConfig:
    """Return the default of a kind, given its values by name."""
    kind = kind_of(next(iter(options.values())))
    return options[kind.default].model_construct()


def selected(options: Mapping[str, type[WiringConfig]], value: Any) -> str | None:
    """Return the name of the option that a plain value of a key selects, or None.

    Of several names among the keys of a mapping it is the one whose option knows most of these keys.
    """
    match value:
        case WiringConfig():
            return value.name
        case str():
            return value if value in options else None
        case Mapping():
            named = [name for name in options if name in value and name in options[name].model_fields]
            return max(
                named, key=lambda name: len(value.keys() & options[name].model_fields.keys()), default=None
            )
        case _:
            return None

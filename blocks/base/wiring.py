"""Base class of wiring options, which determine how blocks are connected. Torch-free.

An option is a value of a key of the spec, such as `norm: post` or `residual: {scale: 0.5}`. A *kind* is a
class that declares the key; each *value* is a subclass of it, in a module of its own. Modules in
`blocks/wiring/` and entry points of the group `composer.wiring` are found without a registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from blocks.base.config import Config, Problem
from blocks.base.sublayer import SublayerPlace, View

if TYPE_CHECKING:
    from blocks.base.builder import Builder
    from blocks.ir.operation import Value

Owner = Literal["model", "stage", "recur", "use", "parallel", "train"]
"""The part of a spec that has a key: `model`, a stage, its `recur`, a step's `use` or `parallel`, `train`."""

Run: TypeAlias = "Callable[[Value], Value]"
"""The function that an option wraps, from one value of the residual stream [width] to the next."""


class Site(NamedTuple):
    """The place where an option is used, for its checks and its summary.

    Attributes:
        width: d_model.
        steps: the number of steps of the stage; 1 outside a stage.
        tied: whether the steps share their weights.
        wiring: all options of the same owner, by key.
        entries: in a stage, the options of each sublayer, by key.
        model: the options of the model, by key.
        last_stage: for an option of the model, the site of the last stage.
        stages: for an option of the model, the site of each stage, nested ones included.
        is_last: whether this is the last stage of the model.
        nested: in a stage, the options of each nested stage, by key.
        varies: whether the number of steps varies in training.
        sublayers: in a stage, the place of each sublayer.
    """

    width: int
    steps: int = 1
    tied: bool = False
    wiring: Mapping[str, WiringConfig] = {}
    entries: Sequence[Mapping[str, WiringConfig]] = ()
    model: Mapping[str, WiringConfig] = {}
    last_stage: Site | None = None
    stages: Sequence[Site] = ()
    is_last: bool = False
    nested: Sequence[Mapping[str, WiringConfig]] = ()
    varies: bool = False
    sublayers: Sequence[SublayerPlace] = ()


class WiringConfig(Config):
    """One option. Specs contain its name, or a mapping with the name as a key: `{scale: 0.5}`.

    Therefore an option with fields has one with the option's name. A kind sets `key`, `owner` and `default`,
    and its docstring documents the key; a value sets `name`, and its docstring documents the value.
    """

    key: ClassVar[str] = ""
    """The key in the spec."""
    owner: ClassVar[tuple[Owner, ...]] = ("stage",)
    """The parts of a spec with that key. A sublayer inherits from its stage, a stage from the model."""
    default: ClassVar[str] = ""
    """The name of the default value, which has no required fields."""
    key_aliases: ClassVar[str] = ""
    """Names of the key in other frameworks, separated by spaces, for hints."""
    recurrent: ClassVar[bool] = False
    """Whether the key applies to recurrent stages only; layers derived from such a stage drop it."""
    order: ClassVar[int] = 0
    """Options of lower order wrap those of higher order. The residual sum has order 0."""
    unskippable: ClassVar[str] = ""
    """Why sublayers with it cannot be skipped at some steps (`at`), such as `which reads each sublayer`."""
    changes_result: ClassVar[bool] = False
    """Whether the result of a stage differs from the state after its last step."""

    weights_per_step: ClassVar[bool] = False
    """Whether it has weights for each step of the stage, so that the number of steps is fixed."""

    selects_tokens: ClassVar[bool] = False
    """Whether the blocks of the stage run on selected tokens of a sequence."""

    name: ClassVar[str] = ""
    """The name of the value in specs."""
    aliases: ClassVar[str] = ""
    """Names of the value in other frameworks, separated by spaces, for hints."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Yield errors that types cannot express, such as a conflict with another option.

        The key of a problem is relative to the option; "" is the option itself.
        """
        yield from ()

    def spans_stages(self) -> bool:
        """Return whether the option, set on the model, applies to all stages together and excludes others."""
        return False

    def not_causal(self) -> str:
        """Return how tokens depend on later ones in training, and what inference does instead; or ""."""
        return ""

    def batch_wide(self) -> bool:
        """Return whether its loss of a batch differs from the mean of the losses of the batch's parts."""
        return False

    def expected_costs(self) -> str:
        """Return why FLOPs and time are expected values, and what memory is; or ""."""
        return ""

    def pads(self) -> bool:
        """Return whether blocks also run on padding, at the end of rows with fewer selected tokens."""
        return False

    def first_kv(self) -> bool:
        """Return whether attention at all steps reads the keys and values of the first step."""
        return False

    def makes_views(self, place: SublayerPlace) -> Sequence[View]:
        """Return the views that differ from the input of the blocks of a sublayer."""
        return ()

    def summary(self, site: Site) -> str:
        """Return a line for pictures that describes the option at this place, or ""."""
        return ""

    def plain(self, *, defaults: bool = True) -> str | dict[str, Any]:
        """Return the option as in a spec, with or without fields at their defaults."""
        if not type(self).model_fields:
            return self.name
        # error messages may quote an option with an invalid field
        fields = self.model_dump(exclude_defaults=not defaults, by_alias=True, warnings=False)
        if fields and self.name in type(self).model_fields:
            fields = {self.name: getattr(self, self.name), **fields}
        return fields or self.name

    # lowering: hooks that add operations around `run`; the defaults add none

    def around_model(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap all stages: `run` takes the embedded tokens and returns the input of the final norm."""
        return run(x)

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap a stage: `run` takes the state before the first step and returns that after the last."""
        return run(x)

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap one step of a stage; `build.stage_input()` and `build.trip()` are available."""
        return run(x)

    def single(self, build: Builder, x: Value) -> Value:
        """Return the state between steps as one value [width], for readers other than the steps."""
        return x

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Wrap a sublayer: a block or a parallel mix.

        Outside the residual sum (`order` below 0) `run` returns the stream, inside it the update.
        """
        return run(x)


def acts_on_stage(option: WiringConfig | type[WiringConfig]) -> bool:
    """Return whether an option wraps a stage or its steps, not only sublayers."""
    hooks = ("around_loop", "around_step")
    kind = option if isinstance(option, type) else type(option)
    return any(getattr(kind, hook) is not getattr(WiringConfig, hook) for hook in hooks)


def inherits(kind: type[WiringConfig], owner: Owner) -> bool:
    """Return whether `owner` inherits the key from an enclosing stage or the model."""
    outer: dict[Owner, tuple[Owner, ...]] = {"model": (), "stage": ("model",)}
    return any(each in kind.owner for each in outer.get(owner, ("model", "stage")))


def kind_of(option: type[WiringConfig]) -> type[WiringConfig]:
    """Return the class that declares an option's key."""
    return next(each for each in reversed(option.__mro__) if getattr(each, "key", ""))


def selected(options: Mapping[str, type[WiringConfig]], value: Any) -> str | None:
    """Return the name of the option that a plain value selects, or None.

    If several keys of a mapping are names of options, it is the option with most of these keys as fields.
    """
    match value:
        case WiringConfig():
            return value.name
        case str():
            return value if value in options else None
        case Mapping():
            named = [name for name in value if name in options and name in options[name].model_fields]
            named.sort(key=lambda name: (name != options[name].default, name))
            return max(
                named, key=lambda name: len(value.keys() & options[name].model_fields.keys()), default=None
            )
        case _:
            return None

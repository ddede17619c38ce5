"""The shape of a spec: proportions of its sizes, bounds on them, and the distance between two shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from typing import TypeAlias

from composer.costs.fitting.tunables import Tunables
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import Spec

Sizes: TypeAlias = Mapping[str, int]
"""The whole numbers of a spec by path, such as `blocks.seq.heads`; defaults are worked out."""
Span: TypeAlias = tuple[float, float]
"""The least and the most."""

WIDTH = "model.width"
SHAPING = ("heads", "kv_heads", "head_dim", "experts", "active", "hidden")
"""Fields of blocks that are sizes; all others say what a block sees or does."""

# experts hold parameters and are not what a token runs through
_WEIGHTS = {"experts": 0.25, "kv_heads": 0.0}
_SLACK = 1e-9
# a size this near to a bound is at it
_NEAR = 0.06


def path(block: str, field: str) -> str:
    """Return the path of a field of a block."""
    return f"blocks.{block}.{field}"


def sizes(spec: Spec) -> dict[str, int]:
    """Map paths to the integers that a model's costs depend on, without those of training."""
    return {
        tunable.path: tunable.value for tunable in Tunables(spec, apart=True).all if tunable.part != "train"
    }


def distance(base: Sizes, now: Sizes) -> float:
    """Return the distance of a shape from its base's: the sum of |log2(new / old)| over kinds of sizes.

    A doubling of the width counts 1, as does a doubling of the heads, of the head size, of the active experts
    or of the hidden size in all blocks; a doubling of the experts counts 1/4. Of several blocks with a field
    it is the mean. Key and value heads follow the query heads and count 0.
    """
    moved: dict[str, list[float]] = {}
    for key, old in base.items():
        moved.setdefault(_kind(key), []).append(abs(log2(now.get(key, old) / old)))
    return sum(weight(kind) * sum(each) / len(each) for kind, each in moved.items())


def weight(kind: str) -> float:
    """Return the distance contributed by doubling the sizes of one kind."""
    return _WEIGHTS.get(kind, 1.0)


def _kind(key: str) -> str:
    """Return the kind of a size: the field name for blocks, otherwise its path."""
    return key.rpartition(".")[2] if key.startswith("blocks.") else key


@dataclass(frozen=True)
class Attention:
    """The bounds of one block with heads."""

    name: str
    ratio: Span
    head_dims: tuple[int, ...]
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Hidden:
    """The bounds of one block with a hidden size; `sparsity` is None without experts."""

    name: str
    ratio: Span
    sparsity: float | None

    def active(self, now: Sizes) -> int:
        """Return how many hidden layers a token uses."""
        return 1 if self.sparsity is None else now[path(self.name, "active")]

    def used(self, now: Sizes) -> int:
        """Return the hidden size of all that a token uses."""
        return self.active(now) * now[path(self.name, "hidden")]


@dataclass(frozen=True)
class Neurons:
    """The bounds of one block whose experts are neurons that each of its heads finds by product keys."""

    name: str
    ratio: Span
    sparsity: float

    def active(self, now: Sizes) -> int:
        """Return how many neurons a token uses, in all heads."""
        return now[path(self.name, "heads")] * now[path(self.name, "active")]

    used = active


class Limits:
    """The bounds of shape for all specs matched from one base, widened to include the base itself.

    Attributes:
        base: the sizes of the base.
        width: the least and the largest width.
        attention: blocks with heads.
        hidden: blocks with a hidden size, with or without experts.
        neurons: blocks with experts of one neuron.
        widened: a text for each bound that the base itself exceeds; there its own value is the bound.
    """

    def __init__(self, base: Spec, bounds: ShapeBounds) -> None:
        self.base = sizes(base)
        width = base.model.width
        self.width: Span = width / bounds.width_factor, width * bounds.width_factor
        self.attention: list[Attention] = []
        self.hidden: list[Hidden] = []
        self.neurons: list[Neurons] = []
        self.widened: list[str] = []
        for name in base.blocks:
            if all(path(name, field) in self.base for field in ("heads", "kv_heads", "head_dim")):
                self.attention.append(self._attention(name, width, bounds))
            if path(name, "hidden") in self.base:
                self.hidden.append(self._hidden(name, width, bounds))
            elif all(path(name, field) in self.base for field in ("heads", "active", "experts")):
                self.neurons.append(self._neurons(name, width, bounds))

    def _attention(self, name: str, width: int, bounds: ShapeBounds) -> Attention:
        heads, kv_heads, head_dim = (
            self.base[path(name, field)] for field in ("heads", "kv_heads", "head_dim")
        )
        allowed = _pair(bounds.attention_ratio)
        ratio = self._wide(f"{name}: heads * head_dim", heads * head_dim / width, allowed)
        return Attention(
            name,
            ratio,
            tuple(sorted({*bounds.head_dims, head_dim})),
            tuple(sorted({*bounds.groups, heads // kv_heads})),
        )

    def _neurons(self, name: str, width: int, bounds: ShapeBounds) -> Neurons:
        used = self.base[path(name, "heads")] * self.base[path(name, "active")]
        ratio = self._wide(f"{name}: heads * active", used / width, _pair(bounds.hidden_ratio))
        return Neurons(name, ratio, self._sparsity(name, used, bounds))

    def _sparsity(self, name: str, active: int, bounds: ShapeBounds) -> float:
        experts = self.base[path(name, "experts")]
        sparsity = min(bounds.experts_per_active, experts / active)
        if sparsity < bounds.experts_per_active:
            self.widened.append(f"{name}: {experts} experts for {active} active")
        return sparsity

    def _hidden(self, name: str, width: int, bounds: ShapeBounds) -> Hidden:
        sparsity, active = None, 1
        if path(name, "experts") in self.base:
            active = self.base[path(name, "active")]
            sparsity = self._sparsity(name, active, bounds)
        used = active * self.base[path(name, "hidden")]
        what = f"{name}: {'hidden' if sparsity is None else 'active * hidden'}"
        return Hidden(name, self._wide(what, used / width, _pair(bounds.hidden_ratio)), sparsity)

    def _wide(self, what: str, own: float, span: Span) -> Span:
        if not span[0] <= own <= span[1]:
            self.widened.append(f"{what} {own:.3g} times the width")
        return min(span[0], own), max(span[1], own)

    def allow(self, sizes: Sizes) -> bool:
        """Whether the sizes, those of the base where there are no others, are within all bounds."""
        now = {**self.base, **sizes}
        width = now[WIDTH]
        hidden: list[Hidden | Neurons] = [*self.hidden, *self.neurons]
        return (
            _within(width, self.width)
            and self.attention_fits(sizes)
            and all(self._heads_fit(each, now) for each in self.attention)
            and all(_within(each.used(now) / width, each.ratio) and _enough(each, now) for each in hidden)
        )

    def _heads_fit(self, block: Attention, now: Sizes) -> bool:
        heads, kv_heads, head_dim = (
            now[path(block.name, field)] for field in ("heads", "kv_heads", "head_dim")
        )
        return head_dim in block.head_dims and not heads % kv_heads and heads // kv_heads in block.groups

    def attention_fits(self, now: Sizes) -> bool:
        """Whether the heads are within their bounds; cheaper than `allow`."""
        width = now.get(WIDTH, self.base[WIDTH])
        for each in self.attention:
            heads, head_dim = path(each.name, "heads"), path(each.name, "head_dim")
            inner = now.get(heads, self.base[heads]) * now.get(head_dim, self.base[head_dim])
            if not _within(inner / width, each.ratio):
                return False
        return True

    def reached(self, sizes: Sizes) -> list[str]:
        """Return the names of bounds that changed sizes have nearly reached."""
        now, at_bound = {**self.base, **sizes}, []
        width = now[WIDTH]
        if _near(width, self.width):
            at_bound.append("width_factor")
        heads = (now[path(each.name, "heads")] * now[path(each.name, "head_dim")] for each in self.attention)
        if any(_near(inner / width, each.ratio) for inner, each in zip(heads, self.attention, strict=True)):
            at_bound.append("attention_ratio")
        if any(_near(each.used(now) / width, each.ratio) for each in self.hidden):
            at_bound.append("hidden_ratio")
        for each in self.hidden:
            if each.sparsity is not None:
                experts, least = now[path(each.name, "experts")], each.sparsity * each.active(now)
                if experts <= max(least + 1, least * (1 + _NEAR)) and "experts_per_active" not in at_bound:
                    at_bound.append("experts_per_active")
        return at_bound


def _enough(block: Hidden | Neurons, now: Sizes) -> bool:
    """Whether there are as many experts, of those that a token uses, as the bound asks for."""
    if block.sparsity is None:
        return True
    return now[path(block.name, "experts")] >= block.sparsity * block.active(now) - _SLACK


def _pair(values: tuple[float, ...]) -> Span:
    low, high = values
    return low, high


def _within(value: float, span: Span) -> bool:
    return span[0] * (1 - _SLACK) <= value <= span[1] * (1 + _SLACK)


def _near(value: float, span: Span) -> bool:
    return value <= span[0] * (1 + _NEAR) or value >= span[1] * (1 - _NEAR)

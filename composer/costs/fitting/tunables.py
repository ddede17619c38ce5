"""The tunables of a spec: the integers that its costs depend on, each under the name that sets it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from blocks.base.config import Config
from blocks.base.fields import Aligned, Grid, Multiples
from composer.language.description.show import document
from composer.language.load import overridden, read_let
from composer.language.parsing.resolve import Resolver
from composer.language.schema.levels import Sublayer
from composer.language.schema.recur import Recur
from composer.language.schema.spec import Spec, Stage
from composer.language.validation.describe_types import fields, marker
from composer.settings.errors import Fault, SpecError, close
from composer.settings.tree import Node, join

Path: TypeAlias = tuple[str | int, ...]
Tree: TypeAlias = dict[str, Any]
"""A spec as plain data, resolved."""
Values: TypeAlias = Mapping[str, int]
"""Values of tunables by path."""
Part: TypeAlias = Literal["width", "block", "steps", "train"]

# a tree is resolved once for each name: beyond this many nodes in all, numbers are tunables of their own
_MOST_NODES = 2_000_000


@dataclass(frozen=True)
class Tunable:
    """A number of a spec, or several numbers that are set together by one name in `let`.

    Attributes:
        path: where `--set` reaches it: `blocks.expert.experts`, `let.w`.
        label: a short form of the path: `expert.experts`, `width`, `steps`.
        value: the current value, with defaults resolved.
        grain: sensible values are multiples of it.
        part: what it belongs to.
        grid: the allowed numbers, if not all integers are.
    """

    path: str
    label: str
    value: int
    grain: int
    part: Part
    grid: Grid | None = None

    @property
    def sensible(self) -> Grid:
        """The numbers that may be proposed."""
        return self.grid or Multiples(self.grain)


class Numbers(Sequence[int]):
    """A lazy sequence of the numbers of a grid."""

    def __init__(self, grid: Grid, ranks: range) -> None:
        self._grid, self._ranks = grid, ranks

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, i: Any) -> Any:
        ranks = self._ranks[i]
        return Numbers(self._grid, ranks) if isinstance(ranks, range) else self._grid.nth(ranks)

    def index(self, value: int, *_: int) -> int:
        """Return the index of a number without iterating."""
        return self._ranks.index(self._grid.rank(value))


class Tunables:
    """The tunables of a spec, and its tree for other values of them.

    Numbers that one name of `let` sets are one tunable; with `apart` each is a tunable of its own.

    Attributes:
        all: the tunables.
        base: the spec's tree.
        unset: the resolved defaults of sizes that the spec does not give, by path.
    """

    def __init__(self, spec: Spec, *, apart: bool = False) -> None:
        self.base: Tree = document(spec)
        self.unset: dict[str, int] = _unset(self.base, spec)
        self._source = spec._provenance.source
        self._plain = None if self._source is None else _resolved(self._source)
        leaves = {tunable.path: tunable for tunable in _leaves(spec)}
        tied = {} if apart else self._tied()
        taken = {path for _, paths in tied.values() for path in paths}
        named = [_named(name, value, paths, leaves) for name, (value, paths) in tied.items()]
        free = [tunable for path, tunable in leaves.items() if path not in taken]
        self.all: tuple[Tunable, ...] = (*(tunable for tunable in named if tunable is not None), *free)

    def tree(self, values: Values) -> Tree:
        """Return the spec's tree with other values for some tunables, without validation.

        Raises:
            SpecError: an expression cannot be evaluated with them.
        """
        tree = self.base
        named = [f"{path}={value}" for path, value in values.items() if path.startswith("let.")]
        if named:
            assert self._source is not None
            for path, value in _changed(self._plain, _resolved(overridden(self._source, named))):
                tree = put(tree, path, value)
        for dotted, value in values.items():
            if not dotted.startswith("let."):
                tree = put(tree, tuple(int(s) if s.isdigit() else s for s in dotted.split(".")), value)
        return tree

    def _tied(self) -> dict[str, tuple[int, list[str]]]:
        """Map the path of each integer in `let` to the paths that it sets."""
        tied: dict[str, tuple[int, list[str]]] = {}
        let = None if self._source is None else self._source.child("let")
        if self._source is None or let is None or let.size * self._source.size > _MOST_NODES:
            return tied
        for path, value in _numbers(let, ("let",)):
            try:
                other = _resolved(overridden(self._source, [f"{join(*path)}={value + 1}"]))
            except SpecError:
                continue
            tied[join(*path)] = value, [join(*changed) for changed, _ in _changed(self._plain, other)]
        return tied


def find(tunables: Sequence[Tunable], name: str, spec: str) -> Tunable:
    """Return the tunable of a path or label; `spec` is the name of their spec, for errors.

    Raises:
        SpecError: there is none; the message suggests similar ones.
    """
    for tunable in tunables:
        if name in (tunable.path, tunable.label):
            return tunable
    labels = [tunable.label for tunable in tunables]
    hint = close(name, [*labels, *(tunable.path for tunable in tunables)])
    raise SpecError([Fault(spec, 0, 0, "", f"one of {', '.join(labels)}", repr(name), hint)])


def put(tree: Tree, path: Sequence[str | int], value: Any) -> Tree:
    """Return `tree` with the value at `path` replaced; the rest is shared with it."""
    copy: Any = list(tree) if isinstance(tree, list | tuple) else dict(tree)
    step, *rest = path
    copy[step] = put(copy[step], rest, value) if rest else value
    changed: Tree = copy
    return changed


def _leaves(spec: Spec) -> Iterator[Tunable]:
    width = spec.model.width
    yield Tunable("model.width", "width", width, _grain(spec.model, "width", width), "width")
    for name, block in spec.blocks.items():
        for field, value in block.canonical(width).items():
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                grain, grid = _grain(block, field, value), marker(fields(type(block)).get(field), Grid)
                yield Tunable(join("blocks", name, field), f"{name}.{field}", value, grain, "block", grid)
    trips = list(_trips(spec.stages, "stages"))
    for path, stage in trips:
        short = "steps" if stage.tied else "layers"
        yield Tunable(path, short if len(trips) == 1 else path, stage.trips, 1, "steps")
    if (train := spec.train) is not None:
        batch = train.length
        yield Tunable("train.accumulate", "train.accumulate", train.accumulate, 1, "train")
        yield Tunable("train.batch_tokens", "train.batch_tokens", train.batch_tokens, batch, "train")
        digits = 10 ** max(len(str(train.tokens)) - 3, 0)
        yield Tunable("train.tokens", "train.tokens", train.tokens, digits, "train")


def _unset(tree: Tree, spec: Spec) -> dict[str, int]:
    sizes = {tunable.path: tunable.value for tunable in _leaves(spec)}
    blocks = tree["blocks"].items()
    unset = (join("blocks", name, key) for name, block in blocks for key in block if block[key] is None)
    return {path: sizes[path] for path in unset if path in sizes}


def _trips(entries: Iterable[Sublayer | Stage], path: str) -> Iterator[tuple[str, Stage]]:
    for i, entry in enumerate(entries):
        if isinstance(entry, Stage):
            key = ("recur", "steps") if isinstance(entry.recur, Recur) else ("recur",)
            yield join(path, i, *(key if entry.tied else ("stack",))), entry
            yield from _trips(entry.step, join(path, i, "step"))


def _grain(config: Config, field: str, value: int) -> int:
    """Return the granularity of a size: multiples of 8 stay multiples of 8."""
    if marker(fields(type(config)).get(field), Aligned) is None:
        return 1
    return 8 if value % 8 == 0 else 2 - value % 2


def _named(name: str, value: int, paths: Sequence[str], leaves: Mapping[str, Tunable]) -> Tunable | None:
    """Return the tunable for a name in `let` that sets some of `leaves`."""
    set_ = [leaves[path] for path in paths if path in leaves]
    if not set_ or value < 1:
        return None
    # a name that is itself a width moves as widths do
    alike = [tunable for tunable in set_ if tunable.value == value]
    grain = max((tunable.grain for tunable in alike), default=1)
    grid = next((tunable.grid for tunable in alike if tunable.grid), None)
    return Tunable(name, name, value, grain, set_[0].part, grid)


def _resolved(source: Node) -> Any:
    """Return a merged tree as plain data with `let` and `${..}` resolved, without further checks."""
    assert isinstance(source.value, dict)
    resolver = Resolver(read_let(source.child("let"))[0])
    sections = {name: resolver.resolve(node, name) for name, node in source.value.items() if name != "let"}
    if resolver.faults:
        raise SpecError(resolver.faults)
    return Node(sections, source.place).plain


def _numbers(node: Node, path: Path) -> Iterator[tuple[Path, int]]:
    match node.value:
        case dict():
            for name, child in node.value.items():
                yield from _numbers(child, (*path, name))
        case list():
            for i, child in enumerate(node.value):
                yield from _numbers(child, (*path, i))
        case int() if not isinstance(node.value, bool):
            yield path, node.value


def _changed(before: Any, after: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the paths at which two trees of the same shape differ, with the values of the second."""
    if isinstance(before, dict):
        for name, child in before.items():
            yield from _changed(child, after[name], (*path, name))
    elif isinstance(before, list | tuple):
        for i, child in enumerate(before):
            yield from _changed(child, after[i], (*path, i))
    elif before != after:
        yield path, after

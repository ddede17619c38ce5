"""The operations that options add to a stage, before or after what they wrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from blocks.base.builder import Builder
from blocks.base.sublayer import SublayerPlace, View
from blocks.base.wiring import WiringConfig
from blocks.ir.graph import Loop
from blocks.ir.operation import Value
from blocks.ir.tensor_type import IDS, TensorType
from blocks.primitives.operations import Input
from blocks.primitives.random_operations import DeriveKey
from blocks.primitives.scalars import AddWeighted, Zero
from composer.language.schema.levels import Options
from composer.language.schema.spec import Stage

_UNDRAWN = (Input, Loop, DeriveKey, Zero, AddWeighted)

Hook: TypeAlias = Literal["around_loop", "around_step", "around_sublayer"]


@dataclass(frozen=True)
class Addition:
    """An operation that an option adds.

    Attributes:
        name: of its node, within the place of the hook.
        reads_input: whether it reads the input of the stage.
        sums: whether it adds its inputs up.
        outside: names of nodes, within the place of the stage, that make what it reads before the steps.
        on_demand: whether it is there only if a block asks for it, such as a norm of scores.
    """

    option: WiringConfig
    name: str
    reads_input: bool
    sums: bool
    outside: tuple[str, ...] = ()
    on_demand: bool = False


@dataclass(frozen=True)
class Additions:
    """The operations added by options of a stage at one hook, in the order in which they run."""

    before: tuple[Addition, ...]
    after: tuple[Addition, ...]


def additions(
    options: Options, stage: Stage, hook: Hook, width: int, place: SublayerPlace | None = None
) -> Additions:
    """Lower each option of a stage or entry by itself, and return the operations that it adds.

    `place` is that of the sublayer, where the hook is one of a sublayer.
    """
    before: list[Addition] = []
    after: list[Addition] = []
    for option in sorted(options.values(), key=lambda option: option.order):
        views = {
            view for each in options.values() if each != option and place for view in each.makes_views(place)
        }
        first, last = _added(option, stage, hook, width, place or SublayerPlace(), sorted(views))
        before += first
        after[:0] = last
    return Additions(tuple(before), tuple(after))


def _added(
    option: WiringConfig,
    stage: Stage,
    hook: Hook,
    width: int,
    place: SublayerPlace,
    views: Sequence[View],
) -> tuple[list[Addition], list[Addition]]:
    builders: list[Builder] = []
    known: set[str] = set()
    asked: set[str] = set()

    def lower(build: Builder, x: Value) -> Value:
        def run(x: Value) -> Value:
            known.update(build.graph)
            for view in get_args(View):
                build.score_input(build.view(view, x))
            asked.update({*build.graph} - known)
            known.update(asked)
            build.last_carried = {**build.next.carried}
            return x

        builders.append(build)
        build.sublayer = place
        with build.views({view: build.input(view, TensorType()) for view in views}):
            lowered: Value = getattr(option, hook)(build, x, run)
        return lowered

    root = Builder(width)
    root.input("tokens", IDS)
    x = root.input("x", TensorType((width,), "stream"))
    made: list[str] = []

    def steps(x: Value) -> Value:
        before = {*root.graph}
        y = root.stage("stages.0", stage.trips, stage.tied, x, lower)
        made.extend(name for name in root.graph if name not in before)
        return y

    if hook == "around_loop":
        lower(root, x)
    else:
        option.around_loop(root, x, steps)
    added: tuple[list[Addition], list[Addition]] = ([], [])
    graph = builders[0].graph
    nodes = [(name, graph.node(name)) for name in graph if not isinstance(graph.node(name).op, _UNDRAWN)]
    for name, node in nodes:
        # what reads nothing is made once for all sublayers
        if node.inputs or hook != "around_sublayer":
            reads = any(value.node == "start" for value in node.inputs)
            sums = node.op.gradients == "passed" and len(node.inputs) > 1
            added[name not in known].append(Addition(option, name, reads, sums, on_demand=name in asked))
    if hook == "around_step" and added[0]:
        drawn = (name for name in made if not isinstance(root.graph.node(name).op, _UNDRAWN))
        added[0][0] = replace(added[0][0], outside=tuple(name.removeprefix("stages.0.") for name in drawn))
    return added

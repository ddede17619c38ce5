"""Which operations the options of a stage add, and where: in front of what they wrap, or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from blocks.base.builder import Builder
from blocks.base.wiring import WiringConfig
from blocks.ir.graph import Loop
from blocks.ir.operation import Value
from blocks.ir.tensor_type import IDS, TensorType
from blocks.primitives.operations import Input
from composer.language.schema.levels import Options
from composer.language.schema.spec import Stage

Hook: TypeAlias = Literal["around_loop", "around_step", "around_sublayer"]


@dataclass(frozen=True)
class Addition:
    """An operation that an option adds.

    Attributes:
        name: of its node, within the place of the hook.
        reads_input: whether it reads the input of the stage.
        sums: whether it adds its inputs up.
    """

    option: WiringConfig
    name: str
    reads_input: bool
    sums: bool


@dataclass(frozen=True)
class Additions:
    """What the options of a stage add at one hook, in the order in which it runs."""

    before: tuple[Addition, ...]
    after: tuple[Addition, ...]


def additions(options: Options, stage: Stage, hook: Hook, width: int) -> Additions:
    """Lower each option of a stage or entry alone, around nothing, and return what it adds."""
    before: list[Addition] = []
    after: list[Addition] = []
    for option in sorted(options.values(), key=lambda option: option.order):
        first, last = _added(option, stage, hook, width)
        before += first
        after[:0] = last
    return Additions(tuple(before), tuple(after))


def _added(
    option: WiringConfig, stage: Stage, hook: Hook, width: int
) -> tuple[list[Addition], list[Addition]]:
    builders: list[Builder] = []
    known: set[str] = set()

    def lower(build: Builder, x: Value) -> Value:
        def run(x: Value) -> Value:
            known.update(build.graph)
            return x

        builders.append(build)
        lowered: Value = getattr(option, hook)(build, x, run)
        return lowered

    root = Builder(width)
    root.input("tokens", IDS)
    x = root.input("x", TensorType((width,), "stream"))
    if hook == "around_loop":
        lower(root, x)
    else:
        option.around_loop(root, x, lambda x: root.stage("stages.0", stage.trips, stage.tied, x, lower))
    found: tuple[list[Addition], list[Addition]] = ([], [])
    graph = builders[0].graph
    for name in graph:
        node = graph.node(name)
        if not isinstance(node.op, Input | Loop):
            reads = any(value.node == "start" for value in node.inputs)
            sums = node.op.gradients == "passed" and len(node.inputs) > 1
            found[name not in known].append(Addition(option, name, reads, sums))
    return found

"""Slots of a wiring option for one stage: allocated before its loop, written and read in its steps."""

from __future__ import annotations

from dataclasses import dataclass

from blocks.base.builder import Builder
from blocks.ir.operation import Value
from blocks.kernels.slots import DepthCache


@dataclass(frozen=True)
class StageSlots:
    """The slots of a stage, from within its steps; `name` must not be a valid block name."""

    build: Builder
    name: str

    @property
    def value(self) -> Value:
        """The slots."""
        outside = self.build._parent
        assert outside is not None, "slots are offered to a stage"
        return self.build._capture(self.build._slots[self.name], outside)

    @property
    def token(self) -> Value:
        """The latest order token, an input of the next write or read."""
        return self.build._token(self.name, self.build)

    def set_token(self, token: Value) -> None:
        """Make `token`, the output of a write, the latest order token."""
        self.build._tokens[self.name] = token


def offer_slots(build: Builder, name: str, cache: DepthCache) -> Value:
    """Allocate slots for the stage that is added next; see `last_token` for its result."""
    slots = build.op(name.strip("."), cache, build.tokens())
    build._offered[name], build._left[name] = slots, Value(slots.node, 1)
    return slots


def last_token(build: Builder, name: str) -> Value:
    """Return the order token of the slots after the stage that they were allocated for."""
    return build._left[name]

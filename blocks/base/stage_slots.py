"""Slots that an option keeps for one stage: made around its loop, written and read in its steps."""

from __future__ import annotations

from dataclasses import dataclass

from blocks.base.builder import Builder
from blocks.ir.operation import Value
from blocks.kernels.slots import DepthCache


@dataclass(frozen=True)
class StageSlots:
    """The slots of a stage under a name that no block can have, seen from its steps."""

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
        """The latest token of their order: what the next write or read takes."""
        return self.build._token(self.name, self.build)

    def set_token(self, token: Value) -> None:
        """Make `token`, the output of a write, the latest."""
        self.build._tokens[self.name] = token


def offer_slots(build: Builder, name: str, cache: DepthCache) -> Value:
    """Make slots for the stage that is added next; `last_token` gives what it leaves of them."""
    slots = build.op(name.strip("."), cache, build.tokens())
    build._offered[name], build._left[name] = slots, Value(slots.node, 1)
    return slots


def last_token(build: Builder, name: str) -> Value:
    """Return the latest token of the slots under a name, after the stage that they were offered to."""
    return build._left[name]

"""Drawing stages, their steps and the blocks beside the spine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from composer.draw.card import HEIGHT as CARD
from composer.draw.card import card, detail
from composer.draw.parts import Joint, Joints, Part
from composer.draw.room import (
    CARD_GAP,
    CARDS,
    SHEET,
    Room,
    badge,
    badge_width,
    head_words,
    joint_words,
    loops,
    sheets,
    slots_words,
)
from composer.draw.shapes import Box, Circle, Detail, Group, Line, Shape, Text, text_width
from composer.draw.theme import BODY, INK, PAPER, RULE, SMALL, SOFT, STAGES, hue
from composer.draw.view import Held, Mix, StageView, Use, View
from composer.language.schema.spec import used
from composer.settings.errors import listed

_HEAD = 46.0
_LINE = 20.0
_INJECT = 52.0
_ROW_GAP = 24.0
_IN, _OUT = 38.0, CARD - 38.0
_PILL = (52.0, 25.0)
_PLUS, _DOT = 9.0, 3.0
_BUS, _LANE = 34.0, 50.0
_RUNGS = 8
_LABEL = 92.0


Points: TypeAlias = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Branch:
    """Additions of options to a branch beside the spine: on the block's input and on its output.

    `sums` says whether what it returns is added to the spine.
    """

    before: tuple[Joint, ...]
    after: tuple[Joint, ...]
    sums: bool


def _pill_width(text: str) -> float:
    return max(_PILL[0], text_width(text, SMALL) + 14)


def _branch(around: Joints) -> Branch:
    """Leave out operations drawn on the spine, and the sum itself, which is drawn as a plus."""
    before = tuple(joint for joint in around.before if joint.added.option.order >= 0)
    after = [joint for joint in around.after if not _on_spine(joint)]
    sums = bool(after) and after[-1].added.sums
    return Branch(before, tuple(after[:-1] if sums else after), sums)


def _on_spine(joint: Joint) -> bool:
    return joint.added.option.order < 0 and not joint.added.sums


def _label(words: Sequence[str]) -> str:
    """Join all words, or if there is no space, the first and the number of others."""
    text = " · ".join(words)
    return text if text_width(text, SMALL) <= _LABEL else f"{words[0]} +{len(words) - 1}"


class Drawing:
    """Shapes around one spine, from top to bottom.

    Attributes:
        spine: its x.
        from_y: where its next piece begins.
    """

    def __init__(self, view: View, spine: float, card_width: float) -> None:
        self.view, self.spine, self.card_width = view, spine, card_width
        self.items: list[Shape] = []
        self.from_y = 0.0
        self.slots: dict[str, int] = {}
        self.links: dict[str, list[Points]] = {}

    def spine_to(self, y: float, head: bool = False) -> None:
        """Draw the spine down to `y`."""
        end = y - 1 if head else y
        self.items.append(Line(((self.spine, self.from_y), (self.spine, end)), INK, 2.0, head=head))
        self.from_y = y

    def pill(self, text: str, y: float, part: Part) -> float:
        """Draw a small shape on the spine; return its lower edge."""
        self.spine_to(y, head=True)
        self._pill(text, self.spine - _pill_width(text) / 2, y + _PILL[1] / 2, part)
        self.from_y = y + _PILL[1]
        return self.from_y

    def _pill(self, text: str, x: float, middle: float, part: Part) -> float:
        """Draw a pill from `x` on, around a line at `middle`; return its right edge."""
        width = _pill_width(text)
        items: list[Shape] = [
            Box(x, middle - _PILL[1] / 2, width, _PILL[1], PAPER, SOFT, _PILL[1] / 2),
            Text(x + width / 2, middle + 4.5, text, SMALL, INK, anchor="middle"),
        ]
        self.items.append(Group(detail(text, part, self.view), items))
        return x + width

    # stages

    def stage(self, stage: StageView, room: Room, y: float, depth: int) -> float:
        """Draw a stage from `y` down; return its lower edge, sheets included."""
        # where the stage's input is, in front of what makes another first state of it
        source = y - 16
        for joint in stage.loop.before:
            y = self.pill(joint.full_label, y, joint.part) + _ROW_GAP
        spine, below = self.spine, self.items
        self.items = []
        if any(joint.added.reads_input for joint in stage.step.before):
            self._dot(source)
        self.spine_to(y + 20)
        self.items.append(self._head(stage, room, spine + CARDS, y + 28))
        row = y + _HEAD + (len(room.head) - 1) * _LINE
        row = self._joints(stage, stage.step.before, row, source)
        held = self._enter(stage)
        bottom = self._step(stage, room, row, depth)
        bottom = self._joints(stage, stage.step.after, bottom + 10, source) - 10
        end = bottom + (32 if loops(stage) else 12)
        self._leave(stage, room, held)
        if loops(stage):
            self._loop(stage, room, y + 20, bottom + 12)
        self.spine_to(end)
        inside, self.items = self.items, below
        self._container(stage, room, y, end, depth)
        self.items += inside
        end += sheets(stage)
        for joint in stage.loop.after:
            end = self.pill(joint.full_label, end + _ROW_GAP - 6, joint.part)
        return end

    def _head(self, stage: StageView, room: Room, x: float, y: float) -> Group:
        blocks = listed(dict.fromkeys(used(stage.stage)), "and")
        said = Detail(stage.place, (f"{head_words(stage)}: {blocks}",))
        lines = enumerate(room.head)
        return Group(said, [Text(x, y + n * _LINE, line, BODY, INK, bold=True) for n, line in lines])

    def _container(self, stage: StageView, room: Room, y: float, end: float, depth: int) -> None:
        x, width = self.spine - room.left, room.left + room.right
        fill = STAGES[depth % len(STAGES)]
        for sheet in range(round(sheets(stage) / SHEET), 0, -1):
            self.items.append(Box(x + SHEET * sheet, y + SHEET * sheet, width, end - y, fill, RULE, 12))
        self.items.append(Box(x, y, width, end - y, fill, RULE, 12))

    def _loop(self, stage: StageView, room: Room, top: float, bottom: float) -> None:
        """Draw the way back to the first operation of the step."""
        spine, x = self.spine, self.spine - room.loop
        middle, half = (top + bottom) / 2, 14.0
        self._dot(bottom)
        self.items.append(Line(((spine, bottom), (x, bottom), (x, middle + half)), INK, 2.0, bend=12))
        self.items.append(
            Line(((x, middle - half), (x, top), (spine - 2, top)), INK, 2.0, bend=12, head=True)
        )
        width = badge_width(stage)
        self.items.append(Box(x - width / 2, middle - half, width, 2 * half, PAPER, INK, half, 1.6))
        self.items.append(Text(x, middle + 5, badge(stage), BODY, INK, bold=True, anchor="middle"))

    def _joints(self, stage: StageView, joints: Sequence[Joint], y: float, start: float) -> float:
        """Draw what options add to a step from `y` down; the stage's input comes from `start`."""
        for number, joint in enumerate(joints):
            self._joint(stage, joint, start, y + 21, self.spine + 66 + 8 * number)
            y += _INJECT
        return y

    def _joint(self, stage: StageView, joint: Joint, start: float, middle: float, x: float) -> None:
        spine, sums, option = self.spine, joint.added.sums, joint.added.option
        # one operation goes by its option, of several each goes by its own name
        all_joints = (*stage.step.before, *stage.step.after)
        several = sum(each.added.option is option for each in all_joints) > 1
        name = joint.full_label if several else option.name
        width = _pill_width(name)
        if joint.added.reads_input and joint in stage.step.before:
            reach = _PLUS if sums else width / 2
            points = ((spine, start), (x, start), (x, middle), (spine + reach + 2, middle))
            self.items.append(Line(points, INK, 1.6, bend=10, head=True))
        if sums:
            self._plus(middle)
        else:
            self.spine_to(middle - _PILL[1] / 2, head=True)
            self._pill(name, spine - width / 2, middle, joint.part)
            self.from_y = middle + _PILL[1] / 2
        lines = joint_words(joint, stage, self.view)
        for number, line in enumerate(lines):
            y = middle + 4.5 + 17 * (number - (len(lines) - 1) / 2)
            self.items.append(Text(spine + CARDS, y, line, SMALL, SOFT))

    # steps

    def _step(self, stage: StageView, room: Room, y: float, depth: int) -> float:
        """Draw the entries of a step from `y` down; return the lower edge of the last."""
        for number, entry in enumerate(stage.entries):
            y += _ROW_GAP if number else 0
            around = stage.sublayers[number]
            match entry:
                case Use():
                    y = self._around(around, y, partial(self._sublayer, entry))
                case Mix():
                    y = self._around(around, y, partial(self._parallel, entry))
                case StageView():
                    y = self.stage(entry, room.inner[number], y, depth + 1)
        return y

    def _around(self, around: Joints, y: float, draw: Callable[[Branch, float], float]) -> float:
        """Draw a sublayer with the operations on the spine around it."""
        for joint in around.before:
            if joint.added.option.order < 0:
                y = self.pill(joint.label, y, joint.part) + _ROW_GAP
        y = draw(_branch(around), y)
        for joint in around.after:
            if _on_spine(joint):
                y = self.pill(joint.label, y + 6, joint.part)
        return y

    def _sublayer(self, use: Use, branch: Branch, y: float) -> float:
        left = self.spine + CARDS
        middle, out = y + _IN, y + _OUT
        self._dot(middle)
        edge = self._enters(branch, middle)
        self.items.append(Line(((edge, middle), (left - 2, middle)), INK, head=True))
        self._card(use, left, y)
        self._returns(branch, left, out)
        if use.slots:
            self.links[use.slots].append(((left + self.card_width + 2, y + CARD / 2),))
        return y + CARD

    def _parallel(self, mix: Mix, branch: Branch, y: float) -> float:
        # a way to the slots needs room above the cards beside
        lane = any(use.slots for use in mix.uses[:-1])
        bus, top = y + 14, y + (_LANE if lane else _BUS)
        out = top + CARD + 22
        lefts = [self.spine + CARDS + n * (self.card_width + CARD_GAP) for n in range(len(mix.uses))]
        self._dot(bus)
        edge = self._enters(branch, bus)
        last = lefts[-1] + 30
        self.items.append(Line(((edge, bus), (last, bus), (last, top - 2)), INK, bend=8, head=True))
        self.items += [Line(((x + 30, bus), (x + 30, top - 2)), INK, head=True) for x in lefts[:-1]]
        label = _label([mix.combine, *(joint.label for joint in branch.after)])
        rows = (*mix.part.rows, *(row for joint in branch.after for row in joint.part.rows))
        pill = self._pill(label, self.spine + 26, out, replace(mix.part, rows=rows))
        self.items.append(Line(((last, top + CARD), (last, out), (pill + 2, out)), INK, bend=8, head=True))
        self.items += [Line(((x + 30, top + CARD), (x + 30, out)), INK) for x in lefts[:-1]]
        for x in lefts[:-1]:
            self._dot(bus, x + 30)
            self._dot(out, x + 30)
        self._joins(branch, self.spine + 26, out)
        for use, x in zip(mix.uses, lefts, strict=True):
            self._card(use, x, top)
            if use.slots:
                edge = x + self.card_width
                beside: Points = ((edge + 2, top + CARD / 2),)
                above: Points = ((edge - 26, top - 2), (edge - 26, bus + 13))
                self.links[use.slots].append(beside if x == lefts[-1] else above)
        return out + _PILL[1] / 2

    def _card(self, use: Use, x: float, y: float) -> None:
        self.items.append(card(use, self.view, x, y, self.card_width, self.slots.get(use.name, 1)))

    def _enters(self, branch: Branch, middle: float) -> float:
        """Draw the input of a sublayer, with additions by options; return the right edge."""
        if not branch.before:
            return self.spine
        x = self.spine + 26
        self.items.append(Line(((self.spine, middle), (x, middle)), INK))
        return self._pills(branch.before, x, middle)

    def _returns(self, branch: Branch, left: float, out: float) -> None:
        """Draw the return of a block's output to the spine, with additions by options."""
        if branch.after:
            x = self.spine + 26
            edge = self._pills(branch.after, x, out)
            self.items.append(Line(((left, out), (edge + 2, out)), INK, head=True))
            left = x
        self._joins(branch, left, out)

    def _joins(self, branch: Branch, left: float, out: float) -> None:
        """Draw the end of a branch on the spine: a plus where it is added, else a dot."""
        reach = _PLUS if branch.sums else _DOT
        self.items.append(Line(((left, out), (self.spine + reach + 2, out)), INK, head=True))
        if branch.sums:
            self._plus(out)
        else:
            self._dot(out)

    def _pills(self, joints: Sequence[Joint], x: float, middle: float) -> float:
        """Draw operations that follow each other as one pill; return its right edge."""
        rows = tuple(row for joint in joints for row in joint.part.rows)
        label = _label([joint.label for joint in joints])
        return self._pill(label, x, middle, replace(joints[0].part, rows=rows))

    def _dot(self, y: float, x: float | None = None) -> None:
        self.items.append(Circle(self.spine if x is None else x, y, _DOT, INK))

    def _plus(self, y: float) -> None:
        x, reach = self.spine, _PLUS - 4
        self.spine_to(y - _PLUS)
        self.items.append(Circle(x, y, _PLUS, PAPER, INK, 1.8))
        self.items.append(Line(((x - reach, y), (x + reach, y)), INK, 1.8))
        self.items.append(Line(((x, y - reach), (x, y + reach)), INK, 1.8))
        self.from_y = y + _PLUS

    # depth slots

    def _enter(self, stage: StageView) -> dict[str, tuple[int, list[Points]]]:
        """Begin the slots of a stage; return those of the same names around it."""
        names = [held.block for held in stage.held]
        outer = {name: (self.slots.get(name, 1), self.links.get(name, [])) for name in names}
        for held in stage.held:
            self.slots[held.block], self.links[held.block] = held.count, []
        return outer

    def _leave(self, stage: StageView, room: Room, outer: dict[str, tuple[int, list[Points]]]) -> None:
        """Draw the ladders that the blocks of a stage append to and read."""
        for held, middle in zip(stage.held, room.ladders, strict=True):
            self._ladder(held, self.spine + middle, self.links[held.block])
            self.slots[held.block], self.links[held.block] = outer[held.block]

    def _ladder(self, held: Held, x: float, links: list[Points]) -> None:
        """Draw slots in a column, and the connections (`links`) of blocks to them."""
        colours = hue(held.kind)
        rungs, half = min(held.count, _RUNGS), 10.0
        ys = [link[-1][1] for link in links]
        tall = max(rungs * 12.0 + 6, max(ys) - min(ys) + 30)
        top = (max(ys) + min(ys) - tall) / 2
        for link in links:
            y = link[-1][1]
            self.items.append(Line((*link, (x - half - 3, y)), PAPER, 5, bend=8))
            way = (*link, (x - half - 2, y))
            self.items.append(Line(way, colours.strong, 1.8, bend=8, head=True, tail=True))
        items: list[Shape] = [Box(x - half, top, 2 * half, tall, PAPER, colours.strong, 4, 1.6)]
        step = (tall - 6) / rungs
        for rung in range(rungs):
            y = top + 3 + step * rung + 2
            items.append(
                Box(x - half + 4, y, 2 * half - 8, step - 4, colours.middle, colours.strong, 1.5, 1.1)
            )
        for number, line in enumerate(slots_words(held)):
            items.append(Text(x, top + tall + 17 + 16 * number, line, SMALL, SOFT, anchor="middle"))
        self.items.append(Group(self._slots_detail(held), items))

    def _slots_detail(self, held: Held) -> Detail:
        lines = (
            f"{held.count} slots of {held.shape} per token: keys and values of each step",
            "each step appends one and reads those written before",
        )
        return Detail(f"depth slots of {held.block}", lines)

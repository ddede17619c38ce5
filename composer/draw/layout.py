"""Layout: a spine for the residual stream, with stages around it and blocks beside it."""

from __future__ import annotations

from dataclasses import replace

from blocks.base.wiring import Site
from composer.costs.base.units import amount, count_text
from composer.draw.card import detail, flops_words, params_words
from composer.draw.parts import Part
from composer.draw.room import CARDS, Room, most_abreast, option_words, room, sheets, widest_card
from composer.draw.shapes import Box, Group, Line, Picture, Shape, Text, text_width
from composer.draw.stages import Drawing
from composer.draw.theme import BAR, BODY, INK, NAME, PAPER, RULE, SMALL, SOFT, TITLE
from composer.draw.view import StageView, View, view
from composer.language.description.format_spec import value_words
from composer.language.schema.spec import Spec
from composer.measures.registry import MEASURES

MARGIN = 28.0
_BAR = 38.0
_GAP = 28.0
_CELL = 140.0
_NARROWEST = 3 * _CELL
_MORE = 120.0


def picture(spec: Spec) -> Picture:
    """Draw a spec."""
    return _Page(view(spec)).drawn()


def _reach(room: Room, stage: StageView) -> float:
    return room.right + sheets(stage)


class _Page:
    def __init__(self, view: View) -> None:
        self.view = view
        card = widest_card(view)
        rooms = [room(stage, view, card) for stage in view.stages]
        self.left = MARGIN
        spine = MARGIN + max(each.left for each in rooms)
        filled = spine + max(map(_reach, rooms, view.stages))
        self.right = max(filled, self._least(spine))
        # what is left over goes to the cards, so that they end where the rest does
        card += min((self.right - filled) / most_abreast(view), _MORE)
        rooms = [room(stage, view, card) for stage in view.stages]
        # all stages of the model are as wide as the page
        self.rooms = [
            replace(each, left=spine - MARGIN, right=self.right - spine - sheets(stage))
            for each, stage in zip(rooms, view.stages, strict=True)
        ]
        self.drawing = Drawing(view, spine, card)

    def _least(self, spine: float) -> float:
        """Return the right edge needed by the parts outside the stages."""
        title = text_width(self.view.spec.name, TITLE, bold=True)
        texts = (_NARROWEST, title, text_width(self._sizes(), BODY), text_width(self._note(), SMALL))
        bars = (
            CARDS + text_width(words, BODY) + 24 + text_width(self._facts(part), SMALL) + 14
            for _, words, part in self._bars()
        )
        return max(MARGIN + max(texts), spine + max(bars))

    def drawn(self) -> Picture:
        spec, draw = self.view.spec, self.drawing
        items: list[Shape] = [
            Text(self.left, MARGIN + 18, spec.name, TITLE, INK, bold=True),
            Text(self.left, MARGIN + 42, self._sizes(), BODY, SOFT),
        ]
        y = MARGIN + 78
        draw.items.append(Text(draw.spine + 12, y, "tokens", BODY, SOFT))
        draw.from_y = y - 10
        embed, head, loss = self._bars()
        y = self._bar(embed, y + 16)
        for stage, each in zip(self.view.stages, self.rooms, strict=True):
            y = draw.stage(stage, each, y + _GAP, 0)
        y = draw.pill("norm", y + _GAP - 6, self.view.norm)
        y = self._bar(head, y + _GAP - 6)
        y = self._bar(loss, y + _GAP - 6)
        y = self._totals(y + 30)
        items += draw.items
        width, height = self.right + MARGIN, y + MARGIN - 8
        items.insert(0, Box(0, 0, width, height, PAPER))
        return Picture(width, height, spec.name, self._description(), items)

    def _sizes(self) -> str:
        model = self.view.spec.model
        sizes = ("width", model.width), ("vocabulary", model.vocab), ("context", model.context)
        # norms, residuals, the loss and the head are described where they are drawn
        elsewhere = {*model.wiring(), "tie_embeddings"}
        changed = [each for each in model.changed_options().items() if each[0] not in elsewhere]
        options = [(key.replace("_", " "), value_words(value)) for key, value in changed]
        site = Site(model.width)
        spanning = (option_words(each, site) for each in model.wiring().values() if each.spans_stages())
        return " · ".join([*(f"{name} {value}" for name, value in (*sizes, *options)), *spanning])

    def _bars(self) -> tuple[tuple[str, str, Part], ...]:
        model, view = self.view.spec.model, self.view
        loss = model.wiring()["loss"]
        shared = ", tied to the embedding" if model.tie_embeddings else ""
        return (
            ("embedding", f"{model.vocab} → {model.width}", view.embed),
            ("head", f"{model.width} → {model.vocab}{shared}", view.head),
            ("loss", option_words(loss, Site(model.width)) or loss.name, view.loss),
        )

    def _facts(self, part: Part) -> str:
        facts = [params_words(part)] if part.params else []
        return " · ".join([*facts, flops_words(part, self.view)] if part.forward else facts)

    def _note(self) -> str:
        context = self.view.spec.model.context
        backward = count_text(self.view.costs.flops_per_token.backward)
        unit = f"per token at a context of {context}, over all steps and layers"
        return f"FLOPs: forward, {unit}; those of the backward pass are {backward}."

    def _bar(self, bar: tuple[str, str, Part], y: float) -> float:
        """Draw one of the model's own parts across the whole picture."""
        name, words, part = bar
        draw = self.drawing
        draw.spine_to(y, head=True)
        middle = y + _BAR / 2 + 5
        items: list[Shape] = [
            Box(self.left, y, self.right - self.left, _BAR, BAR, RULE, 8),
            Text(self.left + 14, middle, name, BODY, INK, bold=True),
            Text(draw.spine + CARDS, middle, words, BODY, SOFT),
        ]
        if facts := self._facts(part):
            items.append(Text(self.right - 14, middle, facts, SMALL, SOFT, anchor="end"))
        draw.items.append(Group(detail(name, part, self.view), items))
        draw.from_y = y + _BAR
        return y + _BAR

    def _totals(self, y: float) -> float:
        """Draw the total costs in columns."""
        items = self.drawing.items
        cells = [
            (measure.label or name, amount(name, cost))
            for name, measure in MEASURES.items()
            if (cost := measure.value(self.view.costs))
        ]
        items.append(Line(((self.left, y), (self.right, y)), RULE, 1.2))
        room = self.right - self.left
        cell = max(_CELL, *(text_width(label, SMALL) + 14 for label, _ in cells))
        columns = max(1, min(len(cells), int(room // cell)))
        rows = -(-len(cells) // columns)
        columns = -(-len(cells) // rows)
        for number, (label, value) in enumerate(cells):
            row, column = divmod(number, columns)
            x, top = self.left + column * room / columns, y + 26 + row * 50
            items.append(Text(x, top, label, SMALL, SOFT))
            items.append(Text(x, top + 21, value, NAME, INK, bold=True))
        y += 26 + rows * 50 + 2
        items.append(Text(self.left, y, self._note(), SMALL, SOFT))
        return y

    def _description(self) -> str:
        costs = self.view.costs
        stages = ", ".join(stage.place for stage in self.view.stages)
        return (
            f"{self.view.spec.name}: embedding, {stages}, norm, head and loss; "
            f"{count_text(costs.params)} parameters, "
            f"{count_text(costs.flops_per_token.forward)} FLOPs per token"
        )

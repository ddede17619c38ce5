"""The card of a block: name, type, description, sizes, parameters, FLOPs and their share."""

from __future__ import annotations

from composer.costs.base.units import count_text
from composer.draw.glyphs import WIDTH as GLYPH_WIDTH
from composer.draw.glyphs import glyph
from composer.draw.parts import Part
from composer.draw.shapes import Box, Detail, Group, Shape, Text, text_width
from composer.draw.theme import BODY, FAINT, INK, NAME, SMALL, SOFT, hue
from composer.draw.view import Use, View
from composer.language.description.format_spec import value_words

HEIGHT = 138.0
_PAD = 16.0
_FACTS = _PAD + GLYPH_WIDTH + 20
_NARROWEST = 352.0
_NAME_GAP = 20.0


def kind_words(use: Use) -> str:
    """Name a block's type, and the steps at which it runs if not all."""
    kind = use.block.type.replace("_", " ")
    return kind if use.at is None else f"{kind}, at {use.at}"


def card_lines(use: Use, width: int) -> list[str]:
    """Describe a block in at most three lines: its own description, then the remaining fields."""
    fields = use.block.canonical(width)
    lines = [line for line in use.block.summary(fields, width) if line]
    changed = use.block.model_dump(exclude_defaults=True, include={*fields})
    lines += [f"{key} {value_words(value)}" for key, value in changed.items() if key != "type"]
    return [*lines[:2], *([" · ".join(lines[2:])] if lines[2:] else [])]


def params_words(part: Part) -> str:
    """Format parameters: `55.9k parameters`."""
    return f"{count_text(part.params)} parameters" if part.params else "no parameters"


def flops_words(part: Part, view: View) -> str:
    """Format FLOPs and their share: `118k FLOPs · 39 %`."""
    if not part.forward:
        return "no FLOPs"
    percent = 100 * share(part, view)
    return f"{count_text(part.forward)} FLOPs · {percent:{'.0f' if percent >= 1 else '.1g'}} %"


def share(part: Part, view: View) -> float:
    """Return the part's share of all forward FLOPs."""
    return part.forward / (view.costs.flops_per_token.forward or 1)


def card_width(use: Use, view: View) -> float:
    """Return the width that a card needs for its text."""
    head = text_width(use.name, NAME, bold=True) + _NAME_GAP + text_width(kind_words(use), SMALL)
    facts = max((text_width(line, BODY) for line in card_lines(use, view.spec.model.width)), default=0.0)
    foot = text_width(params_words(use.part), SMALL) + 20 + text_width(flops_words(use.part, view), SMALL)
    return max(_NARROWEST, 2 * _PAD + head, _FACTS + facts + _PAD, 2 * _PAD + foot)


def card(use: Use, view: View, x: float, y: float, width: float, steps: int) -> Group:
    """Draw a block's card with its upper left corner at (x, y); `steps` as for its glyph."""
    colours = hue(use.block.type)
    items: list[Shape] = [
        Box(x, y, width, HEIGHT, colours.pale, colours.strong, 8, 1.6),
        Text(x + _PAD, y + 26, use.name, NAME, INK, bold=True),
        Text(x + width - _PAD, y + 26, kind_words(use), SMALL, SOFT, anchor="end"),
        *glyph(use, x + _PAD, y + 38, colours, steps, view.spec.model.context),
    ]
    for number, line in enumerate(card_lines(use, view.spec.model.width)):
        items.append(Text(x + _FACTS, y + 53 + 20 * number, line, BODY, INK))
    items += foot(use.part, view, x + _PAD, y + HEIGHT - 21, width - 2 * _PAD, colours.strong)
    return Group(detail(f"{use.name}: {kind_words(use)}", use.part, view), items)


def foot(part: Part, view: View, x: float, y: float, width: float, colour: str) -> list[Shape]:
    """Draw parameters and FLOPs over a thin bar of the share of all FLOPs."""
    filled = width * share(part, view)
    return [
        Text(x, y, params_words(part), SMALL, SOFT),
        Text(x + width, y, flops_words(part, view), SMALL, SOFT, anchor="end"),
        Box(x, y + 8, width, 5, FAINT, radius=2.5),
        *([Box(x, y + 8, max(filled, 5.0), 5, colour, radius=2.5)] if filled else []),
    ]


def detail(heading: str, part: Part, view: View) -> Detail:
    """List the operations of a part."""
    lines = [f"{params_words(part)}, {count_text(part.active)} of them active"] if part.params else []
    flops = f"{count_text(part.forward)} FLOPs per token forward, {count_text(part.backward)} backward"
    lines.append(f"{flops}, {100 * share(part, view):.3g} % of all")
    runs = "once" if part.executions == 1 else f"{part.executions} times"
    lines.append(f"runs {runs} per forward pass; the numbers below are of all runs")
    head = ("operation", "shape", "weights", "kernel", "FLOPs forward", "backward")
    rows = (
        (
            row.name.rpartition(".")[2],
            row.shape,
            row.weights,
            row.kernel,
            count_text(row.forward) if row.forward else "",
            count_text(row.backward) if row.backward else "",
        )
        for row in part.rows
    )
    return Detail(heading, tuple(lines), (head, *rows))

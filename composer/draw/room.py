"""The space that stages need on either side of the spine, measured before drawing."""

from __future__ import annotations

from dataclasses import dataclass

from blocks.base.wiring import Site, WiringConfig
from composer.costs.base.units import count_text
from composer.draw.card import card_width, flops_words, params_words
from composer.draw.parts import Joint
from composer.draw.shapes import text_width, wrapped
from composer.draw.theme import BODY, SMALL, TIMES
from composer.draw.view import Entry, Held, Mix, StageView, Use, View
from composer.language.description.format_spec import trips_words, value_words
from composer.language.schema.recur import Recur

CARDS = 150.0
"""From the spine to the cards."""
CARD_GAP = 22.0
SHEET = 6.0
"""How far each sheet of a stack lies behind the one before."""

_HEAD = 260.0
"""The narrowest width to which headings are broken into lines."""
_EDGE = 30.0
_NEST = 16.0
_LADDER = 68.0


@dataclass(frozen=True)
class Room:
    """The space of one stage, as distances from the spine.

    Attributes:
        left, right: to the edges of the stage, without the sheets behind it.
        loop: to the line that leads back to the first step; 0 where there is none.
        content: to the right edge of the cards and inner stages.
        head: the lines of the heading.
        ladders: to the middles of the ladders of slots.
        inner: rooms of the stages within, by their position in the step.
    """

    left: float
    right: float
    loop: float
    content: float
    head: tuple[str, ...]
    ladders: tuple[float, ...]
    inner: dict[int, Room]


def sheets(view: StageView) -> float:
    """Return how far the sheets behind a stack extend beyond it."""
    return 0.0 if view.stage.tied else SHEET * min(view.stage.trips - 1, 2)


def loops(view: StageView) -> bool:
    """Whether steps lead back to where they began."""
    return view.stage.recurs


def badge(view: StageView) -> str:
    """Format the number of steps: `x6`."""
    return f"{TIMES}{count_text(view.stage.trips)}"


def badge_width(view: StageView) -> float:
    """Return the width of the pill that holds it."""
    return text_width(badge(view), BODY, bold=True) + 14


def head_words(view: StageView) -> str:
    """Format the heading of a stage: `6 steps, shared weights, norm post`."""
    stage = view.stage
    own = "own weights" if not stage.tied else "shared weights" if stage.trips > 1 else ""
    # what stands at the beginning or end of a step has words of its own
    shown = {joint.added.option.key for joint in (*view.step.before, *view.step.after)}
    steps = stage.recur.changed_options() if isinstance(stage.recur, Recur) else {}
    # the number of steps says their range in training
    for said in ("train", "per"):
        steps.pop(said, None)
    changed = (steps | stage.changed_options()).items()
    given = stage.wiring()
    options = (
        option_words(given[key], view.site)
        if key in given and given[key].summary(view.site)
        else f"{key} {value_words(value)}"
        for key, value in changed
        if key not in shown
    )
    return ", ".join(filter(None, (trips_words(stage), own, *options)))


def option_words(option: WiringConfig, site: Site) -> str:
    """Describe an option: its words, then those of its fields whose values they do not depend on."""
    words = option.summary(site)
    optional = {
        name: each.default for name, each in type(option).model_fields.items() if not each.is_required()
    }
    changed = {name: default for name, default in optional.items() if getattr(option, name) != default}
    silent = (
        f"{name.replace('_', ' ')} {value_words(getattr(option, name))}"
        for name, default in changed.items()
        if option.model_copy(update={name: default}).summary(site) == words
    )
    return ", ".join(filter(None, (words, *silent)))


def joint_words(joint: Joint, stage: StageView, view: View) -> tuple[str, ...]:
    """Describe an option of a stage in one or two lines, with its costs if it has parameters."""
    option = joint.added.option
    first = next(each for each in (*stage.step.before, *stage.step.after) if each.added.option is option)
    words = option_words(option, stage.site) if joint is first else ""
    if joint.added.reads_input and joint in stage.step.after:
        words = "with the stage's input"
    costs = f"{params_words(joint.part)} · {flops_words(joint.part, view)}" if joint.part.params else ""
    return tuple(filter(None, (words, costs)))


def slots_words(held: Held) -> tuple[str, str]:
    """Return the caption of a ladder."""
    return held.block, f"{count_text(held.count)} {'slot' if held.count == 1 else 'slots'}"


def widest_card(view: View) -> float:
    """Return the common width of all cards, so that they align."""
    return max(card_width(use, view) for stage in view.stages for use in _uses(stage))


def most_abreast(view: View) -> int:
    """Return the largest number of cards side by side."""
    return max(map(_abreast, view.stages))


def _abreast(entry: Entry) -> int:
    match entry:
        case Use():
            return 1
        case Mix():
            return len(entry.uses)
        case StageView():
            return max(map(_abreast, entry.entries))


def _uses(stage: StageView) -> list[Use]:
    uses: list[Use] = []
    for entry in stage.entries:
        match entry:
            case Use():
                uses.append(entry)
            case Mix():
                uses += entry.uses
            case StageView():
                uses += _uses(entry)
    return uses


def room(stage: StageView, view: View, card: float) -> Room:
    """Measure a stage whose cards are `card` wide."""
    inner = {
        number: room(entry, view, card)
        for number, entry in enumerate(stage.entries)
        if isinstance(entry, StageView)
    }
    joints = (*stage.step.before, *stage.step.after)
    lines = (line for joint in joints for line in joint_words(joint, stage, view))
    content = max([0.0, *(CARDS + text_width(line, SMALL) for line in lines)])
    for number, entry in enumerate(stage.entries):
        match entry:
            case StageView():
                content = max(content, inner[number].right + sheets(entry))
            case Mix():
                branches = len(entry.uses)
                content = max(content, CARDS + branches * card + (branches - 1) * CARD_GAP)
            case Use():
                content = max(content, CARDS + card)
    right, ladders = content, []
    for held in stage.held:
        wide = max(_LADDER, *(text_width(line, SMALL) + 14 for line in slots_words(held)))
        ladders.append(right + 8 + wide / 2)
        right += wide + 8
    # the head has the whole width, above the ladders
    head = wrapped(head_words(stage), max(right - CARDS, _HEAD), BODY, bold=True)
    right = max(right, *(CARDS + text_width(line, BODY, bold=True) for line in head))
    left = max([_EDGE, *(each.left + _NEST for each in inner.values())])
    loop = 0.0
    if loops(stage):
        loop = left + 4 + badge_width(stage) / 2
        left = loop + badge_width(stage) / 2 + 10
    return Room(left, right + (10 if stage.held else _NEST), loop, content, head, tuple(ladders), inner)

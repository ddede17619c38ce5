"""Pictures: well-formed, complete, nothing clipped or overlapping, and their numbers are the costs."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from cases import ALL, CASES, DEPTH, SEQ, tree
from hypothesis import given
from hypothesis import strategies as st
from samples import samples
from strategies import make, specs

from composer.costs.base.units import count_text
from composer.costs.counting.plan import count
from composer.draw.html import html
from composer.draw.layout import picture
from composer.draw.room import head_words
from composer.draw.shapes import Box, Line, Picture, Text, text_width
from composer.draw.svg import svg
from composer.draw.theme import HUES, PLAIN, hue
from composer.draw.view import Mix, StageView, Use, View, view
from composer.language.load import load
from composer.language.schema.spec import Spec

SPECS = Path(__file__).parents[2] / "specs"
SHIPPED = sorted(path for path in SPECS.glob("*.yaml") if "search:" not in path.read_text())
SVG = "{http://www.w3.org/2000/svg}"


def texts(drawn: Picture) -> list[Text]:
    return [item for item in drawn.flat() if isinstance(item, Text)]


class Rect(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Rect) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def room(text: Text) -> Rect:
    """What a line of text covers, estimated from above."""
    width = text_width(text.text, text.size, text.bold)
    left = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    return Rect(left, text.y - 0.78 * text.size, left + width, text.y + 0.24 * text.size)


def sides(line: Line) -> list[Rect]:
    """The straight pieces of a line, as thick as they are drawn."""
    half = line.width / 2
    return [
        Rect(min(x, u) - half, min(y, v) - half, max(x, u) + half, max(y, v) + half)
        for (x, y), (u, v) in zip(line.points, line.points[1:], strict=False)
        if x == u or y == v
    ]


def within(rect: Rect, drawn: Picture) -> bool:
    return min(rect.left, rect.top) >= 0 and rect.right <= drawn.width and rect.bottom <= drawn.height


def sound(spec: Spec) -> Picture:
    """Assert what holds of every picture."""
    drawn = picture(spec)
    labels = texts(drawn)
    rects = [room(text) for text in labels]
    for rect, text in zip(rects, labels, strict=True):
        assert within(rect, drawn), text
    for (one, here), (two, there) in combinations(zip(labels, rects, strict=True), 2):
        assert not here.overlaps(there), (one, two)
    lines = [side for item in drawn.flat() if isinstance(item, Line) for side in sides(item)]
    for text, rect in zip(labels, rects, strict=True):
        assert not any(rect.overlaps(side) for side in lines), text
    for box in (item for item in drawn.flat() if isinstance(item, Box)):
        assert min(box.width, box.height) > 0
        assert within(Rect(box.x, box.y, box.x + box.width, box.y + box.height), drawn)
    names = {text.text for text in labels}
    assert {spec.name, *spec.blocks} <= names
    return drawn


def parsed(text: str) -> ElementTree.Element:
    root = ElementTree.fromstring(text)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    return root


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_spec_is_drawn(path: Path) -> None:
    drawn = sound(load(path))
    root = parsed(svg(drawn))
    assert root.tag == f"{SVG}svg"
    written = [each.text for each in root.iter(f"{SVG}text")]
    assert written == [text.text for text in texts(drawn)]


def test_a_long_heading_is_broken_into_lines_no_wider_than_the_stage() -> None:
    """Its own words would make the picture twice as wide."""
    spec = load(SPECS / "family" / "huginn.yaml")
    stage = view(spec).stages[1]
    drawn = sound(spec)
    lines = [text for text in texts(drawn) if text.bold and text.text in head_words(stage)]
    assert " ".join(text.text for text in lines) == head_words(stage)
    assert len(lines) > 1
    assert drawn.width < text_width(head_words(stage), lines[0].size, bold=True)


@pytest.mark.parametrize("name", CASES)
def test_every_block_option_and_mix_is_drawn(name: str) -> None:
    parsed(svg(sound(make(CASES[name]))))


@samples(60)
@given(specs())
def test_generated_specs_are_drawn(spec: Spec) -> None:
    parsed(svg(sound(spec)))


def test_long_names_and_large_numbers_fit() -> None:
    block = "a" + "W" * 59
    long = tree({block: SEQ}, {"recur": 10**6, "step": [block, {"parallel": [block, block]}]}, width=10)
    long |= {"name": "M" * 100, "model": {"width": 10, "vocab": 10**15, "context": 10**15}}
    sound(make(long))


def uses(result: View | StageView) -> list[Use]:
    listed: list[Use] = []
    for entry in result.stages if isinstance(result, View) else result.entries:
        match entry:
            case Use():
                listed.append(entry)
            case Mix():
                listed += entry.uses
            case _:
                listed += uses(entry)
    return listed


@samples(40)
@given(specs())
def test_the_numbers_of_the_parts_are_the_costs(spec: Spec) -> None:
    costs, counted_costs = count(spec), view(spec)
    assert counted_costs.costs.to_dict() == costs.to_dict()
    for name in spec.blocks:
        parts = [use.part for use in uses(counted_costs) if use.name == name]
        share = costs.by_block[name]
        assert sum(part.params for part in parts) == share.params
        assert sum(part.active for part in parts) == share.active_params
        assert sum(part.forward for part in parts) == pytest.approx(share.forward)
        assert sum(part.backward for part in parts) == pytest.approx(share.backward)
        assert {part.executions for part in parts} <= {row.executions for row in costs.by_operation}
    own = costs.by_block["model"]
    parts = [
        counted_costs.embed,
        counted_costs.norm,
        counted_costs.head,
        counted_costs.loss,
        *model_parts(counted_costs),
    ]
    assert sum(part.params for part in parts) == own.params
    assert sum(part.forward for part in parts) == pytest.approx(own.forward)


def model_parts(result: View | StageView) -> list:  # type: ignore[type-arg]
    """What of the stages belongs to no block: injections, norms, gates."""
    parts = []
    for entry in result.stages if isinstance(result, View) else result.entries:
        if isinstance(entry, StageView):
            joints = [entry.loop, entry.step, *entry.sublayers]
            parts += [joint.part for each in joints for joint in (*each.before, *each.after)]
            parts += model_parts(entry)
        elif isinstance(entry, Mix):
            parts.append(entry.part)
    return parts


@samples(30)
@given(specs())
def test_what_is_written_are_those_numbers(spec: Spec) -> None:
    drawn, result = picture(spec), view(spec)
    words = [text.text for text in texts(drawn)]
    for use in uses(result):
        if use.part.forward:
            percent = 100 * use.part.forward / result.costs.flops_per_token.forward
            start = f"{count_text(use.part.forward)} FLOPs · "
            shares = [
                float(word.removeprefix(start).removesuffix(" %")) for word in words if word.startswith(start)
            ]
            assert any(abs(share - percent) <= max(0.5, share / 10) for share in shares)
        assert f"{count_text(use.part.params)} parameters" in words
    for value in (result.costs.params, result.costs.active_params, result.costs.flops_per_token.forward):
        assert count_text(value) in words


def words_of(*stages: dict, blocks: dict = ALL) -> list[str]:  # type: ignore[type-arg]
    used = {name for name in blocks if any(f"'{name}'" in str(stage) for stage in stages)}
    drawn = sound(make(tree({name: blocks[name] for name in used}, *stages)))
    return [text.text for text in texts(drawn)]


def test_stages_say_how_often_they_run_and_whose_weights_they_use() -> None:
    assert {"3 steps, shared weights", "\u00d73"} <= set(words_of({"recur": 3, "step": ["ffn"]}))
    assert "3 layers, own weights" in words_of({"stack": 3, "step": ["ffn"]})
    assert "1 step" in words_of({"recur": 1, "step": ["ffn"]})
    drawn = {"steps": 3, "train": {"uniform": [2, 8]}}
    assert "3 steps (2 to 8 in training), shared weights" in words_of({"recur": drawn, "step": ["ffn"]})
    apart = words_of({"recur": drawn | {"per": "sequence"}, "step": ["ffn"]})
    assert "3 steps (2 to 8 per sequence in training), shared weights" in " ".join(apart)
    nested = words_of({"recur": 2, "step": ["seq", {"stack": 4, "step": ["ffn"]}]})
    assert {"2 steps, shared weights", "4 layers, own weights"} <= set(nested)


def test_injection_and_mixing_are_told() -> None:
    plain = words_of({"recur": 2, "step": [{"parallel": ["seq", "ffn"]}]})
    assert "sum" in plain
    assert "concat" not in plain
    assert "concat" in words_of({"recur": 2, "step": ["ffn"], "inject": "concat"})
    assert "stage's input added from step 2 on" in words_of({"recur": 2, "step": ["ffn"], "inject": "add"})
    for combine in ("mean", "gate"):
        assert combine in words_of({"recur": 2, "step": [{"parallel": ["seq", "ffn"], "combine": combine}]})


@pytest.mark.parametrize(
    ("inclusive", "words"), [("inclusive", "steps so far"), ("exclusive", "earlier steps only")]
)
def test_options_of_blocks_are_told(inclusive: str, words: str) -> None:
    blocks = {"d": {**DEPTH, "span": inclusive}, "s": {**SEQ, "window": 3, "qk_norm": True}}
    result = words_of({"recur": 5, "step": ["d", "s"]}, blocks=blocks)
    assert {words, "5 slots", "window of 3", "RoPE · QK norm", "3 heads \u00d7 6, 1 kv"} <= set(result)


def test_options_of_the_model_are_told_beside_its_sizes() -> None:
    plain = tree({"ffn": ALL["ffn"]}, {"recur": 2, "step": ["ffn"]}, norm_type="layer", positions="learned")
    words = [text.text for text in texts(sound(make(plain)))]
    assert any(word.endswith("context 8 · positions learned · norm type layer") for word in words)
    assert "190 parameters" in words  # 11 tokens and 8 positions of 10 elements


def test_a_norm_of_scores_is_drawn_where_a_block_reads_it() -> None:
    stage = {"recur": 2, "step": ["seq", "ffn"], "norm": "scores"}
    assert words_of(stage).count("norm") == words_of({**stage, "norm": "none"}).count("norm") + 1


def test_slots_are_counted_through_their_scope() -> None:
    loop = {"recur": 3, "step": [{"stack": 2, "step": ["depth", {"parallel": ["depth", "ffn"]}]}]}
    assert "12 slots" in words_of(loop)
    assert [word for word in words_of({"recur": 3, "step": ["ffn"]}) if "slot" in word] == []


def test_active_experts_are_as_many_as_the_spec_says() -> None:
    for experts, active in ((12, 2), (16, 16), (40, 5), (7, 1)):
        block = {**ALL["expert"], "experts": experts, "active": active}
        drawn = picture(make(tree({"e": block}, {"recur": 2, "step": ["e"]})))
        colours = HUES["expert_attention"]
        boxes = [
            item
            for item in drawn.flat()
            if isinstance(item, Box) and item.stroke == colours.strong and item.radius == 2
        ]
        assert len(boxes) == experts
        assert sum(box.fill == colours.strong for box in boxes) == active


def test_a_block_of_another_kind_has_a_plain_card() -> None:
    assert hue("from_elsewhere") == PLAIN
    assert PLAIN not in HUES.values()


def test_colours_differ_in_lightness() -> None:
    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    strong = sorted(lightness(each.strong) for each in HUES.values())
    assert all(after - before > 4 for before, after in pairwise(strong))


def test_what_could_be_markup_is_escaped() -> None:
    spec = load(SHIPPED[0])
    drawn = picture(spec)
    odd = Picture(drawn.width, drawn.height, '<a> & "b"\x07', "--></svg>", drawn.items)
    root = parsed(svg(odd))
    assert root.findtext(f"{SVG}title") == '<a> & "b"\ufffd'
    assert root.findtext(f"{SVG}desc") == "--></svg>"
    assert "<a>" not in html(odd)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_page_holds_the_details_of_every_operation_and_needs_nothing_else(path: Path) -> None:
    spec = load(path)
    page = html(picture(spec))
    assert page.count("<template") == page.count('class="part"')
    assert not re.search(r"""(src|href)=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)""", page)
    parsed(page[page.index("<svg") : page.index("</svg>") + 6])
    for use in uses(view(spec)):
        for row in use.part.rows:
            assert f"<td>{row.name.rpartition('.')[2]}</td>" in page
            assert f"<td>{row.kernel}</td>" in page
            assert row.weights in page


@given(st.text(max_size=40), st.text(max_size=10))
def test_longer_texts_are_wider(text: str, more: str) -> None:
    assert text_width(text + more, 10) == pytest.approx(text_width(text, 10) + text_width(more, 10))
    assert text_width(text, 10, bold=True) >= text_width(text, 10) >= 4 * len(text)


def test_the_steps_at_which_a_block_runs_are_written() -> None:
    stage = {
        "recur": 3,
        "step": ["seq", {"use": "ffn", "at": "1:"}, {"stack": 2, "step": ["ffn"], "at": "-1:"}],
    }
    words = words_of(stage)
    assert "feed forward, at 1:" in words
    assert any("at -1:" in each for each in words)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mixture-of-recursions",
            ("choose", "pick", "put back", "steps choose 100%, 67%, 33% of the tokens"),
        ),
        ("mixture-of-recursions-token", ("pick", "put on", "1 slot")),
        ("universal-transformer", ("halt", "halt update")),
        ("loopformer", ("norm · scale", "modulation")),
        ("huginn", ("concat",)),
        ("mhc", ("maps", "read", "write")),
        ("moda", ("a key and a value for seq", "11 slots")),
    ],
)
def test_operations_of_options_go_by_their_names_and_heads_are_words(
    name: str, message: tuple[str, ...]
) -> None:
    drawn = sound(load(Path(__file__).parents[2] / "specs" / "family" / f"{name}.yaml"))
    results = [text.text for text in texts(drawn)]
    assert {*message} <= {*results}
    assert not [text for text in results if "{" in text or text == "by"]

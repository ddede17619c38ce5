"""The report in a real browser: offline, without an error, every spec a click away."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import browser, installed
from fake_training import AGAIN, TWO, Luck, toy

from search.report.write import write_report
from search.run.study import run_search

pytestmark = pytest.mark.skipif(installed() is None, reason="no Chromium is installed here")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    root = tmp_path_factory.mktemp("search")
    space = toy(root, TWO, *AGAIN, "search.trials=12", "search.sampler=random", baseline="rival.yaml")
    run_search(space, root / "run", Luck())
    report = write_report(root / "run")
    with browser(installed(), tmp_path_factory.mktemp("profile")) as page:
        page.address, page.folder = report.as_uri(), root / "run"
        yield page


@pytest.fixture
def page(tab):
    tab.screen(1280, 900)
    tab.open(tab.address)
    return tab


def test_it_loads_without_an_error_and_without_any_request(page):
    assert page.run("document.title") == "Search of toy"
    assert page.faults() == []
    assert page.requests() == [page.address]
    # and could make none
    page.run("fetch('http://127.0.0.1:9/').catch(() => null)")
    assert any("Content Security Policy" in fault for fault in page.faults())


@pytest.mark.parametrize(
    "where",
    ["#front .chart a.front.finished", "#curves .chart a.front", "#finals .chart a.seed", "#all a.to"],
)
def test_a_click_on_a_point_shows_its_spec(page, where):
    assert page.run("document.getElementById('panel').hidden") is True
    page.click(f"{where} .mark" if ".chart" in where else where)
    assert page.run("document.getElementById('panel').hidden") is False
    kind, name = page.run("location.hash").removeprefix("#").split("-", 1)
    spec = Path(page.folder, f"{kind}s", name, "spec.yaml")
    assert page.run("document.getElementById('spec').textContent") == spec.read_text()
    title = page.run("document.getElementById('panel-title').textContent")
    assert name.split("-")[0] in title
    assert ("again" in title) == (kind == "final")
    assert page.faults() == []


def test_the_keyboard_opens_and_closes_a_point_and_comes_back_to_it(page):
    link = "document.querySelector('#front .chart a.front')"
    page.run(f"{link}.focus()")
    page.press("Enter")
    assert page.run("document.getElementById('panel').hidden") is False
    assert page.run("document.activeElement.id") == "panel"
    page.press("Escape")
    assert page.run("document.getElementById('panel').hidden") is True
    assert page.run(f"document.activeElement === {link}") is True
    assert page.run("location.hash") == ""


def test_an_address_with_a_trial_opens_it(page):
    page.open(f"{page.address}#trial-3")
    assert page.run("document.getElementById('panel-title').textContent") == "trial 3"


def test_the_drawing_of_a_spec_loads(page):
    page.click("#front .chart a.front .mark")
    page.run("document.querySelector('#panel img').decode()")
    assert page.run("document.querySelector('#panel img').naturalWidth") > 100


@pytest.mark.parametrize("column", ["accuracy", "flops_per_token", "seconds", "trial"])
def test_a_heading_sorts_the_table_and_turns_it(page, column):
    heads = page.run("[...document.querySelectorAll('#all th')].map(th => th.textContent)")
    place = heads.index(column) + 1
    keys = f"[...document.querySelectorAll('#all td:nth-child({place})')].map(td => td.dataset.key)"

    def value(key: str) -> float | str:
        return f"{int(key):06}" if column == "trial" and key.isdecimal() else key

    def sorted_as_told(result: list[str]) -> list[str]:
        key = value if column == "trial" else float
        return sorted(result, key=key)

    before = page.run(keys)
    page.click(f"#all th:nth-child({place}) button")
    got = page.run(keys)
    assert got == sorted_as_told(got)
    assert sorted(got) == sorted(before)
    page.click(f"#all th:nth-child({place}) button")
    assert page.run(keys) == sorted_as_told(got)[::-1]
    assert page.run(f"document.querySelector('#all th:nth-child({place})').ariaSort") == "descending"


def test_the_front_is_drawn_against_what_is_chosen(page):
    shown = "[...document.querySelectorAll('#front .alternative')].filter(e => !e.hidden)"
    assert page.run(f"{shown}.map(e => e.dataset.name)") == ["flops_per_token"]
    page.run(
        "(() => { const s = document.querySelector('#front select'); s.value = 'params';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert page.run(f"{shown}.map(e => e.dataset.name)") == ["params"]


def test_finals_are_drawn_on_one_axis_with_their_means_within_their_seeds(page):
    middles = (
        "[...document.querySelectorAll('#finals .figure:first-of-type .wide a.KIND .mark')].map(e => "
        "{ const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y]; })"
    )
    seeds, means = (page.run(middles.replace("KIND", kind)) for kind in ("seed", "front"))
    assert (len(seeds), len(means)) == (9, 3)
    assert [y for _, y in means] == sorted(y for _, y in means)
    for number, (x, _) in enumerate(means):
        row = [place for place, _ in seeds[3 * number : 3 * number + 3]]
        assert sum(row) / 3 == pytest.approx(x, abs=0.2)


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(page, width):
    page.screen(width, 800, phone=width < 500)
    assert page.run("document.documentElement.scrollWidth") <= width


def test_on_a_phone_the_texts_of_charts_are_whole_and_of_a_size_that_can_be_read(page):
    page.screen(390, 844, phone=True)
    texts = page.run(
        "[...document.querySelectorAll('.chart text')].filter(e => e.checkVisibility()).map(e => {"
        "const [own, all] = [e, e.ownerSVGElement].map(x => x.getBoundingClientRect());"
        "const size = e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize);"
        "return [e.textContent, all.right - own.right, own.left - all.left, size]; })"
    )
    assert len(texts) > 50
    assert not [each for each in texts if min(each[1:3]) < -1 or each[3] < 11]


def test_light_and_dark_follow_the_reader_and_the_button(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.screen(1280, 900, dark=True)
    dark = page.run(ground)
    assert light != dark
    page.click("#theme")
    assert page.run(ground) == light

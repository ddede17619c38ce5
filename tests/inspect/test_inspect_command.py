"""`composer inspect` on runs trained for a moment: the page, JSON, two runs side by side, bad input."""

import json
import re
import shutil
from pathlib import Path

import pytest
from browser import browser, installed

from composer.cli.main import main

SPEC = """
schema: 1
name: NAME
model: {width: 16, vocab: 16, context: 16}
BLOCKS
train: {data: {task: hop, length: 16, symbols: 4, hops: 2}, tokens: 2560, batch_tokens: 320, lr: 1e-2}
"""
BLOCKS = {
    "tied": """blocks:
  seq: {type: sequence_attention, heads: 2}
  depth: {type: depth_attention, heads: 2}
  expert: {type: expert_attention, experts: 4, active: 1, hidden: 8}
stages: [{recur: 3, step: [seq, depth, expert]}]""",
    "layers": """blocks: {seq: {type: sequence_attention, heads: 2}}
stages: [{stack: 2, step: [seq]}]""",
}
MEASURES = {"lens", "state", "depth_attention", "experts", "diversity", "knowledge", "steps"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, blocks in BLOCKS.items():
        (folder / f"{name}.yaml").write_text(SPEC.replace("NAME", name).replace("BLOCKS", blocks))
        assert main(["train", str(folder / f"{name}.yaml"), "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def here(runs, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return runs


def test_the_page_has_every_measure_and_its_definition_and_makes_no_request(here, tmp_path, capsys):
    assert main(["inspect", str(here / "tied"), "--tokens", "480"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "written to inspect.html\n"
    assert printed.err.splitlines() == [f"tied: {name}" for name in re.findall(r"tied: (\w+)", printed.err)]
    page = (tmp_path / "inspect.html").read_text()
    assert {*re.findall(r'<section id="(\w+)"', page)} == MEASURES
    assert "E (1 - (1 - k / E)^T)" in page
    assert "Left out" not in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert {*re.findall(r"https?://[^\"' ]+", page)} == {"http://www.w3.org/2000/svg"}


def test_json_has_the_numbers_of_two_runs_and_why_a_measure_is_left_out(here, tmp_path, capsys):
    paths = [str(here / name) for name in BLOCKS]
    assert main(["inspect", *paths, "--tokens", "480", "--json", "--out", "both.html"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert {*output["measures"]} == MEASURES
    first, second = output["runs"]
    assert (first["name"], first["sequences"], first["steps"]) == ("tied", 30, 3)
    assert {"k0", "k1", "k2", "all"} <= {*first["found"]["lens"]["accuracy"]}
    assert second["found"]["depth_attention"] == {"left_out": "The model has no depth attention."}
    assert "No stage is recurrent" in second["found"]["steps"]["left_out"]
    page = (tmp_path / "both.html").read_text()
    assert page.count('class="run"') == 2 * len(MEASURES)
    assert "Left out.</strong> The model has no block of type expert_attention." in page


def test_only_some_measures_are_run(here, capsys):
    assert main(["inspect", str(here / "tied"), "--tokens", "32", "--json", "--only", "state, steps"]) == 0
    assert {*json.loads(capsys.readouterr().out)["runs"][0]["found"]} == {"state", "steps"}


@pytest.mark.skipif(installed() is None, reason="no Chromium is installed here")
def test_in_a_browser_both_runs_show_the_same_choice(here, tmp_path, tmp_path_factory):
    paths = [str(here / name) for name in BLOCKS]
    assert main(["inspect", *paths, "--tokens", "32", "--only", "lens,state", "--out", "both.html"]) == 0
    address = (tmp_path / "both.html").as_uri()
    with browser(installed(), tmp_path_factory.mktemp("profile")) as page:
        page.screen(390, 800)
        page.open(address)
        assert page.faults() == []
        assert page.requests() == [address]
        shown = "[...document.querySelectorAll('#lens .alternative:not([hidden])')].map(e => e.dataset.name)"
        assert page.run(shown) == ["accuracy", "accuracy"]
        select = "document.querySelectorAll('#lens select')[1]"
        page.run(f"{select}.value = 'rank'; {select}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        page.run(f"{select}.dispatchEvent(new Event('change', {{bubbles: true}}))")
        assert page.run(shown) == ["rank", "rank"]
        # nothing is wider than a phone
        assert page.run("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "file not found: nowhere, expected a run folder or a checkpoint"),
        (["a", "b", "c"], "expected one or two runs, got 3"),
        (["tied", "--out", "page.txt"], "expected a file that ends in .html"),
        (["tied", "--only", "lense"], "expected some of lens, state, depth_attention"),
        (["tied", "--data", "elsewhere"], "--data elsewhere: expected none, for the task hop has no files"),
    ],
)
def test_bad_input_ends_in_a_sentence(here, capsys, arguments, message):
    given = [str(here / "tied") if each == "tied" else each for each in arguments]
    assert main(["inspect", *given]) != 0
    printed = " ".join(re.sub(r"[│╭╰╮╯─]", " ", capsys.readouterr().err).split())
    assert message in printed
    assert "Traceback" not in printed


PAGE = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")


def test_the_recipes_of_the_documentation_run_and_say_what_they_should(here, tmp_path, capsys):
    load, *recipes = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "runs").mkdir()
    shutil.copytree(here / "tied", tmp_path / "runs" / "first")
    names: dict[str, object] = {}
    # the run of the test has fewer steps
    exec(load.replace('r["stages.0", 3]', 'r["stages.0", 2]'), names)
    assert len(recipes) == 3
    for recipe in recipes:
        capsys.readouterr()
        exec(recipe, names)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines] == ["step 0", "step 1", "step 2"]
    accuracy = (
        (names["model"](names["tokens"]).argmax(-1) == names["targets"])[names["scored"]].double().mean()
    )
    assert lines[-1] == f"step 2: {accuracy:.3f}"


def test_the_commands_of_the_documentation_are_those_of_the_command(here, tmp_path):
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for name in ("first", "second"):
        shutil.copytree(here / "tied", tmp_path / "runs" / name)
    commands = [line.split("#")[0].split(">")[0].split()[1:] for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        quick = [] if "--only" in command else ["--only", "state"]
        assert main([*command, *quick, "--tokens", "32"]) == 0, command

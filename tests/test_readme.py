"""The documentation works as written: commands, snippets, examples, links."""

from __future__ import annotations

import re
import shlex
import shutil
from glob import glob
from pathlib import Path

import pytest
from processes import Forked

from composer.cli.main import main
from composer.language.load import is_space, read_tree, resolve_spec
from composer.language.space import Space
from search.study.load import load_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("blocks/*/README.md"),
]
QUICK = ["train.tokens=4800", "train.batch_tokens=480", "train.eval.tokens=480"]


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_readme_run(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In order, the training made short."""
    lines = [line.split("#")[0] for block in fences(README, "sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("composer ")]
    commands = [[file for part in command for file in (glob(part) or [part])] for command in commands]
    named = "new check draw show diff cost fit arms compile train eval search generate export"
    assert {command[0] for command in commands} == set(named.split())
    for command in commands:
        quick = [part for value in QUICK for part in ("--set", value)] if command[0] == "train" else []
        assert main([*command, *quick]) == 0, command
    assert "8 steps" in capsys.readouterr().out
    assert (clone / "runs" / "first" / "model.safetensors").exists()


def test_the_snippet_of_the_readme_runs(clone: Path) -> None:
    (snippet,) = fences(README, "python")
    short = snippet.replace('["train.seed=1"]', repr(["train.seed=1", *QUICK]))
    assert short != snippet
    short += "print(tuple(logits.shape), model.trainer.global_step)\n"
    process = Forked(exec, short, {"__name__": "__main__"})
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    first, *_, last = out.splitlines()
    assert int(first) > 0
    assert last == "(10, 48, 16) 10"


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+)", "".join(fences("\n".join(map(Path.read_text, PAGES)), "sh"))))
    assert {"search", "test"} <= named <= targets


def test_the_results_have_a_row_for_each_arm_that_is_measured() -> None:
    page = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    table = page.partition("<!-- results -->")[2].partition("<!-- /results -->")[0]
    measured = re.findall(r'^    "([a-z-]+(?::1)?)": \[', (ROOT / "docs/results.py").read_text(), re.M)
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(measured) >= 5
    assert all(any(arm.partition(":")[0] in row for row in rows) for arm in measured)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_of_specs_load(page: Path, clone: Path) -> None:
    for number, text in enumerate(fences(page.read_text(encoding="utf-8"), "yaml")):
        if not text.startswith(("schema:", "extends:", "#")):
            continue
        path = clone / "specs" / f"example-{number}.yaml"
        path.write_text(text)
        tree = read_tree(path)
        if tree.child("arms"):
            assert load_study(path).name
        else:
            assert (Space(tree) if is_space(tree) else resolve_spec(tree)).name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}, (
                target
            )

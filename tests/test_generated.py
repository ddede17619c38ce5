"""What is generated is current: golden files, the schema, parts of the documentation."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("blocks/*/README.md"),
]


@cache
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def wanted() -> dict[Path, str]:
    files: dict[Path, str] = generate().files()
    return files


@pytest.mark.parametrize("spec", [path.stem for path in sorted((ROOT / "specs").glob("*.yaml"))])
def test_golden_files_are_current(spec: str) -> None:
    expected = {path.name: text for path, text in wanted().items() if path.parent == GOLDEN / spec}
    assert len(expected) >= 2
    for name, text in expected.items():
        assert (GOLDEN / spec / name).read_text(encoding="utf-8") == text, "changed on purpose? make golden"


def test_no_golden_file_is_left_over() -> None:
    assert list(generate().stale()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_parts_of_the_docs_are_current(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == wanted()[page], "make golden writes them again"


def test_the_drawing_is_current() -> None:
    drawn = ROOT / "docs" / "images" / "dreamer-tiny.svg"
    assert drawn.read_text(encoding="utf-8") == wanted()[drawn], "changed on purpose? make golden"


def test_every_field_of_the_language_is_in_the_manual() -> None:
    from blocks.base.config import Config
    from blocks.find import all_wiring
    from composer.language.schema.search import SearchConfig
    from composer.language.schema.spec import Spec

    manual = (ROOT / "docs" / "spec-language.md").read_text(encoding="utf-8")
    tables = set(re.findall(r"<!-- generated: fields [\w.]+:(\w+) -->", manual))

    def configs(model: type[Config]) -> set[str]:
        """The configs that a config holds, found in the schema."""
        return set(model.model_json_schema().get("$defs", {}))

    # of which there are tables by key
    wiring = {option.__name__ for option in all_wiring()}
    found = configs(Spec) | configs(SearchConfig) | {"Spec", "SearchConfig"}
    assert found - tables - wiring == {"Objective"}
    owners = {" ".join(option.owner) for option in all_wiring()}
    assert owners == set(re.findall(r"<!-- generated: wiring ([\w ]+) -->", manual))


def test_a_part_that_is_not_current_is_made_again() -> None:
    page = "a\n<!-- generated: file specs/looped.yaml -->\nold\n<!-- end -->\nb\n"
    made = generate().refreshed(page)
    assert made.startswith("a\n<!-- generated: file specs/looped.yaml -->\n\n```yaml\n# Prelude, core, coda")
    assert made.endswith("```\n\n<!-- end -->\nb\n")
    assert "old" not in made
    assert generate().refreshed(made) == made

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


@cache
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = generate().files()


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_generated_is_current(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == FILES[file](), (
        "changed on purpose? make golden writes it again"
    )


def test_every_spec_and_space_has_golden_files() -> None:
    made = {path.parent.name for path in FILES if path.parent.parent == GOLDEN}
    assert made == {path.stem for path in (ROOT / "specs").glob("*.yaml")}


def test_no_golden_file_is_left_over() -> None:
    assert list(generate().stale()) == []


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
    result = configs(Spec) | configs(SearchConfig) | {"Spec", "SearchConfig"}
    assert result - tables - wiring == {"Objective"}
    owners = {" ".join(option.owner) for option in all_wiring()}
    assert owners == set(re.findall(r"<!-- generated: wiring ([\w ]+) -->", manual))


def test_every_option_and_block_has_its_table_of_examples() -> None:
    from blocks.find import all_wiring, block_types

    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    owners = {option.owner[0] for option in all_wiring()}
    assert owners == set(re.findall(r"<!-- generated: wiring-examples (\w+) -->", page))
    assert {"model", *block_types()} == set(re.findall(r"<!-- generated: field-examples (\w+) -->", page))


def test_a_part_that_is_not_current_is_made_again() -> None:
    page = "a\n<!-- generated: file specs/looped.yaml -->\nold\n<!-- end -->\nb\n"
    made = generate().refreshed(page)
    assert made.startswith("a\n<!-- generated: file specs/looped.yaml -->\n\n```yaml\n# Prelude, core, coda")
    assert made.endswith("```\n\n<!-- end -->\nb\n")
    assert "old" not in made
    assert generate().refreshed(made) == made

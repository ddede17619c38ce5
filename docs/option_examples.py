"""Tables of the options of the language: an example of each, its papers, and the family specs that use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from blocks.base.config import Config
from blocks.base.docstrings import docstring, field_docs
from blocks.base.wiring import WiringConfig, selected
from blocks.find import block_types, wiring_options
from composer.language.description.format_spec import value_words
from composer.language.schema.spec import Model
from composer.language.validation.describe_types import fields, words
from composer.testing.examples import option_values, other_values

FAMILY = Path(__file__).resolve().parents[1] / "specs" / "family"
_NAMED = 3
_PAPER = re.compile(r"\b(\d{4}\.\d{5})\b")
_HEAD = ["", "values", "example", "papers", "in [specs/family](../specs/family)"]


def wiring_rows(owner: str) -> list[list[str]]:
    """Return a table of the options of each key that `owner` has first."""
    rows = [["key", *_HEAD[1:]]]
    for key, options in wiring_options().items():
        for number, option in enumerate(each for each in options.values() if each.owner[0] == owner):
            used = {
                name: value
                for name, tree in _family().items()
                for value in _values(tree, key)
                if selected(options, value) == option.name
            }
            docs = [docstring(option), *field_docs(option).values()]
            example = next(iter(used.values()), option_values(option)[0])
            label = "" if number else f"`{key}`"
            rows.append([label, _option(option), _example(key, example), *_rest(docs, used)])
    return rows


def field_rows(kind: str) -> list[list[str]]:
    """Return a table of the optional fields of `model`, or of a type of blocks, that are no wiring."""
    config: type[Config] = Model if kind == "model" else block_types()[kind]
    hints, docs, others = fields(config), field_docs(config), dict(other_values(config))
    rows = [["field", *_HEAD[1:]]]
    for name, field in config.model_fields.items():
        if field.is_required() or name == "type" or name in wiring_options():
            continue
        used = {
            spec: part[name]
            for spec, tree in _family().items()
            for part in _parts(tree, kind)
            if name in part and part[name] != field.default
        }
        if used or name in others:
            likely = (
                2 * field.default if type(field.default) is float and field.default > 1 else others.get(name)
            )
            example = next(iter(used.values()), likely)
            values = _code(words(hints[name]).partition(", such as")[0])
            rows.append([f"`{name}`", values, _example(name, example), *_rest([docs[name]], used)])
    return rows


@cache
def _family() -> Mapping[str, Any]:
    return {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FAMILY.glob("*.yaml"))
    }


def _values(tree: Any, key: str) -> Iterator[Any]:
    """Yield what stands under a key anywhere in a spec."""
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    if isinstance(tree, dict) and key in tree:
        yield tree[key]
    for each in items:
        yield from _values(each, key)


def _parts(tree: Any, kind: str) -> list[Any]:
    if kind == "model":
        return [tree["model"]]
    return [block for block in tree["blocks"].values() if block["type"] == kind]


def _option(option: type[WiringConfig]) -> str:
    hints = fields(option)
    inside = [
        f"{field.alias or name}: " + words(hints[field.alias or name])
        for name, field in option.model_fields.items()
    ]
    plain = ", ".join(each.partition(", such as")[0] for each in inside)
    return f"`{{{plain}}}`" if plain else f"`{option.name}`"


def _code(text: str) -> str:
    return text.replace("|", "\\|").replace("{", "`{").replace("}", "}`")


def _example(key: str, value: Any) -> str:
    return f"`{key}: {value_words(value)}`"


def _rest(docs: list[str], used: Mapping[str, Any]) -> list[str]:
    """Return the papers that docstrings cite, and the first specs that use an option."""
    papers = dict.fromkeys(paper for text in docs for paper in _PAPER.findall(text))
    links = [f"[{name}](../specs/family/{name}.yaml)" for name in used]
    more = f" and {len(links) - _NAMED} more" if len(links) > _NAMED else ""
    return [
        ", ".join(f"[{each}](https://arxiv.org/abs/{each})" for each in papers),
        ", ".join(links[:_NAMED]) + more,
    ]

"""The JSON Schema of the language for editors: specs, spaces and files to extend.

It is made from the models and then widened: any value may be `${..}`, null or a choice, and nothing is
required that a file to extend could supply. Unknown keys stay refused.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from blocks.base.fields import Count, Natural, Positive
from composer.language.schema.search import SearchConfig
from composer.language.schema.spec import Spec

Schema: TypeAlias = dict[str, Any]

_DEFS = "#/$defs/"
_NULL: Schema = {"type": "null"}
_EXPRESSION: Schema = {"type": "string", "pattern": r"\$\{", "description": "Computed from names in `let`."}
_PLAIN = ("caps", "schema", "name")
_LIMITS: Schema = {"minItems": 2, "maxItems": 2}
_COMMON: dict[str, Any] = {
    "count": Count,
    "natural": Natural,
    "optional_count": Count | None,
    "positive": Positive,
    "switch": bool,
    "text": str,
}
_RANGES: Schema = {
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "int": {"type": "array", "items": {"type": ["integer", "string"]}, **_LIMITS},
                "step": {"type": ["integer", "string"]},
                "log": {"type": "boolean"},
            },
            "required": ["int"],
            "additionalProperties": False,
            "description": "A whole number from low to high, both included.",
        },
        {
            "type": "object",
            "properties": {
                "float": {"type": "array", "items": {"type": "number"}, **_LIMITS},
                "log": {"type": "boolean"},
            },
            "required": ["float"],
            "additionalProperties": False,
            "description": "A number from low to high.",
        },
    ]
}


def spec_schema() -> Schema:
    """Make the JSON Schema (draft 2020-12) of specs and spaces, with the blocks and tasks installed."""
    widen = _Widen()
    for name, kind in _COMMON.items():
        widen.either(TypeAdapter(kind).json_schema(), name, choices=True)
    spec = Spec.model_json_schema(by_alias=True)
    search = SearchConfig.model_json_schema(by_alias=True)
    for name, definition in spec.pop("$defs").items():
        widen.define(name, definition)
    widen.defs |= {name: _shut(definition) for name, definition in search.pop("$defs", {}).items()}
    properties = {name: widen.top(name, value) for name, value in spec["properties"].items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "attention-composer spec or space",
        "description": spec["description"],
        "type": "object",
        "properties": {
            **properties,
            "extends": {
                "description": "The file this one builds on, or a list of them, relative to this file.",
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            },
            "let": {
                "description": "Names for values, read by ${name}; + - * // and parentheses work on them.",
                "type": ["object", "null"],
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            },
            "search": {**_shut(search), "type": ["object", "null"]},
        },
        "additionalProperties": False,
        "$defs": {"range": _RANGES, **dict(sorted(widen.defs.items()))},
    }


def schema_text() -> str:
    """Write the schema as the file that is shipped."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"


class _Widen:
    """Widens the models' schemas; definitions gather in `defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}
        self.names: dict[str, str] = {}

    def top(self, name: str, schema: Schema) -> Schema:
        """Widen a key of the document; some keys cannot hold choices."""
        return self.described(schema, self.either(schema, f"top.{name}", choices=name not in _PLAIN))

    def define(self, name: str, schema: Schema) -> None:
        """Widen the definition of one config."""
        if "properties" not in schema:
            self.defs[name] = schema
            return
        choices = not name.endswith(("Caps", "Limits"))
        defined = {key: value for key, value in schema.items() if key not in ("required", "title")}
        defined["properties"] = {
            key: self.described(value, self.either(value, f"{name}.{key}", choices=choices))
            for key, value in schema["properties"].items()
        }
        # stages and entries stand in lists, which replace whole: no other file can complete them
        if name == "Stage":
            defined |= {"required": ["step"], "oneOf": [{"required": ["recur"]}, {"required": ["stack"]}]}
        elif name in ("BlockUse", "Parallel"):
            defined["required"] = ["use" if name == "BlockUse" else "parallel"]
        self.defs[name] = defined

    def described(self, schema: Schema, reference: Schema) -> Schema:
        kept = {key: schema[key] for key in ("description", "default") if key in schema}
        return kept | reference

    def either(self, schema: Schema, name: str, choices: bool) -> Schema:
        """Refer to the definition: this schema, or null, an expression, a choice among such."""
        bare = {key: value for key, value in schema.items() if key not in ("description", "default", "title")}
        text = json.dumps([bare, choices], sort_keys=True)
        if text not in self.names:
            self.names[text] = name
            reference = {"$ref": f"{_DEFS}{name}"}
            forms = [_choice(reference), {"$ref": f"{_DEFS}range"}] if choices else []
            self.defs[name] = {}
            self.defs[name] = {"anyOf": [self.strict(bare, name), _EXPRESSION, _NULL, *forms]}
        return {"$ref": f"{_DEFS}{self.names[text]}"}

    def strict(self, schema: Schema, name: str) -> Schema:
        """Widen the parts of a schema, but not the schema itself."""
        if "discriminator" in schema:
            return _tagged(schema)
        result = {key: value for key, value in schema.items() if key not in ("title", "default")}
        for key in ("anyOf", "oneOf"):
            if key in result:
                options = [self.strict(option, name) for option in result.pop(key) if option != _NULL]
                return result | ({"anyOf": options} if len(options) > 1 else options[0])
        if "items" in result:
            result["items"] = self.either(result["items"], f"{name}.item", choices=True)
        if "prefixItems" in result:
            result["prefixItems"] = [
                self.either(item, f"{name}.item", choices=True) for item in result["prefixItems"]
            ]
        for key in ("additionalProperties",):
            if isinstance(result.get(key), dict):
                result[key] = self.either(result[key], f"{name}.value", choices=True)
        if "patternProperties" in result:
            patterns = result["patternProperties"].items()
            result["patternProperties"] = {
                pattern: self.either(value, f"{name}.value", choices=True) for pattern, value in patterns
            }
            result["additionalProperties"] = False
        return result


def _tagged(schema: Schema) -> Schema:
    """Choose by tag; where the tag is missing (a file to extend has it) or a choice, any branch will do."""
    tag, mapping = schema["discriminator"]["propertyName"], schema["discriminator"]["mapping"]
    branches = [
        {"if": {"required": [tag], "properties": {tag: {"const": name}}}, "then": {"$ref": reference}}
        for name, reference in mapping.items()
    ]
    known = {"required": [tag], "properties": {tag: {"enum": list(mapping)}}}
    either = {"anyOf": [{"$ref": reference} for reference in mapping.values()]}
    return {"type": "object", "allOf": [*branches, {"if": {"not": known}, "then": either}]}


def _choice(reference: Schema) -> Schema:
    alternatives: Schema = {
        "anyOf": [
            {"type": "array", "items": reference, "minItems": 1},
            {"type": "object", "additionalProperties": reference, "minProperties": 1},
        ]
    }
    return {
        "type": "object",
        "properties": {"choice": alternatives},
        "required": ["choice"],
        "additionalProperties": False,
        "description": "In a space: one of these, by list or by name.",
    }


def _shut(schema: Schema) -> Schema:
    """Strip keys that only pydantic needs; every key is optional, since an extended file may supply it."""
    return {key: value for key, value in schema.items() if key not in ("title", "required")}

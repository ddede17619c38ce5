"""Finds the values of a spec that differ from defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocks.base.config import Config
from blocks.base.wiring import WiringConfig
from composer.language.schema.levels import Sublayer
from composer.language.schema.spec import Spec, Stage


def changed(spec: Spec, full: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `full`, a spec as plain values, that have no default or differ from it.

    What is kept is a spec that loads to an equal one.
    """
    kept = _kept(spec, full)
    kept["blocks"] = {name: _kept(block, full["blocks"][name]) for name, block in spec.blocks.items()}
    kept["stages"] = [_stage(*each) for each in zip(spec.stages, full["stages"], strict=True)]
    return kept


def _kept(config: Config, full: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        key, value = field.alias or name, getattr(config, name)
        # what tells a union apart is written though its default says it
        if key not in full or (value == field.default and key not in ("type", "task")):
            continue
        if isinstance(value, WiringConfig) and isinstance(full[key], str):
            kept[key] = full[key]
        elif isinstance(value, WiringConfig):
            kept[key] = {value.name: full[key][value.name], **_kept(value, full[key])}
        else:
            kept[key] = _kept(value, full[key]) if isinstance(value, Config) else full[key]
    return kept


def _stage(stage: Stage, full: Mapping[str, Any]) -> dict[str, Any]:
    steps = [_entry(*each) for each in zip(stage.step, full["step"], strict=True)]
    return {**_kept(stage, full), "step": steps}


def _entry(entry: Sublayer | Stage, full: Any) -> Any:
    if isinstance(entry, Stage):
        return _stage(entry, full)
    return full if isinstance(entry, str) else _kept(entry, full)

"""Identity of specs: hashes of their canonical form, derived from the fields of their configs.

Every field is part of a hash unless its config names it in `unhashed`. A field at its default is left out, so
that a field that is new leaves every known hash as it was; a default must therefore never change. Only the
fields of the first version are always included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from pydantic_core import to_jsonable_python

from blocks.base.config import BlockConfig, Config
from blocks.base.wiring import WiringConfig
from composer.language.schema.levels import Sublayer, shortest
from composer.language.schema.spec import BlockUse, Parallel, Spec, Stage

_DIGITS = 12
_TAGS = ("type", "task")
_INCLUDED = object()
"""In place of a default: the field is always included."""
_FIRST_VERSION = {
    "Model": "tie_embeddings",
    "Stage": "inject",
    "Parallel": "combine",
    "Train": "batch_tokens lr schedule weight_decay betas clip precision accumulate eval checkpoint "
    "devices strategy",
    "Schedule": "warmup stable decay",
    "Eval": "every tokens",
    "Checkpoint": "every",
    "SearchConfig": "rungs keep sampler",
    "Objective": "maximize minimize",
    "hop": "length symbols hops",
    "text": "glob field eval_fraction",
    "sequence_attention": "kv_heads head_dim rope rope_base window qk_norm",
    "depth_attention": "kv_heads head_dim rotary span",
    "expert_attention": "depth_code balance_rate",
    "feed_forward": "activation",
}
"""Fields that are included even at their defaults, by the name of their config. Complete: never add to it."""


def arch_hash(spec: Spec) -> str:
    """Hash model and stages with blocks inlined: names, units, defaults and unused blocks do not matter.

    Which uses share a block's name does, since they share its depth slots.
    """
    return _hash(architecture(spec))


def run_hash(spec: Spec) -> str:
    """Hash the architecture and how it is trained, the seed left out."""
    train = None if spec.train is None else plain(spec.train)
    return _hash({"arch": architecture(spec), "train": train})


def architecture(spec: Spec) -> dict[str, Any]:
    """Write the model and its stages with each use of a block replaced by its recipe.

    Block names become numbers in the order of first use, and each option is given once, on whatever level.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(spec.used()))}
    recipes = {
        name: {"name": number, "block": _block(spec.blocks[name], spec.model.width, numbers)}
        for name, number in numbers.items()
    }

    def entry(item: Sublayer | Stage) -> dict[str, Any]:
        match item:
            case Stage():
                return {**plain(item, without=("step",)), "step": [entry(each) for each in item.step]}
            case Parallel():
                return {
                    **plain(item, without=("parallel",)),
                    "parallel": [recipes[name] for name in item.parallel],
                }
            case BlockUse():
                return {**plain(item, without=("use",)), **recipes[item.use]}
            case _:
                return recipes[item]

    short = shortest(spec)
    fields: dict[str, Any] = plain(short, without=("blocks", "stages", "train"))
    return {**fields, "stages": [entry(stage) for stage in short.stages]}


def plain(value: Any, without: Collection[str] = ()) -> Any:
    """Return a value as JSON; of a config the fields that belong to its identity."""
    match value:
        case None | str() | int() | float():
            return value
        case WiringConfig():
            return value.plain(defaults=False)
        case Config():
            return {
                name: plain(here)
                for name, default in _hashed_fields(type(value)).items()
                if name not in without and (here := getattr(value, name)) != default
            }
        case tuple() | list():
            return [plain(each) for each in value]
        case dict():
            return {key: plain(each) for key, each in value.items()}
        case _:
            return to_jsonable_python(value)


def _block(block: BlockConfig, width: int, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the recipe of a block: its canonical fields, except what the defaults of new fields give.

    Fields that name other blocks have their numbers.
    """
    canonical = block.canonical(width)
    for name, default in _hashed_fields(type(block)).items():
        if name not in canonical:
            continue
        if isinstance(nested := getattr(block, name), Config):
            canonical[name] = nested
        elif default is not _INCLUDED:
            usual = block.model_copy(update={name: default}).canonical(width)
            if canonical[name] == usual.get(name):
                del canonical[name]
    named = {name: numbers[source] for name, source in block.sources().items()}
    return {name: plain(value) for name, value in (canonical | named).items()}


@cache
def _hashed_fields(config: type[Config]) -> Mapping[str, Any]:
    """Map each field of a config's identity to the default at which it is left out."""
    fields = config.model_fields
    tag = next((name for name in _TAGS if name in fields), None)
    kind = config.__name__ if tag is None else fields[tag].default
    always = {tag, *_FIRST_VERSION.get(kind, "").split()}
    return {
        name: _INCLUDED
        if name in always or field.is_required()
        else field.get_default(call_default_factory=True, validated_data={})
        for name, field in fields.items()
        if name not in config.unhashed
    }


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

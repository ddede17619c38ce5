"""What makes two specs the same: hashes of their canonical form."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from composer.language.schema.spec import Parallel, Spec, Stage
from composer.language.schema.wired import Wired

_DIGITS = 12


def arch_hash(spec: Spec) -> str:
    """Hash model and stages with blocks inlined: names, units, defaults and unused blocks do not matter.

    Which uses share a block's name does, since they share its depth slots.
    """
    return _hash(architecture(spec))


def run_hash(spec: Spec) -> str:
    """Hash the architecture and how it is trained, the seed left out."""
    train = None if spec.train is None else spec.train.model_dump(mode="json", exclude={"seed"})
    return _hash({"arch": architecture(spec), "train": train})


def architecture(spec: Spec) -> dict[str, Any]:
    """Write the model and its stages with each use of a block replaced by its recipe.

    Block names become numbers in the order of first use.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(spec.used()))}
    recipes = {
        name: {"name": number, "block": spec.blocks[name].canonical(spec.model.width)}
        for name, number in numbers.items()
    }

    def stage(stage: Stage) -> dict[str, Any]:
        kind = "recur" if stage.tied else "stack"
        return {kind: stage.trips, **_wiring(stage), "step": [entry(item) for item in stage.step]}

    def entry(item: str | Parallel | Stage) -> dict[str, Any]:
        match item:
            case Stage():
                return stage(item)
            case Parallel():
                return {"parallel": [recipes[name] for name in item.parallel], **_wiring(item)}
            case _:
                return recipes[item]

    model = spec.model.model_dump(exclude={*spec.model.wiring()}) | _wiring(spec.model)
    return {"model": model, "stages": [stage(item) for item in spec.stages]}


def _wiring(config: Wired) -> dict[str, Any]:
    """Write the options that are not at their defaults, and those whose defaults hashes contain."""
    defaults = {key: option.plain() for key, option in config.wiring().items() if option.hash_default}
    return defaults | config.changed_wiring()


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

"""Examples of blocks and wiring options, made from the fields of their configs. Torch-free.

Required counts are 2, and every other value of a flag, a choice or an optional count makes one more example.
A field with `examples` takes these instead.
To one that the block itself refuses another field is added; if that does not help it is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any

from blocks.base.config import BlockConfig
from blocks.base.field_values import other_values, required_values
from blocks.base.wiring import Owner, WiringConfig, acts_on_stage
from blocks.find import wiring_options
from composer.language.load import loads
from composer.settings.errors import SpecError

WIDTH = 16
Plain = dict[str, Any]


def examples(config: type[BlockConfig]) -> dict[str, Plain]:
    """Map a name to each example of a block, as plain data."""
    kind = config.model_fields["type"].default
    by_name = {kind: {"type": kind, **required_values(config)}}
    for name, value in other_values(config):
        one = {**by_name[kind], name: value}
        if _refused(config, one):
            # it may need another field
            pairs = ({**one, other: there} for other, there in other_values(config) if other != name)
            one = next((pair for pair in pairs if not _refused(config, pair)), one)
        by_name[f"{kind}, {name} {value}"] = one
    return {name: one for name, one in by_name.items() if not _refused(config, one)}


def wiring_examples(owner: Owner) -> dict[str, list[Any]]:
    """Map each key of wiring of `owner` to values as a spec writes them, the default first.

    Those that act on a stage are none of an entry.
    """
    values: dict[str, list[Any]] = {}
    for key, options in wiring_options().items():
        for option in options.values():
            if owner in option.owner and not (owner in ("use", "parallel") and acts_on_stage(option)):
                values.setdefault(key, []).extend(option_values(option))
    return values


def completed(plain: Plain) -> Plain:
    """Return a model with the option added without which it is refused; as it is where none helps.

    It is the first example of a key that the model, its last stage or that one's number of steps does not
    have yet. What no other option helps is tried with other blocks: ones that act on each token alone, or
    sequence attention.
    """
    if stands(plain):
        return plain
    others = (
        {"type": "feed_forward", "hidden": 8},
        {"type": "sequence_attention", "heads": 2, "head_dim": 4},
    )
    replaced = ({**plain, "blocks": dict.fromkeys(plain["blocks"], other)} for other in others)
    return next(filter(stands, chain(_with_one_more(plain), replaced)), plain)


def _with_one_more(plain: Plain) -> Iterator[Plain]:
    *others, last = plain["stages"]
    for key, value in _unless_given("stage", last):
        yield {**plain, "stages": [*others, {**last, key: value}]}
    for key, value in _unless_given("model", plain["model"]):
        yield {**plain, "model": {**plain["model"], key: value}}
    recur = last.get("recur")
    sampled = recur if isinstance(recur, dict) else {"steps": recur}
    for key, value in _unless_given("recur", sampled) if recur else ():
        yield {**plain, "stages": [*others, {**last, "recur": {**sampled, key: value}}]}


def _unless_given(owner: Owner, given: Plain) -> Iterator[tuple[str, Any]]:
    for key, values in wiring_examples(owner).items():
        if key not in given:
            yield from ((key, value) for value in values)


def stands(plain: Plain) -> bool:
    """Return whether a spec as plain data is accepted."""
    return _loads(json.dumps(plain))


@cache
def _loads(text: str) -> bool:
    try:
        loads(text)
    except SpecError:
        return False
    return True


def option_values(option: type[WiringConfig]) -> list[Any]:
    """Return examples of one option as a spec writes them: each value that is worth a try, of one field."""
    if not option.model_fields:
        return [option.name]
    first = required_values(option)
    main = {option.name: option.model_fields[option.name].default, **first}
    return [first or option.name, *({**main, name: value} for name, value in other_values(option))]


def _refused(config: type[BlockConfig], plain: Plain) -> bool:
    return any(config.model_validate(plain).problems(WIDTH))


def tree(plain: Plain, context: int = 8) -> Plain:
    """Return the plain data of a model of this block alone, at three steps.

    What reads steps of other loops is in a loop of two steps in each of two layers.
    """
    written = {
        "schema": 1,
        "name": "t",
        "model": {"width": WIDTH, "vocab": 13, "context": context},
        "blocks": {"b": plain},
        "stages": [{"recur": 3, "step": ["b"]}],
    }
    if stands(written):
        return written
    nested = {**written, "stages": [{"stack": 2, "step": [{"recur": 2, "step": ["b"]}]}]}
    return nested if stands(nested) else written

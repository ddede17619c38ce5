"""Hints at the intended name: similar spellings, and words of other frameworks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from blocks.base.config import Config
from composer.language.validation.aliases import NOTES, TARGETS, VALUES
from composer.settings.errors import close, listed

_WRITTEN = {
    "spec": "{}",
    "stage": "`{}` of a stage",
    "use": "`{}` next to `use`",
    "parallel": "`{}` next to `parallel`",
    "schedule": "train.schedule.{}",
    "eval": "train.eval.{}",
    "checkpoint": "train.checkpoint.{}",
}
_VALUES_OF = {"type": "blocks of type {}", "task": "train.data of task {}", "metric": "the objective {}"}
_ALMOST = 0.85


@cache
def sections() -> Mapping[str, type[Config]]:
    """Map each section of `aliases` to the config that holds its keys."""
    from blocks.find import block_types
    from composer.data.find import data_tasks
    from composer.language.schema import spec
    from composer.language.schema.caps import Caps
    from composer.language.schema.recur import Recur
    from composer.language.schema.search import SearchConfig

    own = ("Spec", "Model", "Stage", "Parallel", "Schedule", "Eval", "Checkpoint", "Train")
    kinds = {name.lower(): getattr(spec, name) for name in own} | {"use": spec.BlockUse, "recur": Recur}
    return {**kinds, "caps": Caps, "search": SearchConfig, **block_types(), **data_tasks()}


def hint_for_key(name: str, config: type[Config], known: Collection[str]) -> str:
    """Hint at what an unknown key of a config was meant to be."""
    if got := _glued(name, known):
        return got
    if _almost(name, known):
        return close(name, known)
    if own := _own(name, config, known):
        return f"did you mean {listed(own)}?"
    targets = _targets().get(_plain(name), ())
    return note(name) or _elsewhere(targets) or close(name, known) or f"known: {', '.join(known)}"


def meant(name: str, config: type[Config], known: Collection[str]) -> Collection[str]:
    """Give the keys of a config that an unknown key may stand for."""
    key = name.partition(":")[0]
    near = get_close_matches(name[:60], list(known), n=1, cutoff=_ALMOST)
    return [key] if key in known else near or _own(name, config, known) or get_close_matches(name[:60], known)


def _own(name: str, config: type[Config], known: Collection[str]) -> list[str]:
    """Give the keys of a config that another framework's word stands for."""
    here = {section for section, each in sections().items() if issubclass(config, each)}
    targets = _targets().get(_plain(name), ())
    own = [key for section, key in targets if section in here and key in known]
    # a block that has the field of another block under the same name has it under the same other names
    shared = _is_block(config) or "spec" in here
    return list(dict.fromkeys(own or [key for _, key in targets if key in known and shared]))


def hint_for_tag(name: Any, tag: str, known: Collection[str]) -> str:
    """Hint at the block type or task that was meant."""
    if _almost(name, known):
        return close(name, known)
    meant = [
        value for section, value in _targets().get(_plain(name), ()) if section == tag and value in known
    ]
    return f"did you mean {listed(meant)}?" if meant else note(str(name)) or close(name, known)


def hint_for_block(name: Any, blocks: Mapping[str, Any]) -> str:
    """Hint at the block that was meant in a step; `blocks` maps each name to its type."""
    if _almost(name, blocks):
        return close(name, blocks)
    kinds = [value for section, value in _targets().get(_plain(name), ()) if section == "type"]
    kinds = [str(name), *kinds] if name in sections() else kinds
    meant = [block for block, kind in blocks.items() if kind in kinds]
    if meant:
        return f"did you mean {listed(meant)}?"
    if kinds:
        return f"define it under blocks: {name}: {{type: {kinds[0]}, ..}}"
    return note(str(name)) or close(name, blocks)


def hint_for_metric(name: str, measured: Collection[str], costs: Collection[str]) -> str:
    """Hint at the metric or cost that was meant."""
    known = [*measured, *costs]
    if _almost(name, known):
        return close(name, known)
    meant = [value for section, value in _targets().get(_plain(name), ()) if section == "metric"]
    meant = [value for value in meant if value in known]
    if meant:
        return f"did you mean {listed(meant)}?"
    return close(name, known) or f"measured are {', '.join([*measured][:12])}; costs are {', '.join(costs)}"


def hint_for_value(value: Any, config: type[Config], key: str, allowed: Collection[str]) -> str:
    """Hint at the value that was meant, of those that a key of a config allows."""
    if _almost(value, allowed):
        return close(value, allowed)
    here = [section for section, each in sections().items() if issubclass(config, each)]
    word = _plain(str(value).lower() if isinstance(value, bool) else value)
    for section in here:
        names = {option: VALUES.get(f"{section}.{key}={option}", "").split() for option in allowed}
        if meant := [option for option in allowed if word in map(_plain, names[option])]:
            return f"did you mean {listed(meant)}?"
    return close(value, allowed)


def note(name: str) -> str:
    """Say what there is to say of a word that is no other name of a field; empty for nothing."""
    return _notes().get(_plain(name), "")


def _glued(name: str, known: Collection[str]) -> str:
    """Hint at a colon that no space follows, which YAML takes for a part of the key, and at an index."""
    if (indexed := re.fullmatch(r"(\w+)\[(\d+)\]", name)) and indexed[1] in known:
        return f"write {indexed[1]}.{indexed[2]}"
    key, colon, value = name.partition(":")
    return f"put a space after the colon: {key}: {value}" if colon and value and key in known else ""


def _elsewhere(targets: Collection[tuple[str, str]]) -> str:
    """Say where what a word means is written."""
    places: list[str] = []
    for section, key in targets:
        if section in _VALUES_OF:
            places.append(_VALUES_OF[section].format(key))
        else:
            places.append(_WRITTEN.get(section, f"{section}.{{}}").format(key))
    return f"that is {listed(places[:3])}" if places else ""


def _almost(name: Any, known: Collection[str]) -> bool:
    return bool(get_close_matches(str(name)[:60], list(known), n=1, cutoff=_ALMOST))


def _is_block(config: type[Config]) -> bool:
    from blocks.base.config import BlockConfig

    return issubclass(config, BlockConfig)


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


@cache
def _targets() -> Mapping[str, tuple[tuple[str, str], ...]]:
    targets_of: dict[str, list[tuple[str, str]]] = {}
    for target, names in TARGETS.items():
        section, _, key = target.partition(".")
        # what it is called here counts elsewhere, too
        words = names.split() if section in _VALUES_OF else [key, *names.split()]
        for word in words:
            targets_of.setdefault(_plain(word), []).append((section, key))
    return {word: tuple(dict.fromkeys(targets)) for word, targets in targets_of.items()}


@cache
def _notes() -> Mapping[str, str]:
    return {_plain(word): note for word, note in NOTES.items()}

"""Merges trees: `extends`, then `--set` overrides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from blocks.base.wiring import selected
from blocks.find import wiring_options
from composer.language.parsing.yaml12 import read
from composer.settings.errors import Fault, SpecError, shown
from composer.settings.tree import CHOICE_KEYS, Node, Place, form, join

_TAGS = ("type", "task")


def merge(below: Node, above: Node) -> Node:
    """Merge one tree over another.

    Mappings of the same kind merge key by key, anything else replaces whole, `null` deletes the key below
    it (and stays null where there is nothing to delete). Kinds differ by block `type`, data `task`, option of
    wiring or form of choice; the alternatives of a choice replace whole.
    """
    return _merge(below, above, "")


def _merge(below: Node, above: Node, key: str) -> Node:
    """Merge one value of a key over another."""
    if not (
        isinstance(below.value, dict)
        and isinstance(above.value, dict)
        and _alike(below.value, above.value, key)
    ):
        return above
    whole = form(above.value)
    merged = dict(below.value)
    for name, node in above.value.items():
        if name not in merged:
            merged[name] = node
        elif node.value is None:
            del merged[name]
        else:
            merged[name] = node if name == whole else _merge(merged[name], node, name)
    return Node(merged, above.place, above.key or below.key)


def _alike(below: dict[str, Node], above: dict[str, Node], key: str) -> bool:
    if form(below) != form(above):
        return False
    if (options := wiring_options().get(key)) and (option := selected(options, above)):
        return option in (selected(options, below), None)
    tags = ((below[tag], above[tag]) for tag in _TAGS if tag in below and tag in above)
    return all(old.plain == new.plain for old, new in tags)


def override(tree: Node, option: str) -> Node:
    """Apply one `path=value` to a tree; the value is YAML, list items are addressed by index.

    Raises:
        SpecError: no `=`, a path that leads through a scalar or beyond a list, or a value that is not YAML.
    """
    path, equals, text = option.partition("=")
    path, file = path.strip(), f"--set {option}"
    if not equals or not path:
        raise SpecError([Fault(file, 0, 0, "", "path=value, such as model.width=128", shown(option))])
    try:
        value = placed(read(text, file, option=path), Place(file))
    except SpecError as error:
        raise SpecError(replace(fault, line=0, column=0, path=path) for fault in error.faults) from None
    return _set(tree, path.split("."), value, 0)


def placed(node: Node, place: Place) -> Node:
    """Return the same tree with every place replaced by one."""
    value: Any = node.value
    if isinstance(value, dict):
        value = {name: placed(child, place) for name, child in value.items()}
    elif isinstance(value, list):
        value = [placed(child, place) for child in value]
    copy = Node(value, place, place)
    copy.text = node.text
    return copy


def _set(tree: Node, steps: list[str], value: Node, depth: int) -> Node:
    above = steps[depth - 1] if depth else ""
    if depth == len(steps):
        return _merge(tree, value, above)
    step, path, place = steps[depth], join(*steps[: depth + 1]), value.place
    if isinstance(tree.value, list):
        count = len(tree.value)
        if not (step.isascii() and step.isdigit() and len(step) < 9 and int(step) < count):
            expected = f"an item from 0 to {count - 1}" if count else "no items of an empty list"
            raise SpecError([Fault(*place, path, expected, shown(step))])
        items = list(tree.value)
        items[int(step)] = _set(items[int(step)], steps, value, depth + 1)
        return Node(items, tree.place, tree.key)
    if not isinstance(tree.value, dict):
        raise SpecError([Fault(*place, join(*steps[:depth]), "a mapping or list", shown(tree.value))])
    if not step:
        raise SpecError([Fault(*place, path, "a name between dots", "nothing")])
    if depth < len(steps) - 1 and step in tree.value and tree.value[step].value is not None:
        below = _set(tree.value[step], steps, value, depth + 1)
        return Node({**tree.value, step: below}, tree.place, tree.key)
    layer = value
    for name in reversed(steps[depth + 1 :]):
        layer = Node({name: layer}, place, place)
    if step not in CHOICE_KEYS and form(tree.value):
        return Node({**tree.value, step: layer}, tree.place, tree.key)
    return _merge(tree, Node({step: layer}, tree.place, tree.key), above)

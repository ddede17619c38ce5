"""Fills in values that a file may leave out because another value of the spec is their default."""

from __future__ import annotations

from functools import cache

from pydantic import TypeAdapter, ValidationError

from blocks.base.fields import Count
from composer.data.find import data_task
from composer.language.parsing.resolve import Resolver
from composer.settings.tree import Node
from composer.settings.types import DefaultsTo


def fill_in(tree: Node, resolver: Resolver) -> Node:
    """Return a resolved tree whose `train.data` has the values it takes from elsewhere, such as its length.

    Where the other value is not there or not valid, the key holds null, and no fault is reported for it.
    """
    train = tree.child("train")
    data = train.child("data") if train else None
    if train is None or data is None or not isinstance(data.value, dict):
        return tree
    assert isinstance(tree.value, dict)
    assert isinstance(train.value, dict)
    filled_in = dict(data.value)
    sources = _sources(data).items()
    missing = {
        name: source for name, source in sources if name not in filled_in or filled_in[name].value is None
    }
    if not missing:
        return tree
    for name, source in missing.items():
        node: Node | None = tree
        for step in source.split("."):
            node = node.child(step) if node else None
        if node and _is_count(node.value):
            filled_in[name] = Node(node.value, node.place, data.key, source)
        else:
            filled_in[name] = Node(None, data.place, data.key)
            resolver.broken.append(f"train.data.{name}")
    filled = Node({**train.value, "data": Node(filled_in, data.place, data.key)}, train.place, train.key)
    return Node({**tree.value, "train": filled}, tree.place, tree.key)


def _sources(data: Node) -> dict[str, str]:
    """Map the fields of a task that have a default elsewhere to its path."""
    task = data.child("task")
    config = data_task(task.value) if task and isinstance(task.value, str) else None
    fields = config.model_fields if config else {}
    return {
        name: source
        for name, field in fields.items()
        if (source := next((item for item in field.metadata if isinstance(item, DefaultsTo)), None))
    }


@cache
def _counts() -> TypeAdapter[int]:
    return TypeAdapter(Count)


def _is_count(value: object) -> bool:
    try:
        _counts().validate_python(value)
    except ValidationError:
        return False
    return True

"""From a resolved tree to a config, or to every fault in it with its place and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from blocks.core.config import Config
from composer.spec.errors import Fault, close, shown
from composer.spec.models import BlockName, Found
from composer.spec.tree import Node, join

C = TypeVar("C", bound=Config)


def build(config: type[C], tree: Node, path: str = "") -> C | list[Fault]:
    """Validate a tree against a config class; `path` is where the tree stands in its file."""
    try:
        return config.model_validate(tree.plain)
    except ValidationError as error:
        details = error.errors(include_url=False)
        inside = {detail["loc"][:n] for detail in details for n in range(len(detail["loc"]))}
        # a list whose items failed is also called too short
        real = [d for d in details if not (d["type"] == "too_short" and d["loc"] in inside)]
        strange = [d["loc"] for d in real if d["type"] == "extra_forbidden"]
        # a misspelt key is one mistake, not also a missing one
        real = [d for d in real if not (d["type"] == "missing" and _misspelt(d["loc"], strange))]
        found = (_translate(config, tree, path, detail) for detail in real)
        return list({(fault.path, fault.line): fault for fault in found}.values())


def _misspelt(missing: tuple[Any, ...], strange: list[tuple[Any, ...]]) -> bool:
    return any(loc[:-1] == missing[:-1] and close(missing[-1], [str(loc[-1])]) for loc in strange)


def _translate(config: type[Config], tree: Node, path: str, detail: Mapping[str, Any]) -> Fault:
    from composer.spec.words import keys, quantity, step_into, words

    hint: Any = config
    node, steps, kind = tree, list(detail["loc"]), detail["type"]
    while steps and (next_hint := step_into(hint, steps[0])) is not None:
        step, before = steps.pop(0), hint
        hint, written = next_hint
        if not written:
            continue
        child = node.child(step)
        if child is None and isinstance(step, int):
            hint = before
            break
        path = join(path, step)
        if child is None:
            parent = node.key or node.place
            return Fault(*parent, path, words(hint), "nothing", "the key is missing")
        node = child
    match kind:
        case "extra_forbidden":
            name, known = str(steps[0]), keys(hint)
            near = close(name, known) or f"known: {', '.join(known)}"
            return (node.child(name) or node).fault(join(path, name), "a known key", name, near, key=True)
        case "union_tag_invalid" | "union_tag_not_found":
            return _untagged(hint, node, path, detail)
        case "expected":
            return node.fault(path, detail["ctx"]["expected"], detail["ctx"]["got"])
        case "less_than_equal" if quantity(hint):
            return node.fault(path, f"at most {detail['ctx']['le']:g}", shown(node.plain))
        case "value_error" | "assertion_error" if not quantity(hint):
            return node.fault(path, str(detail["ctx"]["error"]), shown(node.plain))
    if steps[-1:] == ["[key]"]:
        return node.fault(path, words(BlockName), shown(path.rpartition(".")[2]), key=True)
    got = str(len(node.plain)) if kind == "too_short" and node.plain else shown(node.plain)
    allowed = detail["ctx"]["expected"].replace("'", " ").split() if kind == "literal_error" else []
    return node.fault(path, words(hint), got, close(node.plain, allowed))


def _untagged(hint: Any, node: Node, path: str, detail: Mapping[str, Any]) -> Fault:
    from composer.spec.words import words

    found = next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Found)), None)
    if found is None or not isinstance(node.value, dict):
        return node.fault(path, words(hint), shown(node.plain))
    names = sorted(found.find())
    expected = f"one of {', '.join(names)}"
    tag = node.value.get(found.tag)
    if tag is None:
        return node.fault(join(path, found.tag), expected, "nothing", "the key is missing", key=True)
    return tag.fault(join(path, found.tag), expected, shown(tag.plain), close(tag.plain, names))

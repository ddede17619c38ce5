"""Faults of a tree that pydantic refused: each error with its place and a description."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.wiring import WiringConfig
from blocks.find import wiring_options
from composer.language.schema.spec import BlockName, BlockUse, Parallel, Stage
from composer.language.schema.unions import DiscoveredUnion, WiringUnion
from composer.language.validation.hints import hint_for_key, hint_for_tag, hint_for_value, meant, note
from composer.language.validation.partial import conflicts, partial_at
from composer.language.validation.value_hints import hint_for_written
from composer.settings.errors import Fault, close, shown
from composer.settings.tree import Node, join

_MOST = 200


def faults_of(
    error: ValidationError, config: type[Config], tree: Node, path: str, broken: Collection[str]
) -> list[Fault]:
    """Return the faults of a tree that is no `config`; `path` and `broken` are as in `validate.build`."""
    details = error.errors(include_url=False)
    too_many = []
    if len(details) > _MOST:
        got = f"{len(details)} faults, of which these are the first"
        too_many, details = [tree.fault(path, f"at most {_MOST} faults", got)], details[:_MOST]
    inside = {detail["loc"][:n] for detail in details for n in range(len(detail["loc"]))}
    # a list whose items failed is also called too short
    real = [d for d in details if not (d["type"] == "too_short" and d["loc"] in inside)]
    # a misspelt key is one mistake, not also a missing one
    real = [d for d in real if not (d["type"] == "missing" and _misspelt(config, tree, d["loc"]))]
    wholes = _wholes(config, tree, path, [detail["loc"] for detail in details], broken)
    by_place: dict[tuple[str, int], Fault] = {}
    for detail in real:
        if _is_whole(config, tree, path, detail, wholes):
            continue
        fault = _translate(config, tree, path, detail)
        by_place[fault.path, fault.line] = fault
    return [*too_many, *by_place.values(), *(fault for faults in wholes.values() for fault in faults)]


def _wholes(
    config: type[Config],
    tree: Node,
    path: str,
    locations: Iterable[tuple[Any, ...]],
    broken: Collection[str],
) -> dict[str, list[Fault]]:
    """Run the checks of whole configs that pydantic skips where a field is wrong, or stops at the first.

    Maps the path of each config on the way to an error to its faults.
    """
    by_place: dict[str, list[Fault]] = {}
    for location in locations:
        for kind, node, here in _configs(config, tree, path, location):
            if here in by_place or not isinstance(node.value, dict):
                continue
            whole = partial_at(kind, node, here, broken)
            assert whole is not None
            by_place[here] = [_conflict(node, here, error) for error in conflicts(whole)]
    return by_place


def _configs(
    hint: Any, node: Node, path: str, location: tuple[Any, ...]
) -> Iterator[tuple[type[Config], Node, str]]:
    """Yield the configs on the way to the location of an error, with their nodes and paths."""
    from composer.language.validation.describe_types import config_of, step_into

    for step in (*location, None):
        if kind := config_of(hint, node.plain):
            yield kind, node, path
        if step is None or (deeper := step_into(hint, step)) is None:
            return
        hint, written = deeper
        if written:
            child = node.child(step)
            if child is None:
                return
            node, path = child, join(path, step)


def _conflict(node: Node, path: str, error: PydanticCustomError | ValueError | AssertionError) -> Fault:
    context = error.context if isinstance(error, PydanticCustomError) else None
    if context is None or "expected" not in context:
        return node.fault(path, str(error), shown(node.plain))
    return node.fault(path, context["expected"], context["got"], context.get("hint", ""))


def _is_whole(
    config: type[Config], tree: Node, path: str, detail: Mapping[str, Any], wholes: Mapping[str, list[Fault]]
) -> bool:
    """Whether an error is one of a check of a whole config, which `wholes` tells."""
    if detail["type"] not in ("expected", "value_error", "assertion_error"):
        return False
    *_, (_, _, here) = [(None, None, None), *_configs(config, tree, path, detail["loc"])]
    return here is not None and here == _place(config, tree, path, detail["loc"]) and here in wholes


def _place(hint: Any, node: Node, path: str, location: tuple[Any, ...]) -> str:
    """Write the path of the location of an error."""
    from composer.language.validation.describe_types import step_into

    for step in location:
        deeper = step_into(hint, step)
        if deeper is None:
            return join(path, step)
        hint, written = deeper
        path = join(path, step) if written else path
    return path


def _misspelt(config: type[Config], tree: Node, missing: tuple[Any, ...]) -> bool:
    """Whether an unknown key beside a missing one may stand for it."""
    from composer.language.validation.describe_types import keys

    nodes = [
        each
        for each in _configs(config, tree, "", missing[:-1])
        if each[2] == _place(config, tree, "", missing[:-1])
    ]
    if not nodes:
        return False
    kind, node, _ = nodes[-1]
    known = keys(kind)
    strange = [name for name in node.plain if name not in known]
    return any(missing[-1] in meant(name, kind, known) for name in strange)


def _translate(config: type[Config], tree: Node, path: str, detail: Mapping[str, Any]) -> Fault:
    from composer.language.validation.describe_types import config_of, keys, quantity, step_into, words

    hint: Any = config
    owner: type[Config] | None = None
    key, direct = "", False
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
        if child is None and isinstance(node.value, str):  # the name of an option that needs fields
            return node.fault(path, f"{{{step}: ..}}", shown(node.plain), f"{step} is {words(hint)}")
        path = join(path, step)
        if child is None:
            parent = node.key or node.place
            return Fault(*parent, path, words(hint), "nothing", "the key is missing")
        inside = config_of(before, node.plain)
        owner, key, direct = (inside, str(step), True) if inside else (owner, key, False)
        node = child
    match kind:
        case "extra_forbidden":
            name, known = str(steps[0]), keys(hint)
            kept = config_of(hint, node.plain)
            near = _excluded(kept, name) or hint_for_key(name, kept, known) if kept else close(name, known)
            return (node.child(name) or node).fault(join(path, name), "a known key", name, near, key=True)
        case "union_tag_invalid" | "union_tag_not_found":
            if (union := _union(hint)) and isinstance(union, WiringUnion) and owner is not None:
                got = next(iter(node.plain), "") if isinstance(node.plain, Mapping) else node.plain
                near = (
                    hint_for_value(got, owner, key, [*union.options]) or note(str(got)) or _only(union, got)
                )
                return node.fault(path, union.describe(), shown(node.plain), near)
            return _untagged(hint, node, path, detail)
        case "expected":
            context = detail["ctx"]
            return node.fault(path, context["expected"], context["got"], context.get("hint", ""))
        case "less_than_equal" if quantity(hint):
            return node.fault(path, f"at most {detail['ctx']['le']:g}", shown(node.plain))
        case "value_error" | "assertion_error" if not quantity(hint):
            return node.fault(path, str(detail["ctx"]["error"]), shown(node.plain))
    if steps[-1:] == ["[key]"]:
        return node.fault(path, words(BlockName), shown(path.rpartition(".")[2]), key=True)
    got = str(len(node.plain)) if kind == "too_short" and node.plain else shown(node.plain)
    expected = words(hint)
    near = hint_for_written(node, expected, direct and owner is not None and _has_default(owner, key))
    if kind == "literal_error" and owner is not None:
        allowed = detail["ctx"]["expected"].replace("'", " ").replace(",", " ").split()
        near = hint_for_value(node.plain, owner, key, [each for each in allowed if each != "or"])
    return node.fault(path, expected, got, near)


def _only(union: WiringUnion, got: Any) -> str:
    """Say how to write a number where one option alone has fields."""
    names = [name for name, option in union.options.items() if name in option.model_fields]
    number = isinstance(got, int | float) and not isinstance(got, bool)
    return f"write {{{names[0]}: {shown(got)}}}" if number and len(names) == 1 else ""


def _excluded(config: type[Config], name: str) -> str:
    """Say that a key stands beside another that it excludes; "" where it does not."""
    if issubclass(config, BlockUse | Parallel) and name in ("use", "parallel", "recur", "stack"):
        return "an entry is either `use`, `parallel`, `recur` or `stack`"
    if issubclass(config, Stage) and name in ("use", "parallel"):
        return f"it is an entry of a step: step: [{{{name}: ..}}]"
    if issubclass(config, WiringConfig) and name in (options := wiring_options()[config.key]):
        return f"{config.key} takes one of {config.name} and {name}" if options[name].model_fields else ""
    return ""


def _has_default(config: type[Config], key: str) -> bool:
    fields = {field.alias or name: field for name, field in config.model_fields.items()}
    return key in fields and not fields[key].is_required()


def _union(hint: Any) -> DiscoveredUnion[Any] | None:
    metadata = getattr(hint, "__metadata__", ())
    return next((item for item in metadata if isinstance(item, DiscoveredUnion)), None)


def _unlike_an_entry(value: Mapping[str, Node]) -> str:
    """Say how a step writes a block that stands there with its options, or as under `blocks`."""
    if "type" in value:
        return "a block is defined under blocks: and named here"
    if len(value) != 1:
        return ""
    name, inside = next(iter(value.items()))
    if not isinstance(inside.value, dict | None):
        return ""
    options = "".join(f", {key}: .." for key in [*(inside.value or {})][:3])
    return f"options stand beside the name: {{use: {name}{options}}}"


def _untagged(hint: Any, node: Node, path: str, detail: Mapping[str, Any]) -> Fault:
    from composer.language.validation.describe_types import words

    union = _union(hint)
    if union is None or not isinstance(node.value, dict):
        near = ""
        if isinstance(node.value, dict):
            near = _unlike_an_entry(node.value)
            near = near or next((hint_for_key(key, Stage, [*Stage.model_fields]) for key in node.value), "")
        return node.fault(path, words(hint), shown(node.plain), near or hint_for_written(node, words(hint)))
    names = sorted(union.find())
    expected = f"one of {', '.join(names)}"
    tag = node.value.get(union.tag)
    if tag is None:
        return node.fault(join(path, union.tag), expected, "nothing", "the key is missing", key=True)
    near = hint_for_tag(tag.plain, union.tag, names)
    return tag.fault(join(path, union.tag), expected, shown(tag.plain), near)

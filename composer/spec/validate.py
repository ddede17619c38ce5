"""From a resolved tree to a `Spec`, or to every fault in it with its place and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from blocks.core.config import Config, Problem
from composer.spec.errors import Fault, close, shown
from composer.spec.models import BlockName, Found, Parallel, Spec, Stage
from composer.spec.tree import Node, fault_at, join

C = TypeVar("C", bound=Config)

_STEPS = 1_000_000


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


def semantic(spec: Spec, tree: Node) -> list[Fault]:
    """Check what types cannot say: names, blocks against the width, data against the model, batches."""
    checks = (undefined, _unused, _steps, _blocks, _caps, _train)
    return [fault for check in checks for fault in check(spec, tree)]


def undefined(spec: Spec, tree: Node) -> Iterator[Fault]:
    """Find the names in stages that no block has."""
    if not set(spec.used()) <= spec.blocks.keys():
        for i, stage in enumerate(spec.stages):
            yield from _undefined(spec, stage, tree, ("stages", i))


def _unused(spec: Spec, tree: Node) -> Iterator[Fault]:
    used = set(spec.used())
    for name in spec.blocks:
        if name not in used:
            yield fault_at(tree, ("blocks", name), "a block that some stage uses", "an unused one", key=True)


def _undefined(spec: Spec, stage: Stage, tree: Node, path: tuple[str | int, ...]) -> Iterator[Fault]:
    for i, entry in enumerate(stage.step):
        here = (*path, "step", i)
        if isinstance(entry, Stage):
            yield from _undefined(spec, entry, tree, here)
            continue
        branches = (
            {(*here, "parallel", j): name for j, name in enumerate(entry.parallel)}
            if isinstance(entry, Parallel)
            else {here: entry}
        )
        for place, name in branches.items():
            if name not in spec.blocks:
                known = f"one of {', '.join(spec.blocks)}" if spec.blocks else "a block; there are none"
                yield fault_at(tree, place, known, shown(name), close(name, spec.blocks))


def _steps(spec: Spec, tree: Node) -> Iterator[Fault]:
    for i, stage in enumerate(spec.stages):
        if (steps := _most_steps(stage)) > _STEPS:
            yield fault_at(
                tree, ("stages", i), f"at most {_STEPS} steps, nested ones multiplied", shown(steps)
            )


def _most_steps(stage: Stage) -> int:
    return stage.trips * max(
        (_most_steps(entry) for entry in stage.step if isinstance(entry, Stage)), default=1
    )


def _blocks(spec: Spec, tree: Node) -> Iterator[Fault]:
    for name, block in spec.blocks.items():
        for problem in block.problems(spec.model.width):
            yield problem_at(tree, ("blocks", name), problem)


def _caps(spec: Spec, tree: Node) -> Iterator[Fault]:
    if spec.caps.train_flops is not None and spec.train is None:
        yield fault_at(
            tree, ("caps", "train_flops"), "no such cap without train", shown(spec.caps.train_flops)
        )


def _train(spec: Spec, tree: Node) -> Iterator[Fault]:
    train = spec.train
    if train is None:
        return
    for problem in train.data.problems(spec.model):
        yield problem_at(tree, ("train", "data"), problem)
    if train.batch_sequences < 1:
        yield fault_at(
            tree,
            ("train", "batch_tokens"),
            f"room for a sequence of {train.length} tokens",
            shown(train.batch_tokens),
        )
    elif train.batch_sequences % train.accumulate:
        expected = f"a divisor of the {train.batch_sequences} sequences of a batch"
        yield fault_at(tree, ("train", "accumulate"), expected, shown(train.accumulate))


def problem_at(tree: Node, path: tuple[str | int, ...], problem: Problem) -> Fault:
    """Give a config's own problem its place."""
    steps = problem.key.split(".") if problem.key else []
    return fault_at(tree, (*path, *steps), problem.expected, shown(problem.got), problem.hint)

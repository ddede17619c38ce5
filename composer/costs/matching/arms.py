"""The arms of a comparison: baselines for a depth-recurrent spec at equal costs.

Each arm is derived from the spec's structure, then matched to its parameters, FLOPs and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from blocks.find import all_wiring
from blocks.ir.graph import fresh
from blocks.wiring.loss import Loss
from blocks.wiring.train import TrainedSteps
from composer.costs.fitting.fit import made
from composer.costs.fitting.tunables import Tree
from composer.costs.matching.match import Match, match
from composer.language.description.show import document
from composer.language.schema.recur import Recur
from composer.language.schema.shape_bounds import ShapeBounds
from composer.language.schema.spec import BlockUse, Spec
from composer.language.schema.steps import all_stages
from composer.measures.registry import MAIN
from composer.settings.errors import SpecError

Blocks: TypeAlias = dict[str, dict[str, Any]]
Entry: TypeAlias = Any

_DEPTH, _SEQUENCE, _DENSE = "depth_attention", "sequence_attention", "feed_forward"
# of a block of each kind of experts, the feed-forward layer of the neurons that a token uses
_DENSE_TWIN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "expert_attention": lambda block: {
        "hidden": block["hidden"] * (block["active"] + block["shared"]),
        "activation": block["activation"],
    },
    "product_key_experts": lambda block: {"hidden": block["heads"] * block["active"], "activation": "gelu"},
}
_DENSE_GIVES_UP = (("params",), ("params", "train_memory"))
# prelude and coda have two layers each where that leaves a core of half the steps
_LAYERS = 2


@dataclass(frozen=True)
class Arm:
    """One arm, matched as well as it can be.

    Attributes:
        about: a description.
        optional: whether it is a dense twin, which cannot match all costs.
    """

    name: str
    about: str
    optional: bool
    match: Match

    @property
    def usable(self) -> bool:
        """Whether it is matched, or is a dense arm that misses only costs that dense layers cannot match."""
        off = {residual.measure for residual in self.match.residuals if not residual.holds}
        return not off or (self.optional and off <= set(_DENSE_GIVES_UP[-1]))


def arms(spec: Spec, on: Sequence[str] = MAIN, bounds: ShapeBounds | None = None) -> list[Arm]:
    """Derive and match the arms of a spec; see `derived`.

    Raises:
        SpecError: the spec has no recurrent stage or no `train` section.
    """
    return [matched(name, about, arm, spec, on, bounds) for name, about, arm in derived(spec)]


def matched(
    name: str, about: str, arm: Spec, spec: Spec, on: Sequence[str], bounds: ShapeBounds | None
) -> Arm:
    """Match one derived arm; a dense arm is not held to budgets that dense layers cannot meet."""
    optional = name.endswith("-dense")
    # a dense weight takes FLOPs at every use: the parameters of experts cannot be had at their FLOPs, and
    # memory falls with the parameters
    give_up = [[each for each in given if each in on] for given in _DENSE_GIVES_UP] if optional else None
    solution = match(arm, spec, on, bounds=bounds, give_up=give_up, name=arm.name)
    return Arm(name, about, optional, solution)


def derived(spec: Spec) -> Iterator[tuple[str, str, Spec]]:
    """Yield the name, a description and the spec of each arm before it is matched.

    - `dr-da`: recurrent, with depth attention. The spec itself if it has depth attention, as a block or with
      `depth: joint`; else each sequence attention is followed by a depth attention of the same heads.
    - `dr`: the same without depth attention.
    - `untied`: `dr` with weights of their own for each step: `recur` becomes `stack`.
    - `untied-attnres`: `untied` with attention residuals in the core, the counterpart of depth attention
      without recurrence; only if the core's step has no nested stages and no norm after a residual sum.
    - `prelude-core-coda`: the first and last steps of `dr-da`, one or two each, become layers of their own;
      only for specs of one stage, since others have such layers already, with two steps left for the core.
    - `..-dense`: each of these with one feed-forward layer in place of experts, with their activation and as
      wide as all that a token uses, shared ones included.

    An arm drops options about recurrence that it cannot have, such as exits in layers, and a loss that needs
    them (`left_out`). There are as many layers as evaluation has steps, also where training
    draws other numbers.

    Raises:
        SpecError: the spec has no recurrent stage of two steps or more.
    """
    tree = {key: value for key, value in document(spec).items() if key != "caps"}
    core = _core(spec)
    without = _without_depth(tree)
    with_depth = tree if without["blocks"] != tree["blocks"] else _deepened(tree, core)
    arms = {
        "dr-da": ("recurrent, with depth attention", with_depth),
        "dr": ("recurrent, without depth attention", without),
        "untied": ("layers with weights of their own, without depth attention", _untied(without)),
    }
    mixed = _attention_residuals(without, core)
    if _is_spec(mixed):
        about = "layers with weights of their own that read all earlier ones, by attention residuals"
        arms["untied-attnres"] = (about, mixed)
    if len(spec.stages) == 1 and spec.stages[core].trips >= 4:
        arms["prelude-core-coda"] = (
            "own layers around a recurrent core",
            _sandwich(with_depth, core),
        )
    if any(block["type"] in _DENSE_TWIN for block in tree["blocks"].values()):
        dense = {name: (f"{about}, dense", _dense(arm)) for name, (about, arm) in arms.items()}
        arms |= {f"{name}-dense": arm for name, arm in dense.items()}
    for name, (about, arm) in arms.items():
        yield name, about, _possible({**arm, "name": f"{spec.name[:70]}-{name}"})


def left_out(spec: Spec, arm: Spec) -> list[str]:
    """Return the keys of the loss and of recurrence options that a spec has and its arm does not."""
    return sorted(_optional_keys(spec) - _optional_keys(arm))


def _optional_keys(spec: Spec) -> set[str]:
    stages = all_stages(spec.stages).values()
    given = {key for stage in stages for key in stage.changed_options()}
    given |= {
        key for stage in stages if isinstance(stage.recur, Recur) for key in stage.recur.changed_options()
    }
    return (given | {*spec.model.changed_options()}) & _droppable()


def _droppable() -> set[str]:
    return {Loss.key, TrainedSteps.key, *(option.key for option in all_wiring() if option.recurrent)}


def _is_spec(tree: Tree) -> bool:
    try:
        _possible(tree)
    except SpecError:
        return False
    return True


def _possible(tree: Tree) -> Spec:
    """Return the spec of an arm without the options about recurrence that it cannot have.

    Raises:
        SpecError: something else is wrong with it.
    """
    optional = _droppable()
    while True:
        try:
            return made(tree)
        except SpecError as error:
            paths = [fault.path.split(".") for fault in error.faults]
            keys = [next((key for key in path if key in optional), "") for path in paths]
            if not all(keys):
                raise
            left = tree
            for path, key in zip(paths, keys, strict=True):
                left = _without(left, path[: path.index(key) + 1])
            if left == tree:
                raise
            tree = left


def _without(tree: Any, path: Sequence[str]) -> Any:
    """Return plain data without the value at a path."""
    key, *rest = path
    if isinstance(tree, list):
        return [_without(each, rest) if str(n) == key else each for n, each in enumerate(tree)]
    if not rest:
        return {name: each for name, each in tree.items() if name != key}
    return {**tree, key: _without(tree[key], rest)} if key in tree else tree


def _core(spec: Spec) -> int:
    """Return the index of the stage with the most recurrent steps."""
    tied = [i for i, stage in enumerate(spec.stages) if stage.recurs]
    if not tied:
        got = "none, so that there is nothing to compare"
        raise SpecError([spec.fault_at(("stages",), "a stage that recurs, of two steps or more", got)])
    return max(tied, key=lambda i: spec.stages[i].trips)


def _of_kind(tree: Tree, kind: str) -> list[str]:
    return [name for name, block in tree["blocks"].items() if block["type"] == kind]


def _staged(tree: Tree, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Tree:
    """Return the tree with each stage replaced, inner stages first; stages replaced by None are removed."""

    def changed(stage: dict[str, Any]) -> dict[str, Any] | None:
        step = [changed(entry) if _is_stage(entry) else entry for entry in stage["step"]]
        return change({**stage, "step": [entry for entry in step if entry is not None]})

    stages = [new for stage in tree["stages"] if (new := changed(stage)) is not None]
    return {**tree, "stages": stages}


def _is_stage(entry: Entry) -> bool:
    return isinstance(entry, dict) and "step" in entry


def _without_depth(tree: Tree) -> Tree:
    """Return the tree without blocks of depth attention, `depth: joint` and anything that is left empty."""
    gone = set(_of_kind(tree, _DEPTH))
    joint = any(block.get("depth") == "joint" for block in tree["blocks"].values())
    dropped = {"depth", "kv_for"} if joint else set()

    def left(entry: Entry) -> Entry | None:
        if _is_stage(entry):
            return entry
        names = [name for name in _branches(entry) if name not in gone]
        if len(names) > 1:
            return {**entry, "parallel": names}
        return _alone(entry, names[0]) if names else None

    def stage(tree: dict[str, Any]) -> dict[str, Any] | None:
        step = [new for entry in tree["step"] if (new := left(entry)) is not None]
        return {**tree, "step": step} if step else None

    blocks = {
        name: {key: value for key, value in block.items() if key not in dropped}
        for name, block in tree["blocks"].items()
        if name not in gone
    }
    return {**_staged(tree, stage), "blocks": blocks}


def _deepened(tree: Tree, core: int) -> Tree:
    """Return the tree with depth attention in its core, after each sequence attention or mix that has one."""
    stage = tree["stages"][core]
    names: dict[str, str] = {}
    blocks: Blocks = dict(tree["blocks"])
    for name in filter(_named(stage).__contains__, _of_kind(tree, _SEQUENCE)):
        names[name] = fresh("depth", blocks)
        heads = {field: blocks[name][field] for field in ("heads", "kv_heads", "head_dim")}
        blocks[names[name]] = {"type": _DEPTH, **heads, "rotary": blocks[name]["rope"]}

    def after(entry: Entry) -> list[Entry]:
        if _is_stage(entry):
            return [entry]
        return [entry, *(_alone(entry, names[name]) for name in _branches(entry) if name in names)]

    def deepened(tree: dict[str, Any]) -> dict[str, Any]:
        return {**tree, "step": [new for entry in tree["step"] for new in after(entry)]}

    stages = _staged({"stages": [stage]}, deepened)["stages"]
    return {**tree, "blocks": blocks, "stages": _spliced(tree, core, stages)}


def _branches(entry: Entry) -> list[str]:
    """Return the names of the blocks of an entry that is not a stage."""
    if isinstance(entry, str):
        return [entry]
    return [entry["use"]] if "use" in entry else [*entry["parallel"]]


def _alone(entry: Entry, name: str) -> Entry:
    """Return an entry with one block and the options of another entry."""
    options = {} if isinstance(entry, str) else {**entry, "use": name}
    kept = {key: value for key, value in options.items() if key in BlockUse.model_fields}
    return kept if len(kept) > 1 else name


def _named(stage: dict[str, Any]) -> set[str]:
    """Return the names of the blocks that a stage runs."""
    names: set[str] = set()
    for entry in stage["step"]:
        names |= _named(entry) if _is_stage(entry) else {*_branches(entry)}
    return names


def _spliced(tree: Tree, core: int, stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*tree["stages"][:core], *stages, *tree["stages"][core + 1 :]]


def _untied(tree: Tree) -> Tree:
    def stage(tree: dict[str, Any]) -> dict[str, Any]:
        if "recur" not in tree:
            return tree
        return {"stack": _steps(tree)} | {key: value for key, value in tree.items() if key != "recur"}

    return _staged(tree, stage)


def _steps(stage: dict[str, Any]) -> int:
    """Return the number of steps in evaluation of a recurrent stage."""
    steps: int = recur["steps"] if isinstance(recur := stage["recur"], dict) else recur
    return steps


def _layers(stage: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a recurrent stage as untied layers, without the options that concern recurrence."""
    recurrent = {"recur", *(option.key for option in all_wiring() if option.recurrent)}
    return {"stack": count} | {key: value for key, value in stage.items() if key not in recurrent}


def _attention_residuals(tree: Tree, core: int) -> Tree:
    """Return the tree with weights of its own for each step, and attention residuals in its core."""
    stage = tree["stages"][core]
    layers = {**_layers(stage, _steps(stage)), "residual": {"mix": "learned_query"}}
    return _untied({**tree, "stages": _spliced(tree, core, [layers])})


def _sandwich(tree: Tree, core: int) -> Tree:
    """Return the tree with the first and last steps of its core as untied layers, without depth attention."""
    stage = tree["stages"][core]
    steps = _steps(stage)
    outer = _LAYERS if steps >= 4 * _LAYERS else 1
    core_stage = {**stage, "recur": steps - 2 * outer}
    without = _without_depth({**tree, "stages": [stage]})
    (plain,) = without["stages"] or [stage]
    own: Blocks = {}
    names: dict[str, str] = {}
    for name in sorted(_named(plain)):
        if (block := without["blocks"].get(name, tree["blocks"][name])) != tree["blocks"][name]:
            names[name] = fresh(name, tree["blocks"].keys() | own.keys())
            own[names[name]] = block
    layers = _layers(_renamed({"stages": [plain]}, names)["stages"][0], outer)
    stages = _spliced(tree, core, [layers, core_stage, layers])
    return {**tree, "blocks": tree["blocks"] | own, "stages": stages}


def _dense(tree: Tree) -> Tree:
    """Return the tree with feed-forward layers in place of experts, as wide as all that a token uses."""
    names: dict[str, str] = {}
    blocks: Blocks = {}
    for name, block in tree["blocks"].items():
        if twin := _DENSE_TWIN.get(block["type"]):
            names[name] = fresh("mlp", tree["blocks"].keys() | blocks.keys())
            blocks[names[name]] = {"type": _DENSE, **twin(block)}
        else:
            blocks[name] = block
    return {**_renamed(tree, names), "blocks": blocks}


def _renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    """Return the tree with other blocks in its stages, by the names of those that they replace."""

    def renamed(entry: Entry) -> Entry:
        if _is_stage(entry):
            return entry
        new = [names.get(name, name) for name in _branches(entry)]
        return {**entry, "parallel": new} if "parallel" in entry else _alone(entry, new[0])

    return _staged(tree, lambda stage: {**stage, "step": list(map(renamed, stage["step"]))})

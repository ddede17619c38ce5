"""What every wiring option has to hold, whoever wrote it. Each check takes one example of an option."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from blocks.base.wiring import Owner, WiringConfig, kind_of
from blocks.find import wiring_options
from blocks.ir.graph import Graph, Loop
from blocks.ir.walk import operations
from composer.graph.compile import compile_graph
from composer.graph.other_steps import training_graphs
from composer.language.description.diff import differences
from composer.language.description.show import changed_yaml, resolved_yaml
from composer.language.load import loads
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Spec
from composer.language.schema.steps import drawn_steps
from composer.module.optimization.optimizer import make_optimizer
from composer.testing.examples import WIDTH, Plain, completed, option_values, stands
from composer.testing.model_checks import COSTS, MEANING
from composer.testing.models import compiled, make, tokens_for
from composer.testing.modes import MODES

_OWNERS: tuple[Owner, ...] = ("stage", "recur", "parallel", "use", "model", "train")
"""Where an option is given in its examples: the first of these that can have it."""
HOST: Plain = {
    "schema": 1,
    "name": "t",
    "model": {"width": WIDTH, "vocab": 13, "context": 8},
    "blocks": {
        "a": {"type": "sequence_attention", "heads": 2},
        # without norms a gated one grows with a power of its input
        "f": {"type": "feed_forward", "hidden": 24, "activation": "gelu"},
    },
    "stages": [{"recur": 3, "step": [{"use": "a"}, {"parallel": ["a", "f"]}, "f"]}],
}
"""The model that has the options."""
TRAIN: Plain = {
    "data": {"task": "hop", "length": 8, "symbols": 8, "hops": 1},
    "tokens": 640,
    "batch_tokens": 64,
}
"""How it is trained, where options of `train` are looked at."""


@dataclass(frozen=True)
class Example:
    """An option in a model, as plain data.

    Attributes:
        key: its key.
        plain: the model with the option, and with another that it is refused without.
        usual: whether it is the default.
        base: the model with none of them.
        siblings: the same with the other options of the key, by name.
    """

    key: str
    plain: Plain
    usual: bool
    base: Plain
    siblings: Mapping[str, Plain]


def examples(option: type[WiringConfig]) -> dict[str, Example]:
    """Map a name to each example of an option."""
    kind = kind_of(option)
    models = models_with(kind.key)
    by_name = {}
    for value in option_values(option):
        if (name := f"{kind.key} {_value_text(value)}") in models:
            siblings = {other: plain for other, plain in models.items() if other != name}
            base = {**HOST, "train": TRAIN} if "train" in kind.owner else HOST
            by_name[name] = Example(kind.key, models[name], value == kind.default, base, siblings)
    return by_name


def models_with(key: str) -> dict[str, Plain]:
    """Map a name to a model with each example of each option of a key, the refused ones left out."""
    options = wiring_options()[key]
    owners = options.kind.owner
    owner = next(each for each in _OWNERS if each in owners)
    values = [value for option in options.values() for value in option_values(option)]
    models = {f"{key} {_value_text(value)}": completed(with_option(owner, key, value)) for value in values}
    return {name: plain for name, plain in models.items() if stands(plain)}


def with_option(owner: Owner, key: str, value: Any) -> Plain:
    """Return the model with an option of its stage, its number of steps, an entry, or itself."""
    (stage,), model = HOST["stages"], HOST["model"]
    use, mix, *rest = stage["step"]
    match owner:
        case "model":
            model = {**model, key: value}
        case "stage":
            stage = {**stage, key: value}
        case "recur":
            stage = {**stage, "recur": {"steps": stage["recur"], key: value}}
        case "use":
            stage = {**stage, "step": [{**use, key: value}, mix, *rest]}
        case "parallel":
            stage = {**stage, "step": [use, {**mix, key: value}, *rest]}
        case "train":
            return {**HOST, "train": {**TRAIN, key: value}}
    return {**HOST, "model": model, "stages": [stage]}


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def check_identity(example: Example) -> None:
    """An option that is not the default changes the hash and is a difference; what is shown loads again."""
    spec, base, usual = make(example.plain), make(example.base), example.usual
    assert (run_hash(spec) == run_hash(base)) == usual, "the hash says something else than the spec"
    assert bool([*differences(base, spec)]) != usual, "`diff` says something else than the spec"
    for written in (resolved_yaml, changed_yaml):
        assert loads(written(spec)) == spec, f"{written.__name__}: loads as another spec"
    assert usual or f"{example.key}:" in changed_yaml(spec), f"`show` leaves out {example.key}"


def check_honoured(example: Example) -> None:
    """Every value of every field makes another program than each other one does."""
    own, mine = program(json.dumps(example.plain)), run_hash(make(example.plain))
    for name, plain in example.siblings.items():
        if run_hash(make(plain)) != mine:
            assert program(json.dumps(plain)) != own, f"computes what {name} does: a field is ignored"


@cache
def program(text: str) -> str:
    """Return what a spec is lowered to, with what training runs, as text that is the same for the same."""
    spec = loads(text)
    trained = [(share, _written(graph)) for share, graph in training_graphs(spec)]
    drawn = [drawn_steps(spec, step, 0) for step in (0, 1, 2, 900_000)]
    return repr((_written(compile_graph(spec)), trained, drawn, _updates(spec)))


def _updates(spec: Spec) -> list[dict[str, Any]]:
    """Return how the weights are updated: the optimizer's groups, with shapes in the place of weights."""
    if spec.train is None:
        return []
    model = compiled(spec)
    groups = make_optimizer(model.named_parameters(), model.graph, spec.train).param_groups
    return [{**group, "params": [weight.shape for weight in group["params"]]} for group in groups]


def _written(graph: Graph) -> list[object]:
    nodes = [
        (
            name,
            (node.op.trips, node.op.tied, node.op.last, _written(node.op.body))
            if isinstance(node.op, Loop)
            else node.op,
            node.inputs,
            node.weights,
            node.active,
        )
        for name, _, node in operations(graph)
    ]
    second = _written(graph.second) if graph.second is not None else []
    return [nodes, graph.inputs, graph.outputs, graph.weights, graph.ties, graph.reported, second]


def check_depth_leak(example: Example) -> None:
    """With blocks that act on each token alone, a token moves its own output only.

    An option that is refused beside such blocks is about others.
    """
    alone = {**example.plain, "blocks": dict.fromkeys(HOST["blocks"], HOST["blocks"]["f"])}
    if not stands(alone):
        # the option needs an attention
        alone = {**alone, "blocks": {**alone["blocks"], "a": {"type": "depth_attention", "heads": 2}}}
    if not stands(alone):
        return
    model = compiled(alone).eval()
    tokens = tokens_for(model.spec, 2, 7)
    with torch.no_grad():
        other = tokens.clone()
        other[0, 3] = (other[0, 3] + 1) % 13
        moved = (model(other) - model(tokens)).abs().amax(-1) > 1e-4
    assert moved.nonzero().tolist() in ([], [[0, 3]]), f"a token moves the outputs {moved.nonzero().tolist()}"


def _of_model(check: Callable[[Plain], None]) -> Callable[[Example], None]:
    return lambda example: check(example.plain)


MODEL_CHECKS = {**MEANING, **COSTS, **MODES}
"""Those that take a model with an option, or any other, as plain data."""

CHECKS: dict[str, Callable[[Example], None]] = {
    "hash, show and diff": check_identity,
    "every field is honoured": check_honoured,
    "no leak between tokens": check_depth_leak,
    **{name: _of_model(check) for name, check in MODEL_CHECKS.items()},
}
"""Every check, by what it is about."""

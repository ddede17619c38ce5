"""Every field of every config of the language changes what is built, read, trained, capped or searched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from added_fields import BLOCKS, known, put
from data_values import other_fields
from observed import CAPPED, LANGUAGE, RUN, SPACE, Plain, built, capped, corpus, read, searched, trained

from blocks.base.config import Config
from blocks.base.field_values import values_of
from blocks.base.wiring import Owner
from composer.language.load import loads
from composer.language.schema.caps import Caps
from composer.language.schema.identity import run_hash
from composer.language.schema.unions import WiringUnion
from composer.measures.registry import MEASURES
from composer.settings.errors import SpecError
from composer.testing.examples import wiring_examples
from composer.testing.wiring import models_with

optuna.logging.set_verbosity(optuna.logging.WARNING)

NOT_SHOWN = {
    "Spec.schema": "it has one value",
    "Spec.name": "it names the run's folder",
    "Spec.model": "a section whose fields are shown",
    "Spec.blocks": "a section whose fields are shown",
    "Spec.caps": "a section whose fields are shown",
    "Train.data": "a section whose fields are shown",
    "Train.schedule": "a section whose fields are shown",
    "Train.eval": "a section whose fields are shown",
    "Train.checkpoint": "a section whose fields are shown",
    "MatchedBaseline.bounds": "a section whose fields are shown",
    "GatedExit.gate": "it has one value",
    "NormPerStep.norm": "it has one value",
    "ScalePerStep.scale": "it has one value",
}
"""Fields that are not shown to act, with the reason."""
OWNERS: tuple[Owner, ...] = ("model", "stage", "recur", "use", "parallel", "train")
SCALARS = (1, 2, 3, 4, 0.25, 0.5, True)
"""Values for fields whose type has no examples."""


def changed(tree: Plain, changes: dict[str, Any]) -> Plain:
    """Give a tree other values, by dotted paths."""
    for path, value in changes.items():
        tree = put(tree, [int(key) if key.isdigit() else key for key in path.split(".")], value)
    return tree


def search(**fields: Any) -> Plain:
    return changed(SPACE, {f"search.{key}": value for key, value in fields.items()})


PARALLEL = changed(
    LANGUAGE, {"stages": [{"recur": 3, "step": [{"parallel": [*"sf"]}, {"use": "d"}, *"fde"]}]}
)
SAMPLED = changed(LANGUAGE, {"stages.0.recur": {"steps": 3, "train": {"uniform": [1, 3]}}})
SCALED = changed(LANGUAGE, {"blocks.s.rope_scaling": {"linear": 2}})
MIXED = changed(LANGUAGE, {"stages": [{"recur": 3, "step": [*"sfde"], "residual": {"mix": "static"}}]})
ROUTED = {
    **changed(LANGUAGE, {"stages": [{"recur": 3, "step": [*"sf"], "route": {"by": "expert_choice"}}]}),
    "blocks": {name: LANGUAGE["blocks"][name] for name in "sf"},
}
MATCHED = {"spec": "rival.yaml", "match": ["params"]}
APART = next(tree for config, tree, _ in known().values() if config.__name__ == "DocumentsApart")
# a tree and what changes in it, of fields that need more than another value, or one of their own
CHANGES: dict[str, tuple[Plain, dict[str, Any]]] = {
    "Spec.stages": (RUN, {"stages": [{"recur": 2, "step": ["s", "f"]}]}),
    "Spec.train": ({**RUN, "train": None}, {"train": RUN["train"]}),
    "Model.width": (LANGUAGE, {"model.width": 32}),
    "Model.vocab": (LANGUAGE, {"model.vocab": 301}),
    "Model.context": (changed(LANGUAGE, {"model.positions": "learned"}), {"model.context": 33}),
    "Model.documents": (changed(APART, {"model.documents": "joined"}), {"model.documents": {"apart": 255}}),
    "DocumentsApart.apart": (APART, {"model.documents.apart": 7}),
    "Stage.stack": (changed(LANGUAGE, {"stages": [{"stack": 2, "step": [*"sfde"]}]}), {"stages.0.stack": 3}),
    "Stage.step": (LANGUAGE, {"stages.0.step": [*"sfde"]}),
    "Stage.at": (LANGUAGE, {"stages.0.step.2.at": "1:"}),
    "Parallel.parallel": (PARALLEL, {"stages.0.step.0.parallel": ["s", "e"]}),
    "Parallel.at": (PARALLEL, {"stages.0.step.0.at": "1:"}),
    "BlockUse.use": (PARALLEL, {"stages.0.step.1.use": "f"}),
    "BlockUse.at": (changed(PARALLEL, {"stages.0.step.1.use": "f"}), {"stages.0.step.1.at": "1:"}),
    "Recur.per": (SAMPLED, {"stages.0.recur.per": "sequence"}),
    "PoissonLogNormalSteps.poisson_lognormal": (
        changed(SAMPLED, {"stages.0.recur.train": {"poisson_lognormal": {"mean": 2, "max": 4}}}),
        {"stages.0.recur.train.poisson_lognormal": {"mean": 3, "max": 4}},
    ),
    "RopeScaling.ntk": (SCALED, {"blocks.s.rope_scaling": {"ntk": 2}}),
    "RopeScaling.yarn": (SCALED, {"blocks.s.rope_scaling": {"yarn": {"factor": 2, "context": 8}}}),
    "MixedResidual.over": (MIXED, {"stages.0.residual.over": "blocks"}),
    "MixedResidual.period": (MIXED, {"stages.0.residual.period": 2}),
    "ScaledResidual.scale": (
        changed(PARALLEL, {"stages.0.residual": {"scale": "learned"}}),
        {"stages.0.residual.scale": "1/steps"},
    ),
    "RoutedBy.keep": (ROUTED, {"stages.0.route.keep": [1.0, 0.25]}),
    "RoutedBy.kv": (ROUTED, {"stages.0.route.kv": "first"}),
    "ConsistencyLoss.short": (
        changed(PARALLEL, {"model.loss": {"consistency": 0.5, "short": 1}}),
        {"model.loss.short": 2},
    ),
    "SequenceAttention.sinks": (changed(LANGUAGE, {"blocks.s.window": 4}), {"blocks.s.sinks": 2}),
    "DepthAttention.kv_from": (changed(LANGUAGE, {"blocks.d.rotary": False}), {"blocks.d.kv_from": "s"}),
    "FeedForward.kv_for": (changed(LANGUAGE, {"blocks.s.depth": "joint"}), {"blocks.f.kv_for": "s"}),
    "ExpertAttention.balance_rate": (LANGUAGE, {"blocks.e.balance_rate": 0.1}),
    "ExpertAttention.balance_loss": (LANGUAGE, {"blocks.e.balance_loss": 0.1}),
    "Train.tokens": (RUN, {"train.tokens": 704}),
    "Train.batch_tokens": (RUN, {"train.batch_tokens": 128}),
    "Train.precision": (RUN, {"train.precision": "bf16-mixed"}),
    "Train.seed": (RUN, {"train.seed": 3}),
    "Train.betas": (RUN, {"train.betas": [0.5, 0.6]}),
    "Train.devices": (RUN, {"train.devices": 2}),
    "Train.callbacks": (RUN, {"train.callbacks": ["lightning.pytorch.callbacks.Timer"]}),
    "Schedule.warmup": (RUN, {"train.schedule.warmup": 0.1, "train.schedule.stable": 0.5}),
    "Schedule.stable": (RUN, {"train.schedule.stable": 0.6, "train.schedule.decay": 0.2}),
    "Schedule.decay": (RUN, {"train.schedule.decay": 0.6, "train.schedule.warmup": 0}),
    "Eval.every": (RUN, {"train.eval.every": 64}),
    "Eval.tokens": (RUN, {"train.eval.tokens": 128}),
    "Checkpoint.every": (RUN, {"train.checkpoint.every": 64}),
    "TimeLimits.device": (
        changed(RUN, {"caps": {"step_time": {"device": "h100"}}}),
        {"caps.step_time.device": "a100"},
    ),
    "MemoryLimits.batch_tokens": (
        changed({**RUN, "train": None}, {"caps": {"train_memory": {"hard": "1GB"}}}),
        {"caps.train_memory.batch_tokens": 64},
    ),
    "SearchConfig.objectives": (SPACE, {"search.objectives": [{"minimize": "accuracy"}]}),
    "SearchConfig.trials": (SPACE, {"search.trials": 3}),
    "SearchConfig.tokens": (SPACE, {"search.tokens": 20_000}),
    "SearchConfig.flops": (SPACE, {"search.flops": 10**9}),
    "SearchConfig.time_limit": (SPACE, {"search.time_limit": "1h"}),
    "SearchConfig.rungs": (SPACE, {"search.rungs": [4096]}),
    "SearchConfig.keep": (SPACE, {"search.keep": 0.9}),
    "SearchConfig.sampler": (search(trials=14, rungs=[]), {"search.sampler": "tpe"}),
    "SearchConfig.edits": (SPACE, {"search.edits": 2}),
    "SearchConfig.baselines": (SPACE, {"search.baselines": ["rival.yaml"]}),
    "SearchConfig.start": (SPACE, {"search.start": ["other.yaml"]}),
    "SearchConfig.finalists": (search(seeds=1, rungs=[]), {"search.finalists": 1}),
    "SearchConfig.seeds": (SPACE, {"search.seeds": 1}),
    "SearchConfig.lr_sweep": (SPACE, {"search.lr_sweep": [2]}),
    "SearchConfig.seed": (SPACE, {"search.seed": 4}),
    "Objective.maximize": (SPACE, {"search.objectives.0.maximize": "loss"}),
    "Objective.minimize": (
        search(objectives=[{"minimize": "loss"}]),
        {"search.objectives.0.minimize": "accuracy"},
    ),
    "FlopRungs.flops": (search(rungs={"flops": [10**8]}), {"search.rungs.flops": [2 * 10**8]}),
    "MatchedBaseline.spec": (search(baselines=[MATCHED]), {"search.baselines.0.spec": "other.yaml"}),
    "MatchedBaseline.match": (
        changed(search(baselines=[MATCHED]), {"caps.params": 14_000_000}),
        {"search.baselines.0.match": ["flops_per_token"]},
    ),
}
BOUNDS = {
    "width_factor": 2,
    "attention_ratio": [0.25, 4],
    "head_dims": [8],
    "groups": [2],
    "hidden_ratio": [0.5, 9],
    "experts_per_active": 2,
}
CHANGES |= {
    f"ShapeBounds.{name}": (search(baselines=[MATCHED]), {"search.baselines.0.bounds": {name: value}})
    for name, value in BOUNDS.items()
}
CHANGES |= {
    f"Caps.{name}": (CAPPED, {f"caps.{name}": {"device": "h100", "hard": "1us"} if measure.on_device else 1})
    for name, measure in MEASURES.items()
}
LIMITS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "CountLimits": ("params", {"hard": 10**9}, 1),
    "ByteLimits": ("cache_bytes_per_token", {"hard": 10**9}, 1),
    "MemoryLimits": ("train_memory", {"hard": 10**9}, 1),
    "TimeLimits": ("step_time", {"device": "h100"}, "1us"),
}
CHANGES |= {
    f"{kind}.{limit}": (changed(CAPPED, {"caps": {cap: most}}), {f"caps.{cap}.{limit}": value})
    for kind, (cap, most, value) in LIMITS.items()
    for limit in ("hard", "soft")
}
TEXT = changed(
    RUN, {"model": LANGUAGE["model"], "train.data": {"task": "text", "path": "text/pages", "length": 16}}
)
LINES = changed(TEXT, {"train.data.path": "text/pages/lines.jsonl"})
TOKENS = changed(TEXT, {"train.data": {"task": "tokens", "path": "text", "length": 16}})
CHANGES |= {
    "Text.task": (TEXT, {"train.data": TOKENS["train"]["data"]}),
    "Text.length": (TEXT, {"train.data.length": 12}),
    "Text.path": (TEXT, {"train.data.path": "elsewhere/pages"}),
    "Text.glob": (TEXT, {"train.data.glob": "*.md"}),
    "Text.field": (LINES, {"train.data.field": "other"}),
    "Text.eval_fraction": (TEXT, {"train.data.eval_fraction": 0.5}),
    "Tokens.task": (TOKENS, {"train.data": TEXT["train"]["data"]}),
    "Tokens.length": (TOKENS, {"train.data.length": 12}),
    "Tokens.path": (TOKENS, {"train.data.path": "elsewhere"}),
    "Tokens.sources": (TOKENS, {"train.data.sources": {"a": 1, "b": 2}}),
    "Tokens.documents": (TOKENS, {"train.data.documents": "apart"}),
    "Tokens.eval_sets": (TOKENS, {"train.data.eval_sets": ["eval", "test"]}),
}
CONFIGS = {**known(), "Caps": (Caps, RUN, ("caps",))}


def observer(path: tuple[Any, ...]) -> Callable[[Plain], Any]:
    match path[:2]:
        case ("train", "data"):
            return read
        case ("train", *_) | ():
            return trained
        case ("caps", *_):
            return capped
        case ("search", *_):
            return searched
    return built


@cache
def observed(look: Callable[[Plain], Any], text: str) -> Any:
    return look(json.loads(text))


def others(config: type[Config], name: str, tree: Plain, path: tuple[Any, ...]) -> Iterator[Plain]:
    """Yield accepted specs with each other value of a choice or option, or with some number."""
    field = config.model_fields[name]
    key = field.alias or name
    if key == "type":
        yield put(tree, path, BLOCKS["feed_forward" if config.__name__ != "FeedForward" else "gated_delta"])
        return
    if key == "task":
        yield put(tree, path, {"task": "sudoku" if config.__name__ != "Sudoku" else "addition", "length": 32})
        return
    if any(isinstance(each, WiringUnion) for each in field.metadata):
        given = [value for owner in OWNERS for value in wiring_examples(owner).get(key, [])]
    elif path == ("train", "data"):
        given = [
            value for other, value in other_fields(config, at(tree, path), tree["model"]) if other == key
        ]
    else:
        given = field.examples or values_of(field.annotation)
    results = [other for value in given if (other := accepted(tree, (*path, key), value))]
    numbers = (accepted(tree, (*path, key), value) for value in SCALARS)
    yield from results or [other for other in numbers if other][:1]


def accepted(tree: Plain, path: tuple[Any, ...], value: Any) -> Plain | None:
    """Return the tree with a value at a path if that makes another spec."""
    other = put(tree, path, value)
    try:
        same = run_hash(loads(json.dumps(tree))) == run_hash(loads(json.dumps(other)))
    except SpecError:
        return None
    return None if same else other


def pairs(name: str, field: str) -> Iterator[tuple[Plain, Plain]]:
    """Yield trees before and after the change of a field."""
    config, tree, path = CONFIGS[name]
    key = config.model_fields[field].alias or field
    if (given := CHANGES.get(f"{name}.{key}")) is not None:
        yield given[0], changed(*given)
        return
    results = [*others(config, field, tree, path)] if path[:1] != ("train",) or path[1:2] == ("data",) else []
    if not results and any(isinstance(each, WiringUnion) for each in config.model_fields[field].metadata):
        yield from pairwise(models_with(key).values())
    if path[:1] == ("train",) and path[:2] != ("train", "data"):
        tree = RUN if config.__name__ != "Muon" else changed(RUN, {"train.optimizer": at(tree, path)})
        results = [*others(config, field, tree, path)]
    yield from ((tree, other) for other in results)


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus(folder)
    return folder


SLOW = ("SearchConfig", "ShapeBounds")
"""Configs whose fields take seconds to show, each with many searches."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CONFIGS]
)
def test_every_field_acts(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    config, _, path = CONFIGS[name]
    look = observer(path)
    for field, info in config.model_fields.items():
        key = info.alias or field
        if f"{name}.{key}" in NOT_SHOWN:
            continue
        results = [*pairs(name, field)]
        assert results, f"{name}.{key}: no other value"
        for before, after in results:
            one, two = (observed(look, json.dumps(each)) for each in (before, after))
            assert one != two, f"{name}.{key}: nothing changes with {json.dumps(after)}"


def test_no_reason_or_change_is_left_of_a_field_that_is_gone() -> None:
    fields = {
        f"{name}.{info.alias or field}"
        for name, (config, *_) in CONFIGS.items()
        for field, info in config.model_fields.items()
    }
    assert {*NOT_SHOWN, *CHANGES} <= fields
    assert not {*NOT_SHOWN} & {*CHANGES}

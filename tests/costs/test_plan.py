"""A plan is made once: one training compiles its graph once, and replays no step for memory twice."""

import json

import pytest
from models import shipped

import composer
import composer.costs.memory.peak
import composer.graph.compile
from blocks.ir.kernel import Target
from composer.cli.commands.train import train
from composer.costs.counting.plan import make_plan
from composer.graph.passes.mark_recompute import recomputed
from composer.language.description.show import document


@pytest.fixture
def capped(tmp_path):
    """A file of a spec that has to recompute to keep to its cap on memory, and trains for two steps."""
    spec = shipped()["dreamer-tiny"]
    limit = int(0.8 * make_plan(spec).memory.total)
    tree = document(spec)
    tree["caps"] = {"train_memory": limit}
    tree["train"]["tokens"] = 2 * tree["train"]["batch_tokens"]
    path = tmp_path / "capped.yaml"
    path.write_text(json.dumps(tree))
    return path


@pytest.fixture
def work(monkeypatch):
    """The graphs that are compiled, and the marks of those that are replayed, while a test runs."""
    compiled, replayed = [], []
    build, peak = composer.graph.compile.build, composer.costs.memory.peak.peak

    def counted_build(spec):
        compiled.append(spec)
        return build(spec)

    def counted_peak(graph, batch, train):
        replayed.append(frozenset(recomputed(graph)))
        return peak(graph, batch, train)

    monkeypatch.setattr(composer.graph.compile, "build", counted_build)
    monkeypatch.setattr(composer.costs.memory.peak, "peak", counted_peak)
    return compiled, replayed


@pytest.mark.parametrize("trains", [False, True], ids=["composer.compile", "composer train"])
def test_a_capped_spec_is_compiled_once_and_never_replayed_twice(capped, work, trains, tmp_path):
    compiled, replayed = work
    if trains:
        train(str(capped), out=str(tmp_path / "run"), kernels="auto", torch_compile="off")
    else:
        composer.compile(capped)
    assert len(compiled) == 1
    assert len(replayed) == len(set(replayed)) > 1


def test_a_plan_keeps_its_marks_on_every_target_and_compiles_only_where_one_differs(capped, work):
    plan = make_plan(composer.load(capped))
    assert plan.recomputed
    compiled, _ = work
    del compiled[:]
    assert plan.on(Target("cpu", here=True)) is plan
    assert not compiled
    there = plan.on(Target("cuda", "bfloat16"))
    assert len(compiled) == 1
    assert there.recomputed == plan.recomputed
    # a fused operation is marked where any of its parts is
    assert set(plan.recomputed) <= set(recomputed(there.graph))
    with pytest.raises(ValueError, match="recompute: expected none beside a plan"):
        composer.module.model.ComposedModel(plan, recompute=())


@pytest.mark.parametrize("share", [0.8, 0.5])
@pytest.mark.parametrize("name", ["dreamer-tiny", "looped", "nested", "transformer"])
def test_what_is_recomputed_does_not_depend_on_the_kernels(name, share):
    spec = shipped()[name]
    caps = spec.caps.model_copy(update={"train_memory": int(share * make_plan(spec).memory.total)})
    spec = spec.model_copy(update={"caps": caps})
    chosen = make_plan(spec).recomputed
    assert chosen
    assert make_plan(spec, kernels="reference").recomputed == chosen

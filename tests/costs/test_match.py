"""Matched specs cost what their targets do, by the plain count; the same every time; or they say why not."""

from functools import cache

import pytest
from strategies import make

from composer.costs.arms import arms, derived
from composer.costs.count import count
from composer.costs.knobs import Knobs
from composer.costs.match import MATCHED, TOLERANCE, match
from composer.costs.residuals import csv, markdown
from composer.spec.errors import SpecError
from composer.spec.load import load, loads
from composer.spec.show import document, resolved_yaml

SMALL, TINY = "dreamer-small", "dreamer-tiny"
NEEDED = ("dr-da", "dr", "untied", "prelude-core-coda")
# base, target, and what is freed where the default does not reach
PAIRS = [
    (TINY, SMALL, None),
    ("transformer", SMALL, None),
    ("looped", SMALL, None),
    ("recurrent-tiny", SMALL, None),
    ("untied-flops-tiny", SMALL, None),
    ("space-baseline", SMALL, None),
    (SMALL, "nested", "width,heads,head_dim,experts,active,hidden,steps"),
    (TINY, "nested", None),
    ("recurrent-tiny", "nested", None),
    (TINY, "transformer", None),
    ("recurrent-tiny", "transformer", None),
    ("space-baseline", "transformer", None),
    (TINY, "looped", None),
    ("recurrent-tiny", "looped", None),
    ("transformer", "looped", None),
    ("space-baseline", "looped", None),
    ("looped", TINY, None),
    ("recurrent-tiny", TINY, None),
    ("untied-flops-tiny", TINY, None),
    ("untied-params-tiny", TINY, None),
    (TINY, "recurrent-tiny", None),
    (TINY, "untied-flops-tiny", None),
    ("recurrent-tiny", "untied-flops-tiny", None),
    ("untied-params-tiny", "untied-flops-tiny", None),
    ("untied-flops-tiny", "untied-params-tiny", None),
    (SMALL, TINY, "width,heads,head_dim,experts,active,hidden,steps"),
    (SMALL, "transformer", "width,heads,head_dim,experts,active,hidden,steps"),
    ("nested", TINY, "width,heads,head_dim,hidden,steps"),
]


@cache
def spec(name):
    return load(f"specs/{name}.yaml")


@cache
def arms_of(name):
    return arms(spec(name))


def freed(base, fields):
    """The knobs of a spec with these fields; `steps` are those of every stage."""
    if fields is None:
        return None
    known = {*fields.split(","), *(("recur", "stack") if "steps" in fields else ())}
    return [knob.path for knob in Knobs(base, apart=True).all if knob.path.rpartition(".")[2] in known]


def off(found, target, on=MATCHED):
    """By how many tolerances each measure is off, counted anew on the result as it loads from YAML."""
    costs, aim = count(loads(resolved_yaml(found.spec))), count(bare(target))
    return {m: 100 * abs(costs.measure(m) / aim.measure(m) - 1) / TOLERANCE[m] for m in on}


def bare(target):
    return make({key: value for key, value in document(target).items() if key != "caps"})


@pytest.mark.parametrize(("base", "target", "fields"), PAIRS, ids=lambda value: str(value).split(",")[0])
def test_shipped_specs_match_each_other(base, target, fields):
    one, two = spec(base), spec(target)
    found = match(one, two, free=freed(one, fields))
    assert found.holds
    assert max(off(found, two).values()) <= 1
    for residual in found.residuals:
        assert residual.value == count(found.spec).measure(residual.measure)
    assert found.spec.train == two.train
    assert (found.spec.model.vocab, found.spec.model.context) == (two.model.vocab, two.model.context)
    if fields is None:
        assert [stage.trips for stage in found.spec.stages] == [stage.trips for stage in one.stages]


@pytest.mark.parametrize("name", [SMALL, TINY])
def test_each_arm_is_matched_and_is_what_it_says(name):
    target = spec(name)
    found = {arm.name: arm for arm in arms_of(name)}
    assert set(NEEDED) < set(found)
    for arm in found.values():
        expected = {each: value <= 1 for each, value in off(arm.match, target).items()}
        assert {residual.measure: residual.holds for residual in arm.match.residuals} == expected
        assert arm.match.holds or arm.optional
        kinds = {block.type for block in arm.match.spec.blocks.values()}
        assert ("expert_attention" in kinds) == (not arm.optional)
        assert ("depth_attention" in kinds) == ("da" in arm.name or "core" in arm.name)
    steps = target.stages[0].trips
    for arm in found.values():
        stages = arm.match.spec.stages
        assert sum(stage.trips for stage in stages) == steps
        tied = [stage.tied for stage in stages]
        assert tied == (
            [False] if "untied" in arm.name else [False, True, False] if "core" in arm.name else [True]
        )
    assert found["dr-da"].match.moves == ()
    assert found["untied-dense"].match.holds
    # parameters used at every step are FLOPs at every step
    assert not found["dr-dense"].match.holds
    assert [residual.holds for residual in found["dr-dense"].match.residuals] == [False, True, True]


def test_residuals_are_told_as_a_table_and_as_rows():
    target = spec(TINY)
    found = arms_of(TINY)
    text, rows = markdown(target, found, "Note."), csv(found).splitlines()
    assert len(rows) == 1 + 3 * len(found)
    assert rows[0] == "arm,measure,value,target,residual_percent,tolerance_percent,matched"
    for arm in found:
        line = next(line for line in text.splitlines() if line.startswith(f"| `{arm.name}` |"))
        assert ("| yes |" in line) == arm.match.holds
        for residual in arm.match.residuals:
            assert f"{arm.name},{residual.measure},{residual.value:.0f},{residual.target:.0f}," in csv(found)


def test_a_spec_without_depth_attention_gets_one_in_its_core_only():
    names = {name: arm for name, _, arm in derived(spec("looped"))}
    assert set(names) == {"dr-da", "dr", "untied"}, "it has a prelude and a coda of its own, and no experts"
    assert [stage.step for stage in names["dr-da"].stages] == [
        ("seq", "mlp"),
        ("seq", "depth", "mlp"),
        ("seq", "mlp"),
    ]
    assert names["dr"] == make({**document(spec("looped")), "name": "looped-dr"})
    nested = {name: arm for name, _, arm in derived(spec("nested"))}
    assert nested["dr"].stages[0].step[0].step == ("seq", "mlp"), "a mix of one is no mix"
    assert not nested["untied"].stages[0].tied


def test_nothing_to_compare_without_recurrence():
    with pytest.raises(SpecError, match="stages: expected a stage that recurs"):
        arms(spec("transformer"))


def test_matching_is_deterministic():
    one, two = spec("transformer"), spec(TINY)
    first, second = match(one, two), match(one, two)
    assert (first.spec, first.moves, first.residuals) == (second.spec, second.moves, second.residuals)


def test_what_costs_the_same_is_not_changed():
    found = match(spec(TINY), spec(TINY))
    assert found.moves == ()
    assert [residual.percent for residual in found.residuals] == [0, 0, 0]


def test_caches_are_matched_too():
    on = [*MATCHED, "cache", "depth_cache_bytes"]
    wider = load(f"specs/{TINY}.yaml", ["caps=null", "blocks.depth.head_dim=32", "model.width=96"])
    found = match(spec(TINY), wider, on)
    assert found.holds
    assert max(off(found, wider, [*MATCHED, "cache_bytes_per_token", "depth_cache_bytes"]).values()) <= 1


def test_only_what_is_freed_moves_and_tolerances_bind():
    one, two = spec("transformer"), spec(SMALL)
    found = match(one, two, ["params"], ["width", "mlp.hidden"], {"params": 0.2})
    assert {move.label for move in found.moves} <= {"width", "mlp.hidden"}
    assert abs(found.residuals[0].percent) <= 0.2
    assert found.spec.blocks["seq"].heads == one.blocks["seq"].heads
    assert not match(one, two, ["params"], ["seq.kv_heads"]).holds


def test_a_name_of_let_moves_what_it_sets():
    found = match(spec(SMALL), spec("transformer"), ["params"], ["let.w"], {"params": 100})
    assert [move.label for move in found.moves] == ["let.w"]
    assert found.spec.model.width == found.spec.blocks["expert"].hidden != 384


def test_mistakes_are_told_in_words():
    one, two = spec("transformer"), spec(TINY)
    with pytest.raises(SpecError, match=r"got 'param' \(did you mean params\?\)"):
        match(one, two, ["param"])
    with pytest.raises(SpecError, match=r"one of width, .*, got 'widht' \(did you mean width\?\)"):
        match(one, two, free=["widht"])
    with pytest.raises(SpecError, match=r"got 'train\.accumulate'"):
        match(one, two, free=["train.accumulate"])
    untrained = make({key: value for key, value in document(two).items() if key not in ("train", "caps")})
    with pytest.raises(
        SpecError, match="train: expected a `train` section, which train_memory is compared by"
    ):
        match(one, untrained)
    found = match(one, untrained, ["params", "flops_per_token"])
    assert found.holds
    assert found.spec.train is None

"""Arms that say they are matched are within every budget and every bound of shape, whatever the target."""

import json
from functools import cache
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import FULL, samples
from shapes import TEXT, outside
from strategies import make, trees

from composer.costs.counting.plan import count
from composer.costs.matching.arms import arms, derived, left_out, matched
from composer.costs.matching.match import match
from composer.costs.matching.residuals import changed_sizes, csv, markdown, notes, table
from composer.costs.matching.shape import Limits
from composer.costs.matching.suggest import experts_needed, suggestions
from composer.language.description.show import document, resolved_yaml
from composer.language.load import load, loads
from composer.language.schema.shape_bounds import ShapeBounds
from composer.measures.registry import MAIN, MATCHABLE
from composer.settings.errors import SpecError

SMALL, TINY = "specs/dreamer-small.yaml", "specs/dreamer-tiny.yaml"
NEEDED = ("dr-da", "dr", "untied", "untied-attnres", "prelude-core-coda")


@cache
def target(name):
    return load(name)


@cache
def arms_of(name):
    return arms(target(name))


def within(spec, aim):
    """Which measures are within their tolerances, counted anew on the spec as it loads from YAML."""
    costs = count(loads(resolved_yaml(spec)))
    return {m: abs(costs.measure(m) / aim.measure(m) - 1) <= MATCHABLE[m] / 100 for m in MAIN}


@pytest.mark.parametrize("name", [SMALL, TINY, TEXT])
def test_each_arm_is_what_it_says_within_all_bounds(name):
    spec = target(name)
    aim = count(make({key: value for key, value in document(spec).items() if key != "caps"}))
    bases = {arm: base for arm, _, base in derived(spec)}
    assert {arm.name for arm in arms_of(name)} == set(bases) > set(NEEDED)
    for arm in arms_of(name):
        assert outside(arm.match.spec, bases[arm.name]) == []
        assert {r.measure: r.holds for r in arm.match.residuals} == within(arm.match.spec, aim)
        kinds = {block.type for block in arm.match.spec.blocks.values()}
        assert ("expert_attention" in kinds) == (not arm.optional)
        assert ("depth_attention" in kinds) == ("da" in arm.name or "core" in arm.name)
        stages = arm.match.spec.stages
        assert sum(stage.trips for stage in stages) == spec.stages[0].trips
        assert ("learned_query" in resolved_yaml(arm.match.spec)) == ("attnres" in arm.name)
        tied = [stage.tied for stage in stages]
        assert tied == (
            [False] if "untied" in arm.name else [False, True, False] if "core" in arm.name else [True]
        )
    assert next(arm for arm in arms_of(name) if arm.name == "dr-da").match.moves == ()


def test_all_arms_of_dreamer_small_are_matched_but_for_what_dense_layers_cannot_have():
    for arm in arms_of(SMALL):
        assert arm.usable
        assert arm.match.holds or arm.optional
        held = {residual.measure: residual.holds for residual in arm.match.residuals}
        assert held["flops_per_token"]


def test_an_untied_arm_without_a_sensible_shape_says_what_it_misses_and_what_would_help():
    spec, result = target(TEXT), arms_of(TEXT)
    untied = next(arm for arm in result if arm.name == "untied").match
    assert [residual.holds for residual in untied.residuals] == [False, True, True]
    block = untied.spec.blocks["expert"]
    assert block.experts >= 4 * block.active
    text = " ".join(notes(spec, result))
    assert f"misses params by +{untied.residuals[0].percent:.2f} %" in text
    assert experts_needed(spec) == 48
    assert "4 x active x steps = 48 experts or more" in text
    assert "experts_per_active" in text
    offered = suggestions(spec, result)
    assert [each.moves[0].label for each in offered] == ["expert.experts", "steps"]
    for each in offered:
        changed = load_with(spec, each)
        assert all(arm.usable for arm in arms(changed) if not arm.optional)
        assert (each.after["params"], each.after["flops_per_token"]) == (
            count(changed).params,
            count(changed).flops_per_token.forward,
        )


def test_experts_of_one_neuron_are_counted_in_all_heads():
    spec = load("specs/family/peer.yaml", ["stages=[{recur: 3, step: [seq, mlp, peer]}]"])
    assert experts_needed(spec) == 4 * (4 * 4) * 3
    limits = Limits(spec, ShapeBounds())
    assert limits.allow({})
    assert limits.widened == ["peer: heads * active 0.25 times the width"]
    assert limits.allow({"blocks.peer.experts": 64})
    assert not limits.allow({"blocks.peer.experts": 49}), "fewer than 4 for each of 16 active"
    assert not limits.allow({"blocks.peer.heads": 2}), "less of the width than the base uses"
    assert Limits(spec, ShapeBounds(experts_per_active=3)).allow({"blocks.peer.experts": 49})


def test_dense_twins_have_the_activation_of_the_experts_and_the_width_of_all_that_a_token_uses():
    spec = load("specs/family/moeut.yaml", ["blocks.moe.shared=1"])
    dense = {arm: each for arm, _, each in derived(spec)}["dr-dense"].blocks["mlp"]
    assert (dense.activation, dense.hidden) == ("relu", 16 * (4 + 1))


def test_arms_without_depth_attention_have_none_in_sequence_attention_either():
    spec = load("specs/family/moda.yaml", ["stages=[{recur: 4, step: [seq, mlp]}]"])
    found = {arm: each for arm, _, each in derived(spec)}
    assert found["dr-da"].blocks == spec.blocks, "the spec has depth attention as it is"
    for name in ("dr", "untied", "untied-attnres"):
        assert found[name].blocks["seq"].depth == "none"
        assert found[name].blocks["mlp"].kv_for is None
    steps = [stage["step"] for stage in document(found["prelude-core-coda"])["stages"]]
    assert steps == [["seq_2", "mlp_2"], ["seq", "mlp"], ["seq_2", "mlp_2"]]


def test_experts_of_one_neuron_have_a_dense_twin_of_those_that_a_token_uses():
    spec = load("specs/family/peer.yaml", ["stages=[{recur: 3, step: [seq, peer]}]", "blocks.mlp=null"])
    dense = {arm: each for arm, _, each in derived(spec)}["dr-dense"]
    (twin,) = (block for block in dense.blocks.values() if block.type == "feed_forward")
    assert (twin.activation, twin.hidden) == ("gelu", 4 * 4)


def load_with(spec, suggestion):
    tree = json.loads(json.dumps(document(spec)))
    for move in suggestion.moves:
        *steps, last = (int(step) if step.isdigit() else step for step in move.path.split("."))
        holder = tree
        for step in steps:
            holder = holder[step]
        holder[last] = move.new
    return make(tree)


def test_residuals_and_changes_are_told_as_tables_and_as_rows():
    spec, result = target(TEXT), arms_of(TEXT)
    text, rows = markdown(spec, result, "Note."), csv(result).splitlines()
    assert len(rows) == 1 + 3 * len(result)
    assert rows[0] == "arm,measure,value,target,residual_percent,tolerance_percent,matched,distance"
    verdicts = {row[0]: row[-1] for row in table(result)}
    assert verdicts["dr"] == "yes"
    assert verdicts["untied"] == "no: params"
    assert verdicts["dr-dense"] == "except params"
    lines = changed_sizes(result)
    assert max(map(len, lines)) <= 100
    for arm in result:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{arm.name}` |"))
        assert ("| yes |" in row) == arm.match.holds
        for residual in arm.match.residuals:
            assert f"{arm.name},{residual.measure},{residual.value:.0f},{residual.target:.0f}," in csv(result)
        for move in arm.match.moves:
            assert str(move) in text
            assert str(move) in "\n".join(lines)


def test_a_spec_without_depth_attention_gets_one_in_its_core_only():
    looped, nested = load("specs/looped.yaml"), load("specs/nested.yaml")
    names = {name: arm for name, _, arm in derived(looped)}
    assert set(names) == {"dr-da", "dr", "untied", "untied-attnres"}, (
        "it has a prelude and a coda of its own, and no experts"
    )
    assert [stage.step for stage in names["dr-da"].stages] == [
        ("seq", "mlp"),
        ("seq", "depth", "mlp"),
        ("seq", "mlp"),
    ]
    assert names["dr"] == make({**document(looped), "name": "looped-dr"})
    assert [bool(stage.residual) for stage in names["untied-attnres"].stages] == [False, True, False]
    by_name = {name: arm for name, _, arm in derived(nested)}
    assert "untied-attnres" not in by_name, "its core holds a stage"
    assert by_name["dr"].stages[0].step[0].step == ("seq", "mlp"), "a mix of one is no mix"
    assert not by_name["untied"].stages[0].tied


def test_nothing_to_compare_without_recurrence():
    with pytest.raises(SpecError, match="stages: expected a stage that recurs"):
        arms(load("specs/transformer.yaml"))


@st.composite
def dreamers(draw):
    """Targets of any shape, sensible or not, with training, so that memory is compared too."""
    head_dim = draw(st.sampled_from([8, 16, 32]))
    group = draw(st.sampled_from([1, 2]))
    heads = {"heads": group * draw(st.integers(1, 3)), "head_dim": head_dim}
    attention = {**heads, "kv_heads": heads["heads"] // group}
    active = draw(st.integers(1, 3))
    hidden = draw(st.sampled_from([8, 24, 64, 200]))
    mixture = {"experts": active * draw(st.integers(1, 40)), "active": active, "hidden": hidden}
    mix = {"parallel": ["seq", "depth"]}
    step = draw(st.sampled_from([["seq", "ffn"], ["seq", "depth", "ffn"], [mix, "ffn"]]))
    dense = {"type": "feed_forward", "hidden": hidden}
    blocks = {
        "seq": {"type": "sequence_attention", **attention},
        "depth": {"type": "depth_attention", **attention},
        "ffn": draw(st.sampled_from([{"type": "expert_attention", **mixture}, dense])),
    }
    used = {name for entry in step for name in (entry["parallel"] if isinstance(entry, dict) else [entry])}
    return make(
        {
            "schema": 1,
            "name": "target",
            "model": {"width": draw(st.sampled_from([32, 48, 96])), "vocab": 16, "context": 32},
            "blocks": {name: block for name, block in blocks.items() if name in used},
            "stages": [{"recur": draw(st.integers(2, 6)), "step": step}],
            "train": {
                "data": {"task": "hop", "length": 32, "symbols": 4, "hops": 2},
                "tokens": 8192,
                "batch_tokens": 1024,
            },
        }
    )


@samples(24 if FULL else 10)
@given(dreamers())
def test_whatever_the_target_a_matched_arm_is_within_all_bounds_and_budgets(spec):
    aim = count(spec)
    for name, _, base in derived(spec):
        solution = match(base, spec, give_up=())
        assert outside(solution.spec, base) == []
        assert solution.holds == all(within(solution.spec, aim).values())
        assert name != "dr-da" or "depth" not in spec.blocks or solution.holds


@samples(40 if FULL else 20)
@given(trees(levels=2), trees(levels=2))
def test_whatever_base_and_target_a_match_is_within_all_bounds_and_budgets(one, two):
    base, goal = make(one), make(two)
    on = ("params", "flops_per_token")
    solution = match(base, goal, on)
    aim, costs = count(goal), count(loads(resolved_yaml(solution.spec)))
    assert outside(solution.spec, base) == []
    off = [abs(costs.measure(m) / aim.measure(m) - 1) > MATCHABLE[m] / 100 for m in on]
    assert solution.holds == (not any(off))
    assert {move.path.split(".")[-1] for move in solution.moves} <= {
        "width", "heads", "kv_heads", "head_dim", "experts", "active", "hidden",
        "latent", "query_latent", "rope_dim",
    }  # fmt: skip
    assert solution.spec.stages == base.stages
    assert list(chain(solution.spec.blocks)) == list(base.blocks)


def test_an_arm_does_without_exits_that_it_cannot_have_and_says_so():
    spec = load("specs/family/ouro.yaml")
    by_name = {name: arm for name, _, arm in derived(spec)}
    assert by_name["dr"].stages[-1].exit.name == "gate"
    assert (by_name["untied"].stages[-1].exit.name, by_name["untied"].model.loss.name) == ("none", "last")
    assert by_name["prelude-core-coda"].model.loss.name == "last"
    assert left_out(spec, by_name["dr"]) == []
    few = [matched(name, "", by_name[name], spec, [], None) for name in ("dr", "untied")]
    assert "untied: without exit and loss of ouro." in notes(spec, few)
    truncated = load("specs/looped.yaml", ["stages.1.backprop.last=2"])
    untied = {name: arm for name, _, arm in derived(truncated)}["untied"]
    assert left_out(truncated, untied) == ["backprop"]


def test_arms_of_sampled_and_routed_stages_have_layers_for_the_steps_of_evaluation():
    for name, dropped in (
        ("huginn", ["backprop", "train"]),
        ("mixture-of-recursions-token", ["route"]),
    ):
        spec = load(f"specs/family/{name}.yaml")
        by_name = {arm: each for arm, _, each in derived(spec)}
        assert by_name["dr"].stages == spec.stages
        layers = by_name["untied"].stages[1]
        assert (layers.stack, layers.recur) == (spec.stages[1].trips, None)
        assert left_out(spec, by_name["untied"]) == dropped
        assert by_name["untied-attnres"].stages[1].residual.name == "mix"

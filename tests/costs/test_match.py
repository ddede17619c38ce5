"""Matched specs cost what their targets do, by the plain count; the same every time; or they say why not."""

from functools import cache

import pytest
from shapes import GPT, TEXT, outside
from strategies import make

from composer.costs.counting.plan import count
from composer.costs.fitting.fit import cheaper
from composer.costs.fitting.tunables import Tunables
from composer.costs.matching import match as matching
from composer.costs.matching.choices import dimensions
from composer.costs.matching.match import match
from composer.costs.matching.shape import Limits
from composer.language.description.show import document, resolved_yaml
from composer.language.load import load, loads
from composer.language.schema.shape_bounds import ShapeBounds
from composer.measures.registry import MAIN, MATCHABLE
from composer.settings.errors import SpecError

SMALL, TINY = "dreamer-small", "dreamer-tiny"
WIDE = ShapeBounds(
    width_factor=16,
    attention_ratio=(0.1, 20),
    head_dims=tuple(range(8, 257, 8)),
    hidden_ratio=(0.1, 32),
    experts_per_active=1,
)
STEPS = "width,heads,head_dim,experts,active,hidden,steps"
# base, target, what is freed and the bounds where the defaults do not reach
PAIRS = [
    (TINY, "untied-flops-tiny", None, None),
    ("recurrent-tiny", TINY, None, None),
    ("recurrent-tiny", "untied-flops-tiny", None, None),
    ("untied-params-tiny", "untied-flops-tiny", None, None),
    (TINY, "recurrent-tiny", None, WIDE),
    (SMALL, TINY, STEPS, WIDE),
]


@cache
def spec(name):
    return load(f"specs/{name}.yaml")


def freed(base, fields):
    """The tunables of a spec with these fields; `steps` are those of every stage."""
    if fields is None:
        return None
    known = {*fields.split(","), *(("recur", "stack") if "steps" in fields else ())}
    return [
        tunable.path for tunable in Tunables(base, apart=True).all if tunable.path.rpartition(".")[2] in known
    ]


def off(result, target, on=MAIN):
    """By how many tolerances each measure is off, counted anew on the result as it loads from YAML."""
    costs, aim = count(loads(resolved_yaml(result.spec))), count(bare(target))
    return {m: 100 * abs(costs.measure(m) / aim.measure(m) - 1) / MATCHABLE[m] for m in on}


def bare(target):
    return make({key: value for key, value in document(target).items() if key != "caps"})


@pytest.mark.parametrize(
    ("base", "target", "fields", "bounds"), PAIRS, ids=lambda value: str(value).split(",")[0][:20]
)
def test_shipped_specs_match_each_other(base, target, fields, bounds):
    one, two = spec(base), spec(target)
    solution = match(one, two, free=freed(one, fields), bounds=bounds)
    assert solution.holds
    assert max(off(solution, two).values()) <= 1
    assert outside(solution.spec, one, bounds) == []
    for residual in solution.residuals:
        assert residual.value == count(solution.spec).measure(residual.measure)
    assert solution.spec.train == two.train
    assert (solution.spec.model.vocab, solution.spec.model.context) == (two.model.vocab, two.model.context)
    if fields is None:
        assert [stage.trips for stage in solution.spec.stages] == [stage.trips for stage in one.stages]


def test_every_changed_value_is_told_and_none_else():
    one = spec("recurrent-tiny")
    solution = match(one, spec(TINY))
    before, after = (
        {tunable.path: tunable.value for tunable in Tunables(each, apart=True).all if tunable.part != "train"}
        for each in (one, solution.spec)
    )
    changed = {path: (before[path], after[path]) for path in before if before[path] != after[path]}
    assert {move.path: (move.old, move.new) for move in solution.moves} == changed
    assert solution.distance > 0


def test_a_gpt_of_four_layers_comes_as_near_to_a_dreamer_as_a_sensible_shape_can():
    base, target = load(GPT), load(TEXT)
    solution = match(base, target)
    assert not solution.holds
    assert outside(solution.spec, base) == []
    assert "hidden_ratio" in solution.reached
    # four layers of their own use each weight once, so that FLOPs fix their parameters
    held = {residual.measure: residual.holds for residual in solution.residuals}
    assert held == {"params": False, "flops_per_token": True, "train_memory": False}
    alone = match(base, target, ["flops_per_token"])
    assert alone.holds
    assert outside(alone.spec, base) == []


@pytest.mark.parametrize("width", [64, 1_000_000, 1_000_003])
def test_few_widths_are_tried_whatever_divides_the_base(width):
    base = load(GPT, [f"model.width={width}", "blocks.seq.head_dim=16"])
    free = [tunable for tunable in Tunables(base, apart=True).all if tunable.part == "width"]
    (widths,) = dimensions(free, Limits(base, ShapeBounds()), lambda *_: {})
    assert 5 < len(widths) < 200


def test_bounds_can_be_replaced():
    base, target = load(GPT), load("specs/dreamer-tiny.yaml", ["model.width=60", "caps=null"])
    narrow = match(base, target, ["params"])
    assert not narrow.holds
    wide = match(base, target, ["params"], bounds=ShapeBounds(width_factor=3))
    assert wide.holds
    assert wide.spec.model.width < 128 / 1.5
    grouped = load("specs/dreamer-tiny.yaml", ["caps=null", "blocks.seq.kv_heads=3"])
    on = ["cache_bytes_per_token"]
    assert match(grouped, spec(TINY), on, ["seq.heads"], bounds=ShapeBounds(groups=(3,))).holds
    assert not match(grouped, spec(TINY), on, ["depth.heads"], bounds=ShapeBounds(groups=(3,))).holds


def test_a_base_outside_a_bound_keeps_its_own_value_and_is_told():
    base = load("specs/untied-params-tiny.yaml", ["blocks.expert.experts=3", "blocks.expert.active=3"])
    solution = match(base, spec("untied-flops-tiny"), ["flops_per_token"])
    assert any("3 experts for 3 active" in text for text in solution.widened)
    assert outside(solution.spec, base) == []
    assert match(spec(TINY), spec(TINY)).widened == ()


def test_matching_is_deterministic():
    one, two = spec("recurrent-tiny"), spec(TINY)
    first, second = match(one, two), match(one, two)
    assert (first.spec, first.moves, first.residuals) == (second.spec, second.moves, second.residuals)


def test_what_costs_the_same_is_not_changed():
    solution = match(spec(TINY), spec(TINY))
    assert solution.moves == ()
    assert solution.distance == 0
    assert [residual.percent for residual in solution.residuals] == [0, 0, 0]


def test_caches_are_matched_too():
    on = [*MAIN, "cache", "depth_cache_bytes"]
    other = load(f"specs/{TINY}.yaml", ["caps=null", "blocks.depth.head_dim=32"])
    solution = match(spec(TINY), other, on)
    assert solution.holds
    assert max(off(solution, other, [*MAIN, "cache_bytes_per_token", "depth_cache_bytes"]).values()) <= 1


def test_only_what_is_freed_moves_and_tolerances_bind():
    one, two = spec("transformer"), spec("looped")
    solution = match(one, two, ["params"], ["width", "mlp.hidden"], {"params": 0.2})
    assert {move.label for move in solution.moves} <= {"width", "mlp.hidden"}
    assert abs(solution.residuals[0].percent) <= 0.2
    assert solution.spec.blocks["seq"].heads == one.blocks["seq"].heads
    assert not match(one, two, ["params"], ["seq.kv_heads"]).holds


def test_a_name_of_let_moves_what_it_sets():
    solution = match(spec(SMALL), spec("transformer"), ["params"], ["let.w"], {"params": 100})
    assert solution.spec.model.width == solution.spec.blocks["expert"].hidden
    assert {move.path for move in solution.moves} == {"model.width", "blocks.expert.hidden"}


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
    solution = match(one, untrained, ["params", "flops_per_token"])
    assert solution.spec.train is None


def test_only_numbers_that_a_field_takes_are_tried(monkeypatch):
    base, target = load("specs/family/peer.yaml"), spec(TINY)
    (tunable,) = (tunable for tunable in Tunables(base).all if tunable.label == "peer.experts")
    fewer = cheaper(base, tunable)
    assert [*fewer[:3], fewer[-1], len(fewer), fewer.index(900)] == [31**2, 30**2, 29**2, 1, 31, 1]
    tried = set()

    class Spied(matching.Coster):
        def __call__(self, tree):
            tried.add(tree["blocks"].get("peer", {"experts": 1})["experts"])
            return super().__call__(tree)

    solution = match(base, target, ["params"], measures=Spied(["params"]))
    assert {round(each**0.5) ** 2 for each in tried} == tried
    assert len(tried) > 10
    assert outside(solution.spec, base) == []


def test_what_one_block_refuses_is_not_costed():
    base, costed, coster = load("specs/family/peer.yaml"), [], matching.Coster(["params"])

    def measures(tree):
        block = tree["blocks"].get("peer")
        costed.append(block is None or block["active"] <= block["experts"] ** 0.5)
        return coster(tree) if costed[-1] else {"params": 1.0}

    matching.match_to(base, base, {"params": (50_000, 1)}, ["peer.experts", "peer.active"], measures=measures)
    assert len(costed) > 3
    assert all(costed)

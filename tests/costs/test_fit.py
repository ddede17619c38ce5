"""Over a cap: each suggestion and each fitted spec really fits, and nothing nearer does."""

import json
from fractions import Fraction
from math import log

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from samples import samples
from strategies import make, trees

from composer.cli.main import main
from composer.costs.base.budget import Budget
from composer.costs.counting.plan import count, make_plan
from composer.costs.fitting.caps import check_caps, excesses
from composer.costs.fitting.fit import Fitting, cheaper, fit, suggestions
from composer.costs.fitting.tunables import Tunables
from composer.language.load import load
from composer.language.schema.spec import Caps
from composer.settings.errors import SpecError

TINY = "specs/dreamer-tiny.yaml"
COSTS = count(load(TINY))
MEASURES = [cap for cap in Caps.model_fields if cap != "step_time"]


def over(cap, percent=80, file=TINY):
    """A spec over a cap, which for memory is below what recomputing reaches."""
    plain = ["caps=null"] if "dreamer" in file else []
    least = count(load(file, [*plain, f"caps.{cap}=1"])).measure(cap)
    return load(file, [*plain, f"caps.{cap}={int(least * percent // 100)}"])


def fits(spec):
    return not excesses(spec, count(spec))


@pytest.mark.parametrize("cap", MEASURES)
@pytest.mark.parametrize("file", [TINY, "specs/dreamer-small.yaml", "specs/nested.yaml"])
def test_each_suggestion_fits_by_itself_and_the_next_nearer_value_does_not(cap, file):
    spec = over(cap, file=file)
    moves = suggestions(make_plan(spec), [cap])[cap]
    assert moves
    source = ["caps=null"] if "dreamer" in file else []
    source.append(f"caps.{cap}={spec.caps.limit(cap)}")
    for move in moves:
        assert fits(load(file, [*source, f"{move.path}={move.new}"])), move
        tunable = next(tunable for tunable in Tunables(spec).all if tunable.path == move.path)
        assert tunable.value == move.old
        if cap == "train_memory":
            continue  # nearest for what the spec recomputes as it is
        choices = list(cheaper(spec, tunable))
        for nearer in reversed(choices[: choices.index(move.new)]):
            try:
                other = load(file, [*source, f"{move.path}={nearer}"])
            except SpecError:
                continue
            assert not fits(other), (move, nearer)
            break


def test_suggestions_mend_all_caps_where_one_tunable_can_and_else_this_one():
    source = ["caps=null", "caps.params=60k", "caps.depth_cache_bytes=600"]
    spec = load(TINY, source)
    for cap, result in suggestions(make_plan(spec), ["params", "depth_cache_bytes"]).items():
        for move in result:
            moved = load(TINY, [*source, f"{move.path}={move.new}"])
            left = {excess.cap for excess in excesses(moved, count(moved))}
            assert cap not in left
            assert (move.label == "width") <= (not left), "the width mends both"


def test_a_refusal_tells_what_to_try(capsys):
    assert main(["check", TINY, "--set", "caps.params=60k"]) == 1
    assert "(try: expert.experts 12 -> 10, " in capsys.readouterr().err
    assert main(["check", TINY, "--set", "caps.params=1"]) == 1
    assert "(no single size brings it below)" in capsys.readouterr().err


def test_a_cap_on_time_is_fitted_too():
    spec = load(TINY, ["caps=null", "caps.step_time={device: h100, hard: 1}"])
    limit = 0.8 * count(spec).step_time
    spec = load(TINY, ["caps=null", f"caps.step_time={{device: h100, hard: {limit}}}"])
    assert not fits(spec)
    fitted = fit(spec)
    assert fitted.moves
    assert fits(fitted.spec)


def test_the_fewest_tunable_change_and_those_the_least():
    spec = over("params", 90)
    (move,) = fit(spec).moves
    (every,) = suggestions(make_plan(spec), ["params"]).values()
    assert abs(log(move.new / move.old)) == min(abs(log(each.new / each.old)) for each in every)
    # neither experts nor steps alone meet both
    both = load(TINY, ["caps=null", "caps.params=9k", "caps.depth_cache_bytes=100", "model.width=24"])
    assert len(fit(both).moves) > 1


def test_a_spec_that_fits_stays_as_it_is():
    spec = load(TINY)
    fitted = fit(spec)
    assert (fitted.spec is spec, fitted.moves) == (True, ())


@samples(15)
@given(trees(levels=2), st.data())
def test_what_is_fitted_fits_and_is_not_fitted_again(tree, data):
    costs = count(make(tree))
    known = [cap for cap in MEASURES if (costs.measure(cap) or 0) > 1]
    chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
    share = st.fractions(Fraction(1, 3), Fraction(5, 4))
    caps = {cap: max(1, int(costs.measure(cap) * data.draw(share))) for cap in chosen}
    spec = make({**tree, "caps": caps})
    try:
        fitted = fit(spec)
    except SpecError:
        # what cannot fit at all has a test of its own
        assume(False)
    check_caps(fitted.spec)
    again = fit(fitted.spec)
    assert (again.spec, again.moves) == (fitted.spec, ())
    assert fit(spec).moves == fitted.moves
    for move in fitted.moves:
        assert move.new != move.old
        rest = {each.path: each.new for each in fitted.moves if each != move}
        fitting = Fitting(make_plan(spec), Budget(10**6))
        assert fitting.costs(rest) is None or fitting.over(rest), "a change that was not needed"


def test_what_cannot_fit_is_told_with_the_best_reached():
    with pytest.raises(SpecError) as caught:
        fit(load(TINY, ["caps.params=30"]))
    assert "caps.params: expected at most 30, got " in str(caught.value)
    assert " as the best reached, with width " in str(caught.value)


def test_the_command_prints_or_writes_a_spec_that_loads_and_fits(tmp_path, capsys):
    options = ["fit", TINY, "--set", "caps.params=60k"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "# dreamer-tiny fits with expert.experts 12 -> 10\n# cap " in printed
    (tmp_path / "printed.yaml").write_text(printed)
    assert main([*options, "--out", str(tmp_path / "out.yaml")]) == 0
    output = capsys.readouterr().out
    assert "params" in output
    assert f"written to {tmp_path / 'out.yaml'}" in output
    one, two = load(tmp_path / "printed.yaml"), load(tmp_path / "out.yaml")
    assert one == two
    assert fits(one)
    assert json.dumps(one.blocks["expert"].model_dump())
    assert main(["fit", TINY, "--out", str(tmp_path / "same.yaml")]) == 0
    assert "dreamer-tiny is within its caps; nothing changed" in capsys.readouterr().out
    assert load(tmp_path / "same.yaml") == load(TINY)
    assert main(["fit", TINY, "--set", "caps.params=30"]) == 1
    assert "Traceback" not in capsys.readouterr().err

"""Matched baselines come up to the caps of the space, never above, and are trained as its candidates are."""

from __future__ import annotations

import re

import pytest
from fake_training import BASELINE, FakeTraining, toy

from composer.costs.counting.plan import count
from composer.costs.fitting.caps import excesses
from composer.language.description.show import document
from composer.language.load import load
from composer.language.space import load_space
from composer.measures.registry import MATCHABLE
from composer.settings.errors import SpecError
from search.propose.baselines import baselines
from search.propose.matching import _solved
from search.propose.requirements import check_search
from search.run.study import run_search

CAPS = "caps={params: 30k}"


def matched(folder, *match, overrides=(CAPS,), text=BASELINE):
    toy(folder)
    (folder / "rival.yaml").write_text(text)
    path = folder / "space.yaml"
    entry = f"  baselines:\n    - {{spec: rival.yaml, match: [{', '.join(match)}]}}\n"
    path.write_text(path.read_text() + entry)
    return load_space(path, overrides)


@pytest.mark.parametrize(
    "caps",
    [
        {"params": "30k", "train_memory": "5MiB"},
        {"flops_per_token": "100k"},
        {"params": "38k", "flops_per_token": "80k"},
        {"active_params": "50k", "train_flops": "2.7G"},
        {"train_memory": "12MiB"},
    ],
    ids=",".join,
)
def test_each_cost_that_is_matched_comes_within_its_tolerance_below_the_cap(tmp_path, caps):
    match = [name for name in caps if caps[name] != "5MiB"]
    written = ", ".join(f"{name}: {cap}" for name, cap in caps.items())
    space = matched(tmp_path, *match, overrides=[f"caps={{{written}}}"])
    check_search(space)
    (baseline,) = baselines(space).values()
    costs, limits = count(baseline.spec), space.example().spec.caps.limits()
    for name in match:
        assert (1 - MATCHABLE[name] / 100) * limits[name] <= costs.measure(name) <= limits[name]
        assert baseline.costs[name] == costs.measure(name)
    # what holds the candidates to the cap on memory holds the baseline, too
    assert bool(costs.recomputed) == ("5MiB" in caps.values())
    assert not excesses(baseline.spec, costs)
    assert baseline.origin["moves"]
    assert [line.split()[0] for line in baseline.origin["matched"]] == match


def test_a_matched_baseline_keeps_its_architecture_and_is_trained_as_the_space_is(tmp_path):
    text = BASELINE.replace("vocab: 8, context: 32", "vocab: 16, context: 64")
    text = re.sub(
        "train: .*", "train: {data: {task: hop, length: 64, symbols: 8, hops: 3}, tokens: 1Ki}", text
    )
    space = matched(tmp_path, "params", overrides=[CAPS, "train.lr=3e-3"], text=text)
    (baseline,) = baselines(space).values()
    base, like = load(tmp_path / "rival.yaml"), space.example().spec
    assert (baseline.spec.name, baseline.stem) == ("rival-at-toy", "rival")
    assert (baseline.spec.train, baseline.spec.caps) == (like.train, like.caps)
    assert (baseline.spec.model.vocab, baseline.spec.model.context) == (8, 32)
    assert baseline.spec.stages == base.stages
    assert {name: block.type for name, block in baseline.spec.blocks.items()} == {
        name: block.type for name, block in base.blocks.items()
    }


def test_a_base_needs_no_training_of_its_own_where_it_is_matched(tmp_path):
    text = "\n".join(line for line in BASELINE.splitlines() if not line.startswith("train:"))
    (baseline,) = baselines(matched(tmp_path, "params", text=text)).values()
    (other,) = baselines(matched(tmp_path, "params")).values()
    assert document(baseline.spec) == document(other.spec)
    toy(tmp_path, baseline="rival.yaml")
    (tmp_path / "rival.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"space.yaml:24:.* a spec that can be trained, got rival.yaml"):
        load_space(tmp_path / "space.yaml")


def test_a_search_trains_the_matched_spec_and_a_resumed_one_finds_it_again(tmp_path):
    fake = FakeTraining()
    for trials in (2, 4):
        _solved.cache_clear()
        space = matched(tmp_path, "params", overrides=[CAPS, f"search.trials={trials}"])
        ended = run_search(space, tmp_path / "run", fake)
        (record,) = [record for record in ended.state.ledger if record.kind == "baseline"]
        assert record.origin == next(iter(baselines(space).values())).origin
        assert len([call for call in fake.calls if call[0] == "baselines/rival"]) == 3
    trained = load(tmp_path / "run" / "baselines" / "rival" / "spec.yaml")
    assert 29_700 <= count(trained).params <= 30_000
    assert trained.name == "rival-at-toy"
    check_search(space)


@pytest.mark.parametrize(
    ("overrides", "match", "message"),
    [
        (
            [],
            "train_flops",
            "expected a hard cap on train_flops to match it to, got none (add caps.train_flops",
        ),
        (["caps={params: {soft: 30k}}"], "params", "expected a hard cap on params to match it to, got none"),
        ([], "parms", "got 'parms' (did you mean params?)"),
        ([], "step_time", "got 'step_time'"),
    ],
)
def test_what_cannot_be_matched_is_refused_where_the_space_names_it(tmp_path, overrides, match, message):
    with pytest.raises(SpecError) as caught:
        matched(tmp_path, match, overrides=overrides)
    assert re.search(r"space\.yaml:25:\d+  search\.baselines\.0", str(caught.value))
    assert message in str(caught.value)


def test_sizes_that_meet_no_cap_are_told_with_how_far_off_they_stay(tmp_path):
    space = matched(
        tmp_path, "params", "flops_per_token", overrides=["caps={params: 1M, flops_per_token: 9k}"]
    )
    with pytest.raises(SpecError) as caught:
        check_search(space)
    message = str(caught.value)
    assert re.search(r"space\.yaml:25:\d+  search\.baselines\.0: expected sizes that bring params", message)
    assert re.search(
        r"flops_per_token within 2 % below 9k, got at best params \S+ of 1M, flops\S+ \S+ of 9k", message
    )


def test_the_space_may_replace_bounds_of_shape(tmp_path):
    caps = "caps={params: 300k, flops_per_token: 2M}"
    with pytest.raises(SpecError, match="give it wider bounds"):
        check_search(matched(tmp_path, "params", overrides=[caps]))
    path = tmp_path / "space.yaml"
    text = path.read_text().replace("params]}", "params], bounds: {BOUNDS}}")
    path.write_text(text.replace("BOUNDS", "width_factor: 4"))
    space = load_space(path, [caps])
    check_search(space)
    (baseline,) = baselines(space).values()
    assert baseline.spec.model.width > 1.5 * 32
    assert baseline.origin["distance"] > 0
    path.write_text(text.replace("BOUNDS", "hidden_ratio: [4, 1]"))
    with pytest.raises(SpecError, match=r"space.yaml:25:.*expected hidden_ratio with the least first"):
        load_space(path, [caps])


def test_caps_that_are_not_matched_hold_too(tmp_path):
    space = matched(tmp_path, "params", overrides=["caps={params: 60k, flops_per_token: 50k}"])
    with pytest.raises(SpecError) as caught:
        check_search(space)
    assert re.search(
        r"space\.yaml:25:\d+  search\.baselines\.0: .*flops_per_token \S+, \S+ % over", str(caught.value)
    )
    assert "match it to flops_per_token, too" in str(caught.value)

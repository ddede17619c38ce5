"""Study files: what they may say, and what is wrong with the others."""

import pytest
from fake_training import BASELINE
from studies import STUDY, toy_study

from composer.language.load import load
from composer.settings.errors import SpecError
from search.study.load import load_study

CLAIM = "claims: [{{arm: looped, against: untied{}}}]\n"


def test_every_arm_is_matched_to_the_base_and_trained_as_it_is(tmp_path):
    study = toy_study(tmp_path)
    looped, untied = study.arms
    assert looped.changes == "nothing"
    assert looped.residuals[0].percent == 0
    assert all(residual.holds for residual in untied.residuals)
    assert {arm.spec.train for arm in study.arms} == {looped.spec.train}


def test_a_spec_is_told_from_a_study_in_one_line(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(BASELINE)
    with pytest.raises(SpecError, match=r"arms: expected a study, which has `arms:`, got a spec") as error:
        load_study(path)
    assert len(error.value.faults) == 1


def test_derived_arms_and_sizes(tmp_path):
    text = STUDY.replace("untied: {set", "own: {derive: untied}\n  untied: {set")
    text += "sizes: {small: [], large: ['blocks.mlp.hidden=128']}\n"
    study = toy_study(tmp_path, text=text)
    assert [arm.title for arm in study.arms] == [
        f"{name} {size}" for size in ("small", "large") for name in ("looped", "own", "untied")
    ]
    assert study.arms[4].spec.blocks["mlp"].hidden == 128
    assert study.arms[1].spec.stages[0].stack == 2


def test_a_study_in_another_folder_extends_one_with_its_specs(tmp_path):
    toy_study(tmp_path)
    (tmp_path / "below").mkdir()
    path = tmp_path / "below/study.yaml"
    path.write_text("extends: ../study.yaml\nname: wider\nset: [model.width=64]\narms: {looped: {set: []}}\n")
    study = load_study(path)
    assert study.name == "study-wider"
    assert {arm.spec.model.width for arm in study.arms} == {64}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            STUDY.replace("budgets: [4Ki, 8Ki]", "budgets: [8Ki, 4Ki]"),
            "budgets in ascending order, each once",
        ),
        (STUDY.replace("rates: [1e-3, 2e-3]", "rates: []"), "study.yaml:8:8  rates: expected a list"),
        (
            STUDY.replace("seeds: 2", "seed: 2"),
            "study.yaml:9:1  seed: expected a known key, got seed (did you mean seeds?",
        ),
        (STUDY.replace("base.yaml", "bas.yaml"), "study.yaml:3:7  base: file not found"),
        (STUDY.replace("base: base.yaml\n", ""), "base: "),
        (STUDY + "warmup: 4000\n", "a warmup that ends before the first budget decays"),
        (
            STUDY + "measure: acuracy\n",
            "study.yaml:11:10  measure: expected a score that the task hop measures",
        ),
        (STUDY + "reference: loped\n", "(did you mean looped?)"),
        (STUDY + CLAIM.format("").replace("untied", "none"), "claims.0.against: expected one of the arms"),
        (STUDY + CLAIM.format("").replace("untied", "looped"), "claims.0.against: expected another arm"),
        (STUDY + CLAIM.format(", measure: tokens"), "claims.0.measure: expected tokens_to_"),
        (STUDY + CLAIM.format(", measure: tokens_to_speed"), "claims.0.measure: expected a score that"),
        (STUDY.replace("stack: 2", "stak: 2"), "study.yaml:7:11  arms.untied: stages.0"),
        (
            STUDY.replace("looped: {}", "looped: {derive: dra}"),
            "an arm that can be derived from base.yaml: dr-da",
        ),
        (
            STUDY.replace("looped: {}", "looped: {derive: dr, set: []}").replace("set: []", "match: []"),
            "derive alone",
        ),
        (
            STUDY.replace("[flops_per_token]", "[params, flops_per_token]"),
            "a shape that costs as much as the base",
        ),
    ],
)
def test_a_bad_study_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(SpecError) as error:
        toy_study(tmp_path, text=text)
    assert message in str(error.value)


def test_a_claim_without_a_measure_is_about_the_tokens_to_the_measure_of_the_study(tmp_path):
    text = STUDY + CLAIM.format("}, {arm: untied, against: looped, measure: flops_to_accuracy")
    study = toy_study(tmp_path, "measure=loss", text=text)
    assert [each.measure for each in study.config.measured_claims] == ["tokens_to_loss", "flops_to_accuracy"]
    claims = [str(each) for each in study.config.measured_claims]
    assert claims[0] == "looped needs fewer tokens than untied for equal loss"
    assert claims[1] == "untied needs fewer FLOPs than looped for equal accuracy"


def test_costs_that_an_arm_need_not_match_are_told_all_the_same(tmp_path):
    text = STUDY.replace("untied: {set", "untied: {match: [], set").replace(
        "[flops_per_token]", "[params, flops_per_token]"
    )
    by_name = {each.measure: each.percent for each in toy_study(tmp_path, text=text).arms[1].residuals}
    assert by_name.keys() == {"params", "flops_per_token"}
    assert by_name["params"] > 1


def test_all_faults_are_told_at_once(tmp_path):
    with pytest.raises(SpecError) as error:
        toy_study(tmp_path, "measure=x", "reference=y", "arms.untied.set=['a=1']")
    assert len(error.value.faults) == 3


def test_a_study_that_is_taken_for_a_spec_says_which_command_it_is_for(tmp_path):
    toy_study(tmp_path)
    with pytest.raises(SpecError, match=r"5:1  arms: expected a spec, got a study.*`composer study`"):
        load(tmp_path / "study.yaml")

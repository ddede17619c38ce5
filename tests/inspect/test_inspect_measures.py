"""Each measure against hand computations, planted models, and what models compute by other ways."""

import json
import math
from pathlib import Path

import pytest
import torch
from cases import CASES, DREAMER, FFN, one, tree
from models import compiled, tokens_for

from blocks.depth_attention.operations import Attend
from composer.inspect import measures
from composer.inspect.base.left_out import LeftOut
from composer.inspect.base.routing import Routing, distinct_by_chance, routings
from composer.inspect.base.score import Targets, kl, score
from composer.inspect.base.subject import Subject
from composer.inspect.find import find_measures
from composer.inspect.inspect import as_json, inspect
from composer.inspect.measures import depth_maps, diversity, experts, knowledge, lens, state, steps
from composer.inspect.measures.lens import flip
from composer.inspect.page import page

FILES = {path.stem for path in Path(measures.__file__).parent.glob("*.py")} - {"__init__"}


def subject(case, **options):
    """A model with random weights, shown two sequences, each of a group of its own."""
    model = compiled(case, **options)
    tokens = tokens_for(model.spec)
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100
    made = Subject("t", model, tokens, targets, torch.tensor([3, 5]))
    made.targets = Targets(targets, made.targets.group, {3: "k3", 5: "k5"})
    return made


def values_of(measure, made):
    progress = []
    values = measure.run(made, lambda done, of: progress.append((done, of))).values
    assert all(done <= of for done, of in progress)
    return values


def test_a_file_is_a_measure_and_all_have_definitions():
    result = find_measures()
    assert len(result) == len(FILES) == len({each.name for each in result})
    assert all(len(" ".join(each.definition)) > 100 for each in result)


def test_scores_are_those_of_a_computation_by_hand():
    # targets 0, 1, 2 and one that is not scored
    logits = torch.tensor([[[2.0, 0, 0], [0, 0, 0], [1, 0, 0.5], [9, 9, 9]]])
    targets = Targets(torch.tensor([[0, 1, 2, -100]]), torch.tensor([0]), {0: "k0"})
    made = score(logits, targets)
    losses = [math.log(1 + 2 * math.exp(-2)), math.log(3), math.log(math.e + 1 + math.exp(0.5)) - 0.5]
    assert made.loss == {"all": pytest.approx(sum(losses) / 3)}
    assert made.accuracy == {"all": pytest.approx(1 / 3)}
    assert made.rank == {"all": pytest.approx((1 + 2 + 2) / 3)}
    other = score(torch.tensor([[[0.0, 2, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]]), targets)
    assert flip(made, other, targets) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    half = torch.tensor([0.5, 0.5]).log()
    assert kl(half, half).item() == 0
    assert kl(half, torch.tensor([0.25, 0.75]).log()).item() == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    )


@pytest.mark.parametrize("case", ["dreamer", "prelude, core, coda", "residual {'streams': 2}"])
def test_the_lens_says_what_the_model_says_if_it_stops_there(case):
    made = subject(CASES[case] if case in CASES else one(FFN, residual={"streams": 2}))
    said = [*made.lens()]
    assert said[-1].equal(made.run())
    for step in range(1, made.steps):
        torch.testing.assert_close(said[step], made.run({made.stage: step}))
    values = values_of(lens.MEASURE, made)
    whole = score(made.run(), made.targets)
    assert values["loss"]["all"][-1] == whole.loss["all"]
    assert values["accuracy"]["k5"][-1] == whole.accuracy["k5"]
    assert len(values["steps"]) == len(values["rank"]["k3"]) == made.steps + 1
    assert len(values["gained"]) == made.steps


def test_a_step_that_changes_nothing_has_cosine_1_and_kl_0():
    made = subject(one(FFN))
    with torch.no_grad():
        made.model.get_parameter("stages.0.step.0.b.down").zero_()
    values = values_of(state.MEASURE, made)
    assert values["kl"] == [0.0] * 3
    assert values["change"] == [0.0] * 3
    assert values["cosine"] == pytest.approx([1.0] * 3)
    assert values["norm"] == [values["norm"][0]] * 4
    result = values_of(lens.MEASURE, made)
    assert result["gained"] == result["lost"] == [0.0] * 3
    lost = values_of(knowledge.MEASURE, made)["steps"]
    whole = score(made.run(), made.targets)
    assert all(each["loss"] == whole.loss for each in lost.values())


@pytest.mark.parametrize(
    "case",
    [
        "dreamer",
        "depth, exclusive",
        "depth, window and stride, exclusive",
        "depth, bias by distance",
        "depth, everything at once",
        "depth over all stages of the model",
        "depth over the keys and values of sequence attention",
        "depth in a stack",
    ],
)
def test_maps_of_depth_attention_are_the_weights_it_reads_by(case):
    made = subject(CASES[case])
    places = made.places(Attend)
    assert places
    for place in places:
        node = place.graph.node(place.name)
        slots, own = place.maker(node.inputs[2]), f"{place.path}{place.name}"
        depth_map = depth_maps.depth_map(made, place)
        with made.recorded(own, internal=(slots,)) as seen:
            made.model(made.tokens)
        for row, (step, read) in enumerate(seen.all_steps(own).items()):
            memory = next(each for at, each in seen.all_steps(slots).items() if step[: len(at)] == at)
            group = read.shape[2] // memory.values.shape[3]
            values = memory.values.nan_to_num().repeat_interleave(group, 3)
            weights = depth_map.weights[row]
            values = torch.where(weights.movedim(-1, 0).unsqueeze(-1) > 0, values, 0)
            torch.testing.assert_close(torch.einsum("bshn,nbshd->bshd", weights, values), read)
    values = values_of(depth_maps.MEASURE, made)
    assert {*values} == {f"{place.path}{place.name}" for place in places}


def planted(chosen, experts, tied=True):
    return Routing(None, [], chosen, torch.ones_like(chosen, dtype=torch.float), experts, tied)


def test_a_uniform_router_is_as_diverse_as_chance_and_a_constant_one_as_little_as_can_be():
    torch.manual_seed(0)
    chosen = torch.rand(6, 40, 100, 12).topk(2, -1).indices
    values = diversity.diversity(planted(chosen, 12))
    assert values["times chance"] == pytest.approx(1, rel=0.01)
    assert (
        values["distinct by chance"]
        == distinct_by_chance(12, 2, 6)
        == pytest.approx(12 * (1 - (10 / 12) ** 6))
    )
    assert values["same set as the step before"] == pytest.approx(values["same set by chance"], rel=0.2)
    assert values["overlap with the step before"] == pytest.approx(values["overlap by chance"], rel=0.02)
    # all 12 take part at each step, where an untied mixture of 12 has 2 for each of 6 layers
    assert values["times an untied mixture"] == pytest.approx(6, rel=0.01)
    same = diversity.diversity(planted(chosen[:1].expand(6, -1, -1, -1), 12))
    assert same["distinct over depth"] == 2
    assert same["same set as the step before"] == same["overlap with the step before"] == 1
    # each token goes through all experts in turn
    turn = (torch.arange(6).view(6, 1, 1, 1) * 2 + torch.arange(2)).expand(6, 5, 7, 2)
    assert diversity.diversity(planted(turn, 12))["distinct over depth"] == 12
    layers = diversity.diversity(planted(chosen, 12, tied=False))
    assert layers["times an untied mixture"] == pytest.approx(1, rel=0.01)
    assert "distinct over depth" not in layers


def test_experts_that_are_always_chosen_have_all_the_load_and_others_are_not_missed():
    made = subject(DREAMER)
    layer = "stages.0.step.2.expert"
    with torch.no_grad():
        made.model.get_buffer(f"{layer}.balance").copy_(torch.tensor([9e3, 0, 9e3, 0, 0]))
    (values,) = values_of(experts.MEASURE, made).values()
    assert values["load"] == [[0.5, 0, 0.5, 0, 0]] * 3
    assert values["effective experts"] == pytest.approx([2.0] * 3)
    assert values["load entropy"] == pytest.approx([math.log(2) / math.log(5)] * 3)
    assert values["overlap"] == [[1.0] * 3] * 3
    (figures,) = values_of(diversity.MEASURE, made).values()
    assert figures["distinct over depth"] == 2
    before = {name: each.clone() for name, each in made.model.state_dict().items()}
    lost = values_of(knowledge.MEASURE, made)
    assert lost["experts"]["2"]["loss"] == lost["loss"]
    assert lost["experts"]["1"]["loss"] != lost["loss"]
    assert {*lost["slots"]} == {*lost["steps"]} == {"1", "2", "3"}
    assert all(each["loss"] != lost["loss"] for each in lost["steps"].values())
    # the value of the only slot that the first step reads decides what it reads
    assert lost["slots"]["1"]["loss"] != lost["loss"]
    assert all(each.equal(before[name]) for name, each in made.model.state_dict().items())


def test_without_a_step_the_state_passes_by_it():
    made = subject(one(FFN))
    whole = values_of(knowledge.MEASURE, made)
    # steps of a block that sees the state alone: one step less is the model with one step less
    assert whole["steps"]["3"]["loss"] == pytest.approx(score(made.run({"stages.0": 2}), made.targets).loss)
    assert whole["left out"] == [
        "No slots: the model has no depth attention.",
        "No experts: The model has no block of type expert_attention.",
    ]


def test_quality_against_steps_holds_the_trained_number_and_goes_to_four_times():
    made = subject(DREAMER)
    values = values_of(steps.MEASURE, made)
    assert values["trained"] == 3
    assert values["steps"] == [2, 3, 4, 6, 9, 12]
    whole = score(made.run(), made.targets)
    assert [values["loss"][group][1] for group in ("all", "k3")] == [whole.loss["all"], whole.loss["k3"]]


@pytest.mark.parametrize(
    ("case", "measure", "reason"),
    [
        (one(FFN), depth_maps, r"The model has no depth attention\."),
        (one(FFN), experts, r"The model has no block of type expert_attention\."),
        (one(FFN), diversity, r"The model has no block of type expert_attention\."),
        (CASES["expert, a capacity"], experts, "Its experts have a capacity or choose tokens"),
        (tree({"f": FFN}, {"stack": 2, "step": ["f"]}), steps, "No stage is recurrent"),
        (one(FFN, residual={"mix": "static"}), lens, r"The steps of stages\.0 hand on no state"),
        (one(FFN, residual={"mix": "static"}), state, r"The steps of stages\.0 hand on no state"),
        (CASES["expert, depth bias"], steps, "Other numbers of steps cannot run: .*for each step"),
    ],
)
def test_a_measure_that_does_not_apply_says_why(case, measure, reason):
    with pytest.raises(LeftOut, match=reason):
        measure.MEASURE.run(subject(case), lambda done, of: None)


def test_untied_layers_have_experts_of_their_own():
    made = subject(tree(DREAMER["blocks"], {"stack": 2, "step": ["seq", "depth", "expert"]}))
    (routing,) = routings(made)
    assert not routing.tied
    assert routing.pool == 10
    (values,) = values_of(experts.MEASURE, made).values()
    assert "overlap" not in values
    assert "No experts: layers have experts of their own" in " ".join(
        values_of(knowledge.MEASURE, made)["left out"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_model_is_inspected(case):
    made, every = subject(CASES[case]), find_measures()
    inspected = inspect(made, Path("weights"), every)
    assert inspected.results.keys() == {each.name for each in every}
    json.dumps(as_json([inspected], every), allow_nan=False)
    assert page([inspected, inspected], every).startswith("<!doctype html>")

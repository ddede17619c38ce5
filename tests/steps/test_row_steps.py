"""`per: sequence`: rows of a batch run numbers of steps of their own, and each comes out as if alone."""

from collections import Counter
from itertools import product
from unittest.mock import patch

import lightning
import pytest
import torch
from cases import DEPTH, EXPERT, FFN, LATENT, SEQ, tree
from models import check_saved, compiled, tokens_for
from strategies import make

import composer
from composer.costs.base.precision import BF16
from composer.costs.counting.count import longest_graph
from composer.costs.counting.plan import count, make_plan
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.graph.other_steps import training_graphs
from composer.language.schema.row_steps import RowSteps
from composer.language.schema.steps import drawn_steps, step_mix, trained_steps, with_steps
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError
from composer.testing.memory import measured
from composer.testing.modes import MODES

TRAIN = {
    "data": {"task": "hop", "length": 32, "symbols": 4},
    "tokens": 2560,
    "batch_tokens": 512,
    "accumulate": 2,
    "precision": 32,
}
BLOCKS = {
    "s": SEQ,
    "d": DEPTH,
    "f": FFN,
    "e": EXPERT,
    "l": LATENT,
    "joint": {**SEQ, "depth": "joint"},
    "all": {**SEQ, "steps": "all"},
}
ROWS = (2, 4, 1, 3)


def apart(step=("s", "d", "f"), train=None, steps=3, **rest):
    recur = {"steps": steps, "per": "sequence", "train": train or {"uniform": [1, 4]}}
    return {"recur": recur, "step": [*step], **rest}


def spec(*stages, model=(), **rest):
    blocks = {name: block for name, block in BLOCKS.items() if f"'{name}'" in str(stages)}
    plain = tree(blocks, *stages)
    plain["model"] = {**plain["model"], "vocab": 300, "context": 32, **dict(model)}
    return make({**plain, **rest})


CORE = {"step": ("s", "f"), "inject": "diagonal", "start": "noise", "backprop": {"last": 2}}
CASES = {
    "depth attention": ("stages.1", {"stack": 1, "step": ["s"]}, apart(), {"stack": 1, "step": ["f"]}),
    "the stage's input as a slot": ("stages.0", apart(("i", "f"))),
    "experts by step": ("stages.0", apart(("s", "e"))),
    "keys and values of all steps": ("stages.0", apart(("all", "joint", "l"))),
    "skipped at first": ("stages.0", apart(("s", {"use": "d", "at": "::2"}, "f"))),
    "step codes": ("stages.0", apart(("s", "f"), step_code="sinusoidal", inject="add")),
    "streams": ("stages.0", apart(residual={"streams": 2, "mix": "dynamic"})),
    "halting": ("stages.0", apart(("s", "f"), halt={"act": 0.1})),
    "a stage inside": ("stages.0", apart(("s", {"recur": 2, "step": ["d", "f"]}))),
    "inside a stage": ("stages.0.1", {"recur": 2, "step": ["s", apart(("d", "f"))]}),
    "inside, skipped": ("stages.0.1", {"recur": 3, "step": ["s", apart(("d", "f"), at="1:")]}),
    "truncated": ("stages.1", {"stack": 1, "step": ["s", "f"]}, apart(**CORE)),
    "truncated streams": ("stages.0", apart(**CORE, residual={"streams": 2, "per": "step"})),
}
BLOCKS["i"] = {**DEPTH, "input": True}


@pytest.mark.parametrize("name", CASES)
def test_each_row_is_that_of_a_model_with_its_number_of_steps(name):
    place, *stages = CASES[name]
    built = spec(*stages)
    training_graphs(built)
    model = compiled(built).double().eval()
    tokens = tokens_for(built, len(ROWS))
    weights = torch.randn(4, 32, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = model(tokens, steps={place: ROWS})
    (y * weights).sum().backward()
    together = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    for n, steps in enumerate(ROWS):
        alone = model(tokens[n : n + 1], steps={place: steps})
        assert torch.allclose(y[n : n + 1], alone, atol=1e-11), f"row {n}"
        (alone * weights[n : n + 1]).sum().backward()
    for name, weight in model.named_parameters():
        got = torch.zeros(()) if together[name] is None else together[name]
        assert torch.allclose(got, torch.zeros(()) if weight.grad is None else weight.grad, atol=1e-9), name
    # evaluation has nothing of it
    assert "keep_rows" not in make_plan(built).text
    if name != "inside, skipped":
        assert torch.equal(model(tokens), model(tokens, steps={place: 3}))


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ([apart(train="fixed")], "recur.per: expected batch beside train: fixed"),
        ([apart(train={"at": 0.5})], "all sequences the same number"),
        ([apart(residual={"scale": "1/steps"})], "depends on the number of steps"),
        ([apart(({"use": "s", "at": "-1:"}, "f"))], "counted from the last one"),
        ([apart(residual={"mix": "learned_query"})], "read behind the stage"),
        ([apart(("out", "f")), {"stack": 1, "step": ["out"]}], "read behind the stage"),
        ([apart(("z", "f"))], "a loss over the tokens of all rows"),
        ([apart(**{**CORE, "step": ("s", "d", "f")})], "rows with fewer steps begin later"),
        ([apart(**CORE, step_code="sinusoidal")], "depends on which step it is"),
        ([apart(**{**CORE, "start": "input"})], "where the steps start, needs gradients"),
    ],
)
def test_what_would_tell_other_rows_apart_is_refused(stages, why):
    blocks = {**BLOCKS, "out": {**DEPTH, "depth_scope": "model"}, "z": {**EXPERT, "z_loss": 0.1}}
    with patch.dict(BLOCKS, blocks), pytest.raises(SpecError, match=why) as raised:
        count(spec(*stages))
    assert [fault.path for fault in raised.value.faults] == ["stages.0.recur.per"]


def test_losses_of_each_step_are_refused_and_so_are_other_numbers_of_rows():
    with pytest.raises(SpecError, match="training varies the number of steps"):
        spec(apart(), model={"loss": {"steps": "uniform"}})
    model = compiled(spec({"recur": 3, "step": ["s", "f"]}, model={"loss": {"steps": "uniform"}}))
    tokens = tokens_for(model.spec, 2)
    with pytest.raises(SpecError, match="the loss reads the state after each step"):
        model.loss(tokens, tokens, steps=[1, 2])
    model = compiled(spec(apart()))
    messages = {(1, 2, 3): "for 2 rows, got 3", (): "for each row", (1, 0): "at least 1", 2.0: "got 2.0"}
    for steps, why in messages.items():
        with pytest.raises(ValueError, match=why):
            model(tokens, steps=steps)


def test_numbers_depend_on_the_place_in_the_batch_however_it_is_split():
    built = spec(apart(), train=TRAIN)

    def numbers(ranks, micro_batches):
        rows = 16 // ranks // micro_batches
        drawn = [
            drawn_steps(built, 3, m, rows, rank, ranks)["stages.0"]
            for m, rank in product(range(micro_batches), range(ranks))
        ]
        for m in range(micro_batches):
            same = drawn[m * ranks : (m + 1) * ranks]
            assert {*same} == {max(n for each in same for n in each.rows)}, "devices run other numbers"
        return [n for each in drawn for n in each.rows]

    assert len({*numbers(1, 1)}) == 4
    assert numbers(1, 1) == numbers(1, 2) == numbers(2, 2) == numbers(4, 1)
    assert drawn_steps(built, 3, 1)["stages.0"].rows == (*numbers(1, 2)[8:],)
    assert numbers(1, 1) != [n for m in range(2) for n in drawn_steps(built, 4, m)["stages.0"].rows]


def test_what_runs_is_the_largest_of_as_many_draws_as_there_are_rows():
    built = spec(apart(), train=TRAIN)
    shares = {numbers["stages.0"]: share for share, numbers in step_mix(built)}
    ends = [0, *((n / 4) ** 8 for n in range(1, 5))]
    assert shares == pytest.approx({n: ends[n] - ends[n - 1] for n in range(1, 5)})
    drawn = Counter(drawn_steps(built, n, 0)["stages.0"] for n in range(2000))
    assert drawn[4] / 2000 == pytest.approx(shares[4], abs=0.03)
    rows = Counter(n for step in range(500) for n in drawn_steps(built, step, 0)["stages.0"].rows)
    assert all(abs(rows[n] / 4000 - 0.25) < 0.035 for n in range(1, 5))
    assert trained_steps(built)["stages.0"].expected == pytest.approx(sum(n * s for n, s in shares.items()))
    costs = count(built)
    each = sum(share * count(with_steps(built, {"stages.0": n})).train_flops for n, share in shares.items())
    assert costs.train_flops == pytest.approx(each, abs=1)
    assert costs.flops_per_token == count(with_steps(built, {"stages.0": 3})).flops_per_token
    # one sequence at a time draws as a batch does
    single = spec(apart(), train={**TRAIN, "batch_tokens": 32, "accumulate": 1})
    single = {numbers["stages.0"]: share for share, numbers in step_mix(single)}
    assert single == pytest.approx(dict.fromkeys(range(1, 5), 0.25))


@pytest.mark.parametrize("name", ["depth attention", "streams", "halting", "inside a stage", "truncated"])
def test_memory_is_that_of_the_largest_number(name):
    built = spec(*CASES[name][1:])
    graph = longest_graph(built, compile_graph(built))
    predicted = Memory(graph, Batch(16 * 32, 32, BF16)).total
    assert predicted == pytest.approx(measured(built, 16, fake=False), rel=0.01)
    model = ComposedModel(built)
    model.set_steps({CASES[name][0]: RowSteps(4)})
    check_saved(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["depth attention", "truncated"])
@pytest.mark.parametrize("way", [way for way in MODES if way != "other numbers of steps"])
def test_it_trains_in_every_way(name, way):
    built = spec(*CASES[name][1:])
    MODES[way](built.model_dump(by_alias=True, exclude_none=True))


def test_a_trainer_draws_for_each_sequence():
    built = spec(apart(), train=TRAIN)
    model = composer.compile(built)
    seen = []
    real = ComposedModel._losses

    def losses(self, tokens, targets, **how):
        seen.append((self.stages[0].loop.trips, self._switch.steps["stages.0"].rows))
        return real(self, tokens, targets, **how)

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    with patch.object(ComposedModel, "_losses", losses):
        trainer = lightning.Trainer(**options, accelerator="cpu", enable_model_summary=False)
        trainer.fit(model, composer.datamodule(built))
    drawn = [drawn_steps(built, step, micro)["stages.0"] for step in range(5) for micro in range(2)]
    assert seen == [(int(each), each.rows) for each in drawn]
    assert model.plan.spec is model.spec

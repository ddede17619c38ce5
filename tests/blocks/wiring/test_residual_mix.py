"""Residual mixes: each sublayer reads a weighted sum of the outputs of all earlier ones."""

import pytest
import torch
from cases import DEPTH, FFN, SEQ, tree
from loop_proofs import *  # noqa: F403
from loop_proofs import regions_compute_the_same, shaken
from models import check_other_steps, close, gradients, tokens_for
from strategies import make

from blocks.wiring.residual.mix.reference import attend, attend_stacked, values, write
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError

BLOCKS = {"seq": SEQ, "ffn": FFN, "depth": DEPTH}
QUERY = {"mix": "learned_query"}
STAGES = {
    "tied": [
        {"recur": 3, "step": ["seq", {"parallel": ["seq", "depth"]}], "residual": {**QUERY, "heads": 2}}
    ],
    "untied": [{"stack": 3, "step": ["seq", "ffn"], "residual": QUERY}],
    "two stages": [
        {"stack": 2, "step": ["seq"], "residual": QUERY},
        {"recur": 2, "step": ["ffn", "seq"], "residual": QUERY},
    ],
    "static": [{"recur": 3, "step": ["seq", "ffn"], "residual": {"mix": "static", "heads": 3}}],
    "static stack": [{"stack": 2, "step": ["seq", "ffn"], "residual": {"mix": "static"}}],
    "blocks": [{"recur": 3, "step": ["seq", "ffn", "depth"], "residual": {**QUERY, "over": "blocks"}}],
    "blocks of two": [
        {
            "stack": 2,
            "step": ["seq", "ffn", "seq", "ffn", "seq"],
            "residual": {"mix": "static", "over": 2},
        }
    ],
    "states": [{"recur": 3, "step": ["seq", "ffn"], "residual": {"mix": "static", "of": "states"}}],
    "states of blocks": [
        {
            "stack": 2,
            "step": ["seq", "ffn", "depth", "ffn", "seq"],
            "residual": {"mix": "static", "of": "states", "over": 2, "period": 4, "heads": 2},
        }
    ],
    "token": [
        {
            "recur": 2,
            "step": ["seq", "ffn", "depth"],
            "residual": {"mix": "token", "of": "states", "over": 2, "heads": 2},
        }
    ],
    "muddformer": [
        {
            "stack": 2,
            "step": ["seq", "ffn"],
            "residual": {
                "mix": "token",
                "of": "states",
                "over": "blocks",
                "period": 2,
                "views": ["residual", "v", "k", "q"],
            },
        }
    ],
    "views": [
        {
            "recur": 2,
            "step": ["seq", {"parallel": ["seq", "ffn"], "combine": "gate"}, "depth", "ffn"],
            "norm": "scores",
            "residual": {"mix": "static", "views": ["q", "v", "residual"], "period": 2},
        }
    ],
    "deepcrossattention": [
        {
            "recur": 2,
            "step": ["seq", "ffn", "depth"],
            "residual": {"mix": "relu_query", "over": 2, "period": 2, "views": ["k", "v"], "heads": 2},
        }
    ],
    "softmax over states": [
        {"recur": 2, "step": ["seq", "ffn", "seq"], "residual": {**QUERY, "of": "states", "over": "blocks"}}
    ],
    "every other sublayer": [
        {
            "recur": 2,
            "step": ["seq", "ffn", "seq", "depth", "ffn"],
            "residual": {"mix": "static", "over": 3, "period": 2},
        }
    ],
    "nested": [{"recur": 2, "step": ["seq", {"stack": 2, "step": ["ffn"], "residual": QUERY}, "depth"]}],
}


def spec_of(*stages):
    used = {name for name in BLOCKS if name in str(stages)}
    return make(tree({name: BLOCKS[name] for name in used}, *stages, width=12))


SLOW = ("states of blocks", "softmax over states", "token", "every other sublayer", "blocks of two")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in STAGES])
def spec(request):
    return spec_of(*STAGES[request.param])


def test_regions_between_mixes_compute_the_same():
    spec = spec_of(*STAGES["untied"])
    tokens = tokens_for(spec)
    regions_compute_the_same(spec, tokens, gradients(shaken(spec), tokens))


def test_it_starts_as_the_mean_of_all_values():
    memory, token = values(torch.zeros(1, 2), 2, 4)
    given = [torch.randn(1, 2, 4) for _ in range(3)]
    for slot, value in enumerate(given[1:]):
        token = write(value, token, memory, slot)
    query = ComposedModel(spec_of(*STAGES["untied"])).get_parameter("stages.0.mix")
    mixed = attend(given[0], token, memory, query.detach()[:4], reads=2, heads=1)
    assert torch.allclose(mixed, sum(given) / 3, atol=1e-6)


@pytest.mark.parametrize(("batch", "length", "heads", "reads"), [(1, 1, 1, 1), (3, 7, 2, 3), (2, 5, 6, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_mix_equals_the_softmax_over_a_stack(batch, length, heads, reads, dtype):
    draw = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=draw).to(dtype).requires_grad_()

    start, query, gradient = random(batch, length, 12), random(12), random(batch, length, 12)
    given = [random(batch, length, 12) for _ in range(reads)]
    memory, token = values(torch.zeros(batch, length), max(reads, 1), 12)
    for slot, value in enumerate(given):
        token = write(value, token, memory, slot)
    leaves = [start, query, *given]
    ours = attend(start, token, memory, query, reads=reads, heads=heads)
    grads = torch.autograd.grad(ours, leaves, gradient)
    plain = attend_stacked(torch.stack([start, *given]), query, heads)
    expected = torch.autograd.grad(plain, leaves, gradient)
    named = {str(n): each.double() for n, each in enumerate([ours, *grads])}
    close(
        named,
        {str(n): each.double() for n, each in enumerate([plain, *expected])},
        1e-12 if dtype is torch.float64 else 2e-2,
    )


def test_the_gradient_of_tied_weights_is_the_sum_of_those_of_untied_copies():
    def built(kind):
        return spec_of({kind: 3, "step": ["seq", "ffn"], "residual": {**QUERY, "over": "blocks"}})

    tied, untied = shaken(built("recur")), ComposedModel(built("stack"))
    copies = {
        name.replace(".step.", f".layers.{n}."): tensor
        for name, tensor in tied.state_dict().items()
        for n in range(3)
    }
    untied.load_state_dict(copies)
    tokens = tokens_for(tied.spec)
    grads, apart = gradients(tied, tokens), gradients(untied, tokens)
    close({"logits": untied(tokens)}, {"logits": tied(tokens)})
    summed = {
        name: sum(apart[each] for each in {name.replace(".step.", f".layers.{n}.") for n in range(3)})
        for name in grads
    }
    close(grads, summed, 1e-4)


def test_a_pass_computes_the_same_under_autocast_up_to_its_precision():
    model = shaken(spec_of(*STAGES["blocks"]))
    tokens = tokens_for(model.spec)
    expected = model(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        got = model(tokens)
    close({"logits": got.float()}, {"logits": expected}, 0.1)


def test_other_numbers_of_steps_equal_a_model_built_with_them():
    def built(steps):
        return spec_of({"recur": steps, "step": ["seq", "ffn"], "residual": QUERY})

    check_other_steps(built(2), built(4), {"stages.0": 4})


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"residual": {**QUERY, "heads": 5}}, "residual.heads: expected a divisor of width 12, got 5"),
        (
            {"residual": {**QUERY, "period": 3}},
            "period: expected at most 2, the number of sublayers in a step",
        ),
        (
            {"residual": {**QUERY, "views": ["k"], "period": 2}, "step": ["ffn", "seq"]},
            "expected only views that some sublayer reads",
        ),
        ({"residual": {**QUERY, "views": ["residual"]}}, "only with of: states or a period above 1"),
        ({"residual": {**QUERY, "views": ["k", "k"]}}, "each view once"),
        ({"residual": {**QUERY, "over": 0}}, "residual.over: expected"),
        ({"norm": "post"}, "beside norm: post, which normalises the state after a sublayer"),
        ({"inject": "add"}, "beside inject: add, which acts on the state of the whole stage"),
        (
            {"step": ["seq", {"stack": 2, "step": ["ffn"]}]},
            "expected another residual in a stage whose step holds stages, since mix sums",
        ),
        ({"step": [{"use": "seq", "norm": "post"}, "ffn"]}, "beside norm: post"),
        ({"step": [{"use": "seq", "residual": "add"}, "ffn"]}, "expected mix, as in the stage"),
        ({"residual": {"mix": "dynamic"}}, "expected learned_query, static, token or relu_query"),
    ],
)
def test_what_makes_no_sense_beside_a_mix_is_refused(stage, words):
    with pytest.raises(SpecError) as raised:
        spec_of({"recur": 2, "step": ["seq", "ffn"], "residual": QUERY, **stage})
    assert words in str(raised.value)


def test_a_loss_that_reads_states_is_refused():
    plain = tree(BLOCKS, {"recur": 2, "step": list(BLOCKS), "residual": QUERY}, width=12)
    plain["model"]["loss"] = {"steps": "uniform"}
    with pytest.raises(SpecError, match="expected a last stage that returns the state after its last step"):
        make(plain)

"""Tokens that run some of the steps keep keys and values of these alone, each row its own."""

import pytest
import torch
from cases import FFN, SEQ, tree
from models import compiled, tokens_for
from strategies import make

from blocks.kernels.past import SelectedKVCache
from blocks.wiring.route.by import reference, token_reference
from composer.module.generates import decoder
from composer.testing.model_checks import check_decoding

MLA = {"type": "latent_attention", "heads": 2, "head_dim": 4, "latent": 3}
BLOCKS = {"seq": {**SEQ, "kv_heads": 1, "qk_norm": True}, "ffn": FFN, "mla": MLA}
ROUTES = {
    "token": {"by": "token", "scale": 2.0},
    "token, first": {"by": "token", "kv": "first", "scale": 2.0},
    "expert choice": {"by": "expert_choice", "keep": [0.7, 0.7, 0.3], "scale": 2.0},
    "expert choice, first": {"by": "expert_choice", "keep": [1.0, 0.5], "kv": "first", "scale": 2.0},
}


def model_of(route, step=("seq", "ffn")):
    stages = {"recur": 2, "step": [{"stack": 1, "step": ["ffn"]}]}
    routed = {"recur": 4, "step": [*step], "route": ROUTES[route]}
    blocks = {name: BLOCKS[name] for name in {*step, "ffn"}}
    made = tree(blocks, routed)
    made["model"]["context"] = 16
    made["stages"] = [stages, routed, {"stack": 1, "step": [step[0]]}]
    return compiled(make(made), "reference").double().eval()


@pytest.mark.parametrize(
    ("route", "step"),
    [
        *((route, ("seq", "ffn")) for route in ROUTES),
        ("token", ("mla", "ffn")),
        ("expert choice", ("ffn", "mla")),
    ],
)
def test_routed_tokens_are_those_of_a_pass_at_once_in_rows_of_any_length(route, step):
    model = model_of(route, step)
    check_decoding(model, tokens_for(model.spec, 3, 9))
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 2, 1], [3]]
    for prompt, row in zip(prompts, model.generate(prompts, 5, temperature=0), strict=True):
        expected = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(5):
                expected = torch.cat((expected, model(expected)[:, -1].argmax(-1, keepdim=True)), 1)
        assert torch.equal(row, expected[0])


@pytest.mark.parametrize("route", ["token", "expert choice"])
def test_a_step_keeps_keys_and_values_of_the_tokens_that_run_it(route, monkeypatch):
    model = model_of(route)
    tokens, counts = tokens_for(model.spec, 3, 9), []

    def spied(runs, first=reference.running_first):
        counts.append(runs.sum(1))
        return first(runs)

    for module in (reference, token_reference):
        monkeypatch.setattr(module, "running_first", spied)
    model(tokens)
    wanted, decode = [*counts], decoder(model, 9)
    for part in (tokens[:, :4], *tokens[:, 4:].split(1, 1)):
        decode(part)
    results = [each.counts for each in decode.past._held.values() if isinstance(each, SelectedKVCache)]
    assert torch.equal(torch.stack(results), torch.stack(wanted))
    assert len({*torch.stack(results).flatten().tolist()}) > 2, "all rows ran as much"

"""Token by token a model gives what it gives at once, and keeps what its costs say."""

from pathlib import Path

import pytest
import torch
from cases import SEQ, tree
from hypothesis import given, seed, settings
from models import compiled, shipped, shortened, tokens_for
from samples import FULL
from strategies import make, specs

import composer
from blocks.primitives.operations import Sum
from composer.module.generates import decoder
from composer.testing.model_checks import check_decoding, check_kept

FAMILY = {
    path.stem: composer.load(path)
    for path in sorted((Path(__file__).parents[2] / "specs" / "family").glob("*.yaml"))
}
SPECS = {name: spec for name, spec in shipped().items() if name != "dreamer-small"} | FAMILY


@pytest.mark.parametrize("name", SPECS)
def test_cached_logits_and_greedy_tokens_are_the_uncached_ones(name):
    spec = shortened(SPECS[name], 12)
    model = composer.compile(spec).eval()
    tokens = tokens_for(spec, 2, 4)
    check_decoding(model, tokens_for(spec, 2, 9), 1e-5)
    made, expected = model.generate(tokens, 8, temperature=0), tokens
    with torch.no_grad():
        for _ in range(8):
            expected = torch.cat((expected, model(expected)[:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(made, expected)


@pytest.mark.parametrize("name", ["hybrid", "mixture-of-recursions-token"])
def test_rows_of_a_batch_go_on_in_another_order(name):
    model = composer.compile(shortened(SPECS[name], 12)).eval()
    tokens, rows = tokens_for(model.spec, 3, 7), torch.tensor([2, 0, 2])
    decode = decoder(model, 7)
    decode(tokens[:, :6])
    decode.past.take_rows(rows)
    with torch.no_grad():
        assert torch.allclose(decode(tokens[rows, 6:]), model(tokens[rows])[:, -1], atol=1e-5)


@pytest.mark.parametrize("part", range(5 if FULL else 1))
def test_generated_specs_decode_exactly_and_keep_what_they_declare(part):
    @seed(part)
    @settings(max_examples=60 if FULL else 12)
    @given(specs(room=6))
    def check(spec):
        check_decoding(compiled(spec, "reference").double().eval(), tokens_for(spec, 2, 7))

    check()


@pytest.mark.parametrize(("window", "sinks"), [(3, 0), (3, 2), (1, 1), (5, 9), (40, 0)])
def test_a_window_keeps_only_what_is_seen_again(window, sinks):
    seq = {"type": "sequence_attention", "heads": 2, "kv_heads": 1, "head_dim": 4, "window": window}
    seq["sinks"] = sinks
    model = compiled(tree({"seq": seq}, {"recur": 2, "step": ["seq"]})).double().eval()
    tokens = tokens_for(model.spec, 2, 8)
    check_decoding(model, tokens)
    decode = decoder(model, 8)
    decode(tokens[:, :3])
    # two steps, keys and values, of one head, for both rows
    kept = min(window + sinks, 8) * 2 * 2 * 4
    assert decode.past.nbytes == 2 * kept * 8
    check_kept(model, decode, tokens)


def test_other_numbers_of_steps_and_exits_are_those_of_a_pass_at_once():
    model = compiled(FAMILY["ouro"]).double().eval()
    tokens = tokens_for(model.spec, 2, 3)
    for options in ({"steps": 2}, {"exit_threshold": 0.4}, {"steps": 3, "exit_threshold": 0.6}):
        made, expected = model.generate(tokens, 5, temperature=0, **options), tokens
        with torch.no_grad():
            for _ in range(5):
                following = model(expected, **options)[:, -1].argmax(-1, keepdim=True)
                expected = torch.cat((expected, following), 1)
        assert torch.equal(made, expected), options


def test_autocast_decodes_in_its_precision():
    model = compiled(FAMILY["llama"]).eval()
    tokens = tokens_for(model.spec, 2, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole, decode = model(tokens), decoder(model, 8)
        parts = [tokens[:, :4], *tokens[:, 4:].split(1, 1)]
        made = torch.stack([decode(part) for part in parts], 1)
    assert (made - whole[:, 3:]).abs().max() < 0.05 * whole.abs().max()
    # half of what fp32 keeps
    assert decode.past.nbytes == model.plan.costs.cache_bytes_per_token * 8 * 2 // 2


def test_an_operation_that_does_not_say_how_it_decodes_is_refused(monkeypatch):
    model = compiled(FAMILY["llama"])
    monkeypatch.setattr(Sum, "decoding", "")
    for call in (lambda: model.generate(tokens_for(model.spec, 1, 3), 2), model.cache_bytes_per_token):
        with pytest.raises(ValueError, match=r"token by token, got .*stages\.0\..*\(Sum\)"):
            call()


def test_a_head_that_is_fused_with_the_loss_gives_the_logits():
    caps = {"train_memory": {"hard": "80GiB", "batch_tokens": "8Ki"}}
    spec = make(tree({"s": SEQ}, {"recur": 2, "step": ["s"]}, vocab=8192) | {"caps": caps})
    model = compiled(spec).double()
    assert model.graph.node("loss").weights
    tokens = tokens_for(spec, 2, 6)
    decode = decoder(model, 6)
    for end, part in ((4, tokens[:, :4]), (5, tokens[:, 4:5]), (6, tokens[:, 5:])):
        torch.testing.assert_close(decode(part), model(tokens[:, :end])[:, -1])

"""Caches of fewer than all steps: each token goes through alone and sees what is kept of earlier ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import FFN, LATENT, SEQ, tree
from models import close, compiled, tokens_for
from naive_attention import rotated, softmax_mix
from strategies import make

import composer
from composer.module.generates import decoder

STEPS = 5
OPTIONS = {"last_step": 1, "two": 2, "four": 4, "more than there are": 9}
NESTED = tree(
    {"seq": SEQ, "ffn": FFN}, {"recur": STEPS, "step": ["seq", {"stack": 2, "step": ["seq", "ffn"]}]}
)


def cache_of(option):
    return option if option == "last_step" else {"budget": OPTIONS[option]}


class Plain:
    """The model of `NESTED`, a token at a time; `kept` are keys and values by weights, entry and token."""

    def __init__(self, weights, budget, window=None):
        self.w, self.budget, self.window, self.kept = weights, budget, window, {}

    def norm(self, x, name):
        return x / torch.sqrt((x * x).mean() + 1e-6) * self.w[name]

    def attention(self, x, at, position, step):
        h = self.norm(x, f"{at}.norm")
        query, key, value = (self.w[f"{at}.seq.{name}"] @ h for name in ("query", "key", "value"))
        entry = self.kept.setdefault((at, step % self.budget), {})
        entry[position] = rotated(key, position), value
        seen = [pair for token, pair in entry.items() if not self.window or position - token < self.window]
        heads = [softmax_mix(rotated(q, position), *zip(*seen, strict=True)) for q in query.split(6)]
        return x + self.w[f"{at}.seq.out"] @ torch.cat(heads)

    def feed_forward(self, x, at):
        h = self.norm(x, f"{at}.norm")
        hidden = F.silu(self.w[f"{at}.ffn.gate"] @ h) * (self.w[f"{at}.ffn.up"] @ h)
        return x + self.w[f"{at}.ffn.down"] @ hidden

    def __call__(self, token, position):
        x = self.w["embedding"][token] * math.sqrt(len(self.w["norm"]))
        for step in range(STEPS):
            x = self.attention(x, "stages.0.step.0", position, step)
            for layer in ("stages.0.step.1.layers.0", "stages.0.step.1.layers.1"):
                x = self.feed_forward(self.attention(x, f"{layer}.0", position, step), f"{layer}.1")
        return self.w["embedding"] @ self.norm(x, "norm")


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("option", OPTIONS)
def test_logits_are_those_of_a_plain_model_that_takes_tokens_one_by_one(option, window):
    spec = make({**NESTED, "blocks": {"seq": {**SEQ, "window": window}, "ffn": FFN}})
    model = compiled(spec, "reference").double().eval()
    tokens = tokens_for(spec, 2, 7)
    rows = [Plain(model.state_dict(), OPTIONS[option], window) for _ in tokens]
    expected = torch.stack(
        [
            torch.stack([row(token, position) for position, token in enumerate(ids.tolist())])
            for row, ids in zip(rows, tokens, strict=True)
        ]
    )
    for prompt in (1, 4):
        decode = decoder(model, 7, cache=cache_of(option))
        parts = [tokens[:, :prompt], *tokens[:, prompt:].split(1, 1)]
        made = torch.stack([decode(part) for part in parts], 1)
        close({"logits": made}, {"logits": expected[:, prompt - 1 :]}, 1e-6)
    with torch.no_grad():
        lost = (model(tokens) - expected).abs().amax((0, 2))
    # the first token has none to see
    assert lost[0] < 1e-6
    assert (lost.max() < 1e-6) == (OPTIONS[option] >= STEPS)
    # three sets of weights, one head's key and value
    entries = min(OPTIONS[option], STEPS)
    kept = min(window or 7, 7)
    assert decode.past.nbytes == 2 * 3 * entries * kept * 2 * 6 * 8


@pytest.mark.parametrize("option", OPTIONS)
def test_bytes_are_told_and_kept(option):
    model = compiled(make(NESTED))
    whole = model.plan.costs.cache_bytes_per_token
    assert model.cache_bytes_per_token() == whole == 3 * STEPS * 2 * 6 * 4
    estimate = model.cache_bytes_per_token(cache_of(option))
    assert estimate == whole * min(OPTIONS[option], STEPS) // STEPS
    assert model.cache_bytes_per_token(cache_of(option), steps=3) == estimate * min(
        OPTIONS[option], 3
    ) // min(OPTIONS[option], STEPS)


def test_other_stages_and_latent_vectors_are_kept_as_far_as_steps_share_them():
    stages = ({"stack": 2, "step": ["seq"]}, {"recur": 4, "step": ["mla", "ffn"]})
    model = compiled(make(tree({"seq": SEQ, "mla": LATENT, "ffn": FFN}, *stages))).double().eval()
    stacked, latent = 2 * 2 * 6, 5 + 4
    assert model.cache_bytes_per_token("last_step") == 4 * (stacked + latent)
    tokens = tokens_for(model.spec, 2, 6)
    whole = [decoder(model, 6, cache=each) for each in ("full", {"budget": 4}, "last_step")]
    full, same, less = (torch.stack([each(part) for part in tokens.split(1, 1)], 1) for each in whole)
    close({"logits": same}, {"logits": full}, 1e-9)
    assert (less - full)[:, 1:].abs().amax() > 1e-3
    assert whole[-1].past.nbytes == 2 * 6 * 8 * (stacked + latent)


def test_rows_do_not_depend_on_how_prompts_are_given():
    model = compiled(composer.load("specs/family/huginn.yaml")).double().eval()
    prompts, cache = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 1], [3]], {"budget": 2}
    together = model.generate(prompts, 4, temperature=0, cache=cache)
    for prompt, row in zip(prompts, together, strict=True):
        for given in (prompt, row[: len(prompt) + 2]):
            (alone,) = model.generate([given], len(row) - len(given), temperature=0, cache=cache)
            assert torch.equal(row, alone)


@pytest.mark.parametrize(
    "cache", ["first", {"budget": 0}, {"budget": True}, {"budget": 1, "of": 2}, {}, None]
)
def test_other_caches_are_refused(cache):
    with pytest.raises(ValueError, match=r"cache: expected full, last_step or .* a number from 1"):
        compiled(make(NESTED)).generate([[1]], 1, cache=cache)


@pytest.mark.parametrize(
    ("block", "stage", "why"),
    [
        ({**SEQ, "steps": "all"}, {}, "sees earlier tokens at all their steps"),
        ({"type": "gated_delta", "heads": 2}, {}, "keeps the latest tokens of each step"),
        ({"type": "gated_delta", "heads": 2, "convolution": 0}, {}, "keeps a state that each token changes"),
        (SEQ, {"route": {"by": "token"}}, "runs on some of the tokens"),
        (SEQ, {"route": {"by": "token", "kv": "first"}}, "runs on some of the tokens"),
    ],
)
def test_steps_that_cannot_share_what_they_keep_are_refused(block, stage, why):
    model = compiled(make(tree({"b": block, "ffn": FFN}, {"recur": 3, "step": ["b", "ffn"], **stage})))
    model.generate([[1, 2]], 2)
    for call in (
        lambda: model.generate([[1]], 2, cache="last_step"),
        lambda: model.cache_bytes_per_token("last_step"),
    ):
        with pytest.raises(ValueError, match=rf"cache: expected full, since .*stages\.0\..* {why}"):
            call()

"""Attention over the tokens of all steps so far (CoTFormer)."""

import pytest
import torch
from cases import FFN, SEQ, tree
from models import check_other_steps, compiled, gradients, probe, tokens_for
from strategies import make

from composer.language.schema.steps import with_steps
from composer.settings.errors import SpecError

ALL = {**SEQ, "steps": "all", "rope": False}


def spec(steps, **fields):
    return make(tree({"s": {**ALL, **fields}, "f": FFN}, {"recur": steps, "step": ["s", "f"]}))


def test_a_loop_equals_plain_attention_over_a_sequence_that_grows_by_each_repeat():
    model = compiled(make(tree({"s": ALL}, {"recur": 3, "step": ["s"]}))).double()
    tokens = tokens_for(model.spec, 2, 6)
    w = {name: each.detach().clone().requires_grad_() for name, each in model.named_parameters()}
    x, keys, values = w["embedding"][tokens] * 10**0.5, [], []
    mask = torch.ones(6, 6).tril().bool()
    at = "stages.0.step.0"
    for n in range(3):
        y = torch.nn.functional.rms_norm(x, (10,), w[f"{at}.norm"], 1e-6)
        q, k, v = (
            (y @ w[f"{at}.s.{role}"].T).unflatten(-1, (-1, 6)).transpose(1, 2)
            for role in ("query", "key", "value")
        )
        keys.append(k)
        values.append(v)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q, torch.cat(keys, 2), torch.cat(values, 2), attn_mask=mask.repeat(1, n + 1), enable_gqa=True
        )
        x = x + mixed.transpose(1, 2).flatten(2) @ w[f"{at}.s.out"].T
    logits = torch.nn.functional.rms_norm(x, (10,), w["norm"], 1e-6) @ w["embedding"].T
    torch.testing.assert_close(model(tokens), logits)
    probe(logits).backward()
    for name, result in gradients(model, tokens).items():
        torch.testing.assert_close(result, w[name].grad)


@pytest.mark.parametrize("steps", [1, 5])
def test_other_numbers_of_steps_are_those_of_a_model_that_has_them(steps):
    # one step alone is refused, since it sees no other
    built = spec(steps) if steps > 1 else with_steps(spec(3), {"stages.0": steps})
    check_other_steps(spec(3), built, {"stages.0": steps})


@pytest.mark.parametrize("fields", [{"soft_cap": 5.0}, {"depth": "joint"}])
def test_what_it_does_not_go_with_is_refused(fields):
    with pytest.raises(SpecError, match="steps: all"):
        spec(3, **fields)

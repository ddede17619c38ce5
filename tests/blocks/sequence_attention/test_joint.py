"""One softmax over the tokens of a step and over the earlier steps of the same token (MoDA)."""

import math

import pytest
import torch
from cases import FFN, SEQ, tree
from models import check_other_steps, compiled, gradients, probe, tokens_for
from strategies import make

from composer.language.schema.steps import with_steps
from composer.module.model import ComposedModel

JOINT = {**SEQ, "depth": "joint", "rope": False}


def spec(steps, kind="recur"):
    return make(tree({"s": JOINT, "f": FFN}, {kind: steps, "step": ["s", "f"]}))


def moda(q, keys, values):
    """The equation of MoDA for a whole sequence, heads one by one.

    q [B, S, H, d]; keys and values [R][B, S, H_k, d], those of this step last.
    """
    _, length, heads, size = q.shape
    shared = heads // keys[0].shape[2]
    out = torch.empty_like(q)
    for h in range(heads):
        k, v = ([each[:, :, h // shared] for each in kind] for kind in (keys, values))
        tokens = torch.einsum("bqd,bkd->bqk", q[:, :, h], k[-1])
        tokens = tokens.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        depth = [torch.einsum("bqd,bqd->bq", q[:, :, h], each)[..., None] for each in k[:-1]]
        shares = (torch.cat([tokens, *depth], -1) / math.sqrt(size)).softmax(-1)
        out[:, :, h] = shares[..., :length] @ v[-1]
        for n, each in enumerate(v[:-1]):
            out[:, :, h] += shares[..., length + n, None] * each
    return out


def test_a_stack_equals_the_equation_written_for_whole_sequences():
    model = compiled(make(tree({"s": JOINT}, {"stack": 3, "step": ["s"]}))).double()
    tokens = tokens_for(model.spec, 2, 6)
    w = {name: each.detach().clone().requires_grad_() for name, each in model.named_parameters()}
    x, keys, values = w["embedding"][tokens] * math.sqrt(10), [], []
    for n in range(3):
        at = f"stages.0.layers.{n}.0"
        y = torch.nn.functional.rms_norm(x, (10,), w[f"{at}.norm"], 1e-6)
        q, k, v = ((y @ w[f"{at}.s.{role}"].T).unflatten(-1, (-1, 6)) for role in ("query", "key", "value"))
        keys.append(k)
        values.append(v)
        x = x + moda(q, keys, values).flatten(2) @ w[f"{at}.s.out"].T
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


def test_one_step_is_plain_attention():
    model = compiled(with_steps(spec(3), {"stages.0": 1}))
    plain = ComposedModel(
        make(tree({"s": {**JOINT, "depth": "none"}, "f": FFN}, {"recur": 1, "step": ["s", "f"]}))
    )
    plain.load_state_dict(model.state_dict())
    tokens = tokens_for(model.spec)
    torch.testing.assert_close(model(tokens), plain(tokens))


def test_steps_may_be_recomputed_around_it():
    from composer.graph.passes.mark_recompute import recomputable

    plain = compiled(spec(3))
    again = ComposedModel(plain.spec, recompute=[*recomputable(plain.graph)])
    again.load_state_dict(plain.state_dict())
    tokens = tokens_for(plain.spec)
    expected = gradients(plain, tokens)
    for name, got in gradients(again, tokens).items():
        torch.testing.assert_close(got, expected[name])

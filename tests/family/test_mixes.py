"""DenseFormer, MUDDFormer and DeepCrossAttention equal models that keep lists of what layers made.

They are written here as in the authors' code of the first two, and from the equations of the third.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models import close, gradients, probe, shake, tokens_for

import composer
from composer.module.model import ComposedModel

FAMILY = Path(__file__).parents[2] / "specs" / "family"
SMALL = ["model.width=16", "model.vocab=11", "model.context=8", "blocks.seq.heads=2", "blocks.seq.kv_heads=1"]
SMALL += ["blocks.mlp.hidden=24", "train=null"]
LAYERS = 3
IN_ONE_STEP = [*SMALL, f"stages.0.step=[{', '.join(['seq, mlp'] * LAYERS)}]"]
SPECS = {
    "denseformer": [*SMALL, f"stages.0.stack={LAYERS}"],
    "muddformer": IN_ONE_STEP,
    "deepcrossattention": IN_ONE_STEP,
}


class Layer:
    """A sequence attention and a feed-forward layer, with the weights of a place in a model."""

    def __init__(self, w, attention, mlp):
        self.w, self.attention, self.mlp = w, attention, mlp

    def attend(self, q, k, v):
        q, k, v = (
            F.linear(x, self.w[f"{self.attention}.seq.{role}"]).unflatten(-1, (-1, 8)).transpose(1, 2)
            for role, x in (("query", q), ("key", k), ("value", v))
        )
        positions = torch.arange(q.shape[2], dtype=q.dtype)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
        turn = torch.polar(torch.ones_like(positions), positions)
        q, k = (
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(
                -2
            )
            for x in (q, k)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return F.linear(y.transpose(1, 2).flatten(2), self.w[f"{self.attention}.seq.out"])

    def feed(self, x):
        x = norm(self.w, f"{self.mlp}.norm", x)
        gate, up = (F.linear(x, self.w[f"{self.mlp}.mlp.{role}"]) for role in ("gate", "up"))
        return F.linear(F.silu(gate) * up, self.w[f"{self.mlp}.mlp.down"])


def norm(w, name, x):
    return F.rms_norm(x, x.shape[-1:], w[name] if name else None, 1e-6)


def denseformer(w, x):
    states = [x]
    for n in range(LAYERS):
        at = f"stages.0.layers.{n}"
        layer = Layer(w, f"{at}.0", f"{at}.1")
        x = sum(w[f"{at}.0.mix"][n - j, 0] * state for j, state in enumerate(states))
        normed = norm(w, f"{at}.0.norm", x)
        x = x + layer.attend(normed, normed, normed)
        states.append(x + layer.feed(x))
    return sum(w["stages.0.mix"][LAYERS - j, 0] * state for j, state in enumerate(states))


def muddformer(w, x):
    states = [x]

    def mixes(at, names):
        hidden = F.gelu(F.linear(norm(w, "", states[-1]), w[f"{at}.mix_up"]))
        for name in names:
            share = w[f"{at}.{name}"][:, 0] + F.linear(hidden, w[f"{at}.{name}_down"])
            yield sum(share[..., -1 - j, None] * state for j, state in enumerate(states))

    for n in range(LAYERS):
        at = f"stages.0.layers.0.{2 * n}"
        layer = Layer(w, at, f"stages.0.layers.0.{2 * n + 1}")
        q, k, v, x = mixes(at, ("mix_q", "mix_k", "mix_v", "mix_residual"))
        x = x + layer.attend(*(norm(w, f"{at}.norm{s}", y) for s, y in (("", q), ("_k", k), ("_v", v))))
        states.append(x + layer.feed(x))
    return next(mixes("stages.0", ["mix"]))


def deepcrossattention(w, x):
    outputs = [x]

    def mix(name):
        weights = w[name].flip(0), (norm(w, f"{name}_query", y).sum(-1, keepdim=True).relu() for y in outputs)
        return sum((b + score) * y for b, score, y in zip(*weights, outputs, strict=True))

    for n in range(LAYERS):
        at = f"stages.0.layers.0.{2 * n}"
        layer = Layer(w, at, f"stages.0.layers.0.{2 * n + 1}")
        q, k, v = (mix(f"{at}.mix{view}") for view in ("", "_k", "_v"))
        y = layer.attend(*(norm(w, f"{at}.norm{s}", x) for s, x in (("", q), ("_k", k), ("_v", v))))
        outputs.append(y + layer.feed(q + y))
    return mix("stages.0.mix")


@pytest.mark.parametrize("stage", [denseformer, muddformer, deepcrossattention])
def test_a_spec_equals_its_equations(stage):
    name = stage.__name__
    model = ComposedModel(composer.load(FAMILY / f"{name}.yaml", SPECS[name])).eval()
    shake(model)
    tokens = tokens_for(model.spec, 2, 7)
    w = {key: each.detach().double().requires_grad_() for key, each in model.named_parameters()}
    expected = F.linear(norm(w, "norm", stage(w, 4 * w["embedding"][tokens])), w["embedding"])
    probe(expected).backward()
    close({"logits": model(tokens).double()}, {"logits": expected}, 1e-4)
    by_name = {key: each.double() for key, each in gradients(model, tokens).items()}
    close(by_name, {key: each.grad for key, each in w.items()}, 1e-4)

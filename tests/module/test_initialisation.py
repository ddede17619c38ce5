"""How a deep model starts: near the uniform guess, with a steady state, and a gradient for every weight.

`inject: add` adds the stage's input at every step by definition, so its state grows with depth.
"""

import math

import pytest
import torch
from cases import tree
from strategies import make

import composer

WIDE = {
    "seq": {"type": "sequence_attention", "heads": 4, "kv_heads": 2},
    "depth": {"type": "depth_attention", "heads": 4, "kv_heads": 2},
    "expert": {"type": "expert_attention", "experts": 8, "active": 2, "hidden": 64},
    "ffn": {"type": "feed_forward", "hidden": 128},
}
DREAMER = ["seq", "depth", "expert"]
PLAIN = ["seq", "ffn"]
SIDE = [{"parallel": ["seq", "depth"], "combine": "gate"}, "expert"]
STAGES = {
    "recurrent dreamer": [{"recur": 32, "step": DREAMER}],
    "stacked dreamer": [{"stack": 32, "step": DREAMER}],
    "recurrent transformer": [{"recur": 32, "step": PLAIN}],
    "stacked transformer": [{"stack": 32, "step": PLAIN}],
    "in parallel": [{"recur": 32, "step": SIDE}],
    "concat": [{"recur": 32, "step": DREAMER, "inject": "concat"}],
    "post-norm": [{"recur": 32, "step": DREAMER, "norm": "post"}],
    "sandwich": [{"recur": 32, "step": DREAMER, "norm": "sandwich"}],
    "stacked sandwich": [{"stack": 32, "step": DREAMER, "norm": "sandwich"}],
    "scaled branches": [{"recur": 32, "step": DREAMER, "residual": {"scale": "1/steps"}}],
    "looped stack": [{"recur": 4, "step": [{"stack": 8, "step": DREAMER}]}],
    "prelude, core, coda": [
        {"stack": 2, "step": PLAIN},
        {"recur": 28, "step": DREAMER, "inject": "concat"},
        {"stack": 2, "step": PLAIN},
    ],
}


def model_of(stages, vocab=32, tie=True):
    used = {name for name in WIDE if f"'{name}'" in str(stages)}
    spec = tree({name: WIDE[name] for name in sorted(used)}, *stages, width=64, tie=tie)
    spec["model"] |= {"vocab": vocab, "context": 64}
    return composer.compile(make(spec))


def batch(vocab):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(vocab, (8, 64), generator=draw), torch.randint(vocab, (8, 64), generator=draw)


@pytest.mark.parametrize(
    ("vocab", "tie"),
    [
        (256, True),
        (16, False),
        pytest.param(16, True, marks=pytest.mark.slow),
        pytest.param(256, False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("case", STAGES)
def test_at_32_steps_the_loss_starts_at_the_uniform_guess(case, vocab, tie):
    model = model_of(STAGES[case], vocab, tie)
    with torch.no_grad():
        loss = float(model.loss(*batch(vocab)))
    assert loss == pytest.approx(math.log(vocab), rel=0.02)


@pytest.mark.parametrize("case", STAGES)
def test_at_32_steps_the_state_keeps_its_size(case):
    model = model_of(STAGES[case])
    sizes = []
    for module in model.modules():
        if type(module).__name__ == "Layer":
            module.register_forward_hook(
                lambda module, given, result: sizes.append(
                    (result[0] if isinstance(result, tuple) else result).square().mean().sqrt().item()
                )
            )
    with torch.no_grad():
        model(batch(32)[0])
    assert len(sizes) >= 32
    assert max(sizes) <= 2 * sizes[0]
    assert min(sizes) >= sizes[0] / 2


@pytest.mark.parametrize("case", STAGES)
def test_at_32_steps_every_weight_has_a_gradient(case):
    model = model_of(STAGES[case])
    model.loss(*batch(32)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name == "stages.0.layers.0.1.depth.query":
            continue  # the first layer of a stack sees its own slot alone, with a weight of 1
        result = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[None]
        reached = (result.abs().amax(1) > 0).float().mean()
        # an expert that no token chose has no gradient
        assert reached >= (0.75 if name.endswith((".gate_up", ".down")) else 1), name


def test_without_a_train_section_the_seed_is_0():
    a, b = model_of(STAGES["stacked transformer"]), model_of(STAGES["stacked transformer"])
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

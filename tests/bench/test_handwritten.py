"""The rival of the benchmarks computes what the compiled module does, so comparing speeds is fair."""

from __future__ import annotations

import pytest
import torch
from strategies import make

import composer
from composer import SpecError
from composer.bench.rivals.handwritten import HandWritten, sizes
from composer.bench.rivals.handwritten_depth import WAYS

SPEC = {
    "schema": 1,
    "name": "small",
    "model": {"width": 24, "vocab": 11, "context": 9},
    "blocks": {
        "a": {"type": "sequence_attention", "heads": 3, "kv_heads": 1, "qk_norm": True},
        "b": {"type": "depth_attention", "heads": 3, "kv_heads": 3},
        "c": {"type": "expert_attention", "experts": 5, "active": 2, "hidden": 8},
    },
    "stages": [{"recur": 3, "step": ["a", "b", "c"]}],
}


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("compiled")])
@pytest.mark.parametrize(("qk_norm", "tied"), [(False, True), (True, False)])
def test_it_equals_the_compiled_module_in_loss_and_gradients(way, qk_norm, tied):
    blocks = {**SPEC["blocks"], "a": {**SPEC["blocks"]["a"], "qk_norm": qk_norm}}
    spec = make({**SPEC, "blocks": blocks, "model": {**SPEC["model"], "tie_embeddings": tied}})
    module = composer.compile(spec).train()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    rival = HandWritten(sizes(spec), way).train()
    rival.load(module.state_dict())
    tokens, targets = torch.randint(11, (2, 4, 9))
    targets[0, 3] = -100
    ours, theirs = module.loss(tokens, targets), rival(tokens, targets)
    torch.testing.assert_close(theirs, ours)
    ours.backward()
    theirs.backward()
    named = dict(module.named_parameters())
    at = "stages.0.step"
    pairs = [
        (rival.embedding, named["embedding"].grad),
        (rival.step.keys, named[f"{at}.2.c.keys"].grad),
        (rival.step.gate_up, named[f"{at}.2.c.gate_up"].grad),
        (
            rival.step.depth_joined.weight,
            torch.cat([named[f"{at}.1.b.{r}"].grad for r in ("query", "key", "value")]),
        ),
        (rival.step.seq_out.weight, named[f"{at}.0.a.out"].grad),
    ]
    if not tied:
        pairs.append((rival.head, named["head"].grad))
    for weight, expected in pairs:
        torch.testing.assert_close(weight.grad, expected)
    # both count the loads that balance experts
    torch.testing.assert_close(rival.step.load, dict(module.named_buffers())[f"{at}.2.c.load"])


@pytest.mark.parametrize(
    "change",
    [
        {"stages": [{"stack": 3, "step": ["a", "b", "c"]}]},
        {"stages": [{"recur": 3, "step": ["a", "c", "b"]}]},
        {"stages": [{"recur": 3, "step": ["a", "b", "c"], "inject": "add"}]},
        {"blocks": {**SPEC["blocks"], "a": {**SPEC["blocks"]["a"], "window": 4}}},
        {"blocks": {**SPEC["blocks"], "a": {**SPEC["blocks"]["a"], "rope_fraction": 0.5}}},
        {"blocks": {**SPEC["blocks"], "b": {**SPEC["blocks"]["b"], "span": "exclusive"}}},
        {"blocks": {**SPEC["blocks"], "c": {**SPEC["blocks"]["c"], "depth_code": "none"}}},
    ],
)
def test_a_spec_of_another_form_is_refused(change):
    with pytest.raises(SpecError, match=r"expected (one|the defaults)"):
        sizes(make({**SPEC, **change}))

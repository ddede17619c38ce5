"""The state of a stage and what its steps know: starts, stable injection, codes and weights of steps."""

import pytest
import torch
from cases import DEPTH, FFN, SEQ, tree
from models import close, compiled, gradients, tokens_for
from strategies import make

from blocks.wiring.inject.diagonal import inject_diagonal
from composer.graph.passes.mark_recompute import recomputable
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError

BLOCKS = {"s": SEQ, "f": FFN}
NOISY = {"start": "noise", "inject": "concat"}


def spec_of(steps=3, kind="recur", step=("s", {"parallel": ["f", "s"]}), **options):
    blocks = BLOCKS if "d" not in step else {"d": DEPTH, **BLOCKS}
    return make(tree(blocks, {kind: steps, "step": [*step], **options}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(
            ({"start": start}, "stages.0.start: expected input beside inject: none")
            for start in ("zeros", "noise", "learned")
        ),
        ({"kind": "stack", "step_code": "embedding"}, "stages.0.step_code: expected none in a stack"),
        ({"kind": "stack", "step_code": "sinusoidal"}, "stages.0.step_code: expected none in a stack"),
        ({"kind": "stack", "per_step": {"lora": 2}}, "stages.0.per_step: expected none in a stack"),
        (
            {"norm": "post", "step_code": "modulation"},
            "sinusoidal beside norm: post, since modulation needs norm: pre",
        ),
        ({"step": ["s", {"use": "f", "norm": "none"}], "step_code": "modulation"}, "beside norm: none"),
        ({"per_step": {"lora": 0}}, "stages.0.per_step.lora: expected"),
        ({"per_step": {"norm": False}}, "stages.0.per_step.norm: expected"),
        ({"start": {"noise": 0}, "inject": "add"}, "stages.0.start.noise: expected a number above 0"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_the_reason(options, words):
    with pytest.raises(SpecError) as error:
        spec_of(**options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "options", [{"step_code": "embedding"}, {"per_step": "norm"}, {"per_step": {"lora": 2}}]
)
def test_weights_per_step_fix_the_number_of_steps(options):
    model = ComposedModel(spec_of(**options))
    with pytest.raises(ValueError, match="for each step, so the number of steps is fixed"):
        model.set_steps({"stages.0": 4})


@pytest.mark.parametrize(
    "options",
    [
        NOISY,
        {"start": "learned", "inject": "diagonal"},
        {"step_code": "sinusoidal"},
        {"step_code": "modulation"},
    ],
    ids=str,
)
def test_other_steps_at_test_time_equal_a_model_built_with_them(options):
    model, built = compiled(spec_of(2, **options)).eval(), compiled(spec_of(5, **options)).eval()
    built.load_state_dict(model.state_dict())
    model.set_steps({"stages.0": 5})
    tokens = tokens_for(model.spec)
    assert torch.equal(model(tokens), built(tokens))


@pytest.mark.parametrize(
    "options",
    [{"step_code": value} for value in ("embedding", "modulation")]
    + [{"per_step": {"lora": 2, "norm": True, "scale": True}}],
    ids=str,
)
def test_steps_start_as_if_they_had_nothing_of_their_own(options):
    model, plain = ComposedModel(spec_of(**options)), ComposedModel(spec_of())
    tokens = tokens_for(model.spec)
    close({"logits": model(tokens)}, {"logits": plain(tokens)})


def test_the_diagonal_recurrence_is_stable_for_any_weights():
    for scale in (0, 1, 30):
        decay, delta = (scale * torch.randn(100, dtype=torch.float64) for _ in range(2))
        factor = inject_diagonal(torch.ones(100), torch.zeros(100), decay, delta)
        assert factor.min() >= 0
        assert factor.max() <= 1
    model = ComposedModel(spec_of(inject="diagonal"))
    step = model.stages[0].step
    factor = inject_diagonal(torch.ones(10), torch.zeros(10), step.inject_decay, step.inject_delta)
    torch.testing.assert_close(factor, torch.full((10,), 0.2**0.5))


def test_noise_is_the_same_for_all_rows_in_evaluation_and_differs_in_training():
    model = compiled(spec_of(**NOISY))
    tokens = tokens_for(model.spec, 1).expand(3, -1)
    one, other = model(tokens), model(tokens)
    assert not torch.allclose(one[0], one[1])
    assert not torch.allclose(one, other)
    model.randomness.step = 0
    assert torch.equal(model(tokens), one)
    still = model.eval()(tokens)
    assert torch.equal(still[0], still[2])
    assert torch.equal(model(tokens), still)


@pytest.mark.parametrize(
    "options",
    [
        NOISY | {"per_step": {"lora": 2, "norm": True, "scale": True}},
        {"start": "learned", "inject": "diagonal", "step_code": "modulation"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mixed", [False, True])
def test_recomputed_operations_give_the_same_gradients(options, mixed):
    spec = spec_of(step=("s", "d", {"parallel": ["f", "s"]}), **options)
    kept = ComposedModel(spec)
    again = ComposedModel(spec, recompute=[*recomputable(kept.graph)])
    tokens = tokens_for(spec)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        expected, grads = gradients(kept, tokens), gradients(again, tokens)
    assert all(torch.equal(grads[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize(("activation", "times"), [("swiglu", 4), ("relu2", 4), ("relu", 2)])
def test_without_a_norm_outputs_grow_as_the_square_of_the_state_or_as_the_state(activation, times):
    block = {"type": "feed_forward", "hidden": 9, "activation": activation}
    model = compiled(make(tree({"f": block}, {"stack": 1, "step": ["f"]}, norm="scores"))).double()
    updates = []
    model.stages[0].register_forward_hook(lambda _, given, made: updates.append((made - given[0]).norm()))
    embedding = model.get_parameter("embedding")
    for size in (1e5, 2e5):
        with torch.no_grad():
            embedding.mul_(size / embedding.norm())
            model(tokens_for(model.spec))
    assert float(updates[1] / updates[0]) == pytest.approx(times, rel=1e-3)

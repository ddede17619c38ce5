"""Every block, option and mix equals the model written from its equations, in outputs and gradients."""

import naive
import pytest
import torch
from cases import CASES, DREAMER
from hypothesis import HealthCheck, given
from models import close, compiled, gradients, probe, tokens_for
from samples import samples
from strategies import specs

from blocks.primitives import reference
from blocks.sequence_attention import reference as attention_reference


def compare(model, tokens, dtype, tolerance):
    """Compare a model in evaluation with the equations: logits and the gradient of every parameter."""
    model = model.to(dtype).eval()
    named = dict(model.named_parameters())
    ours = gradients(model, tokens)
    # states are constants; parameters are leaves of their own
    weights = {
        name: tensor.detach().double().clone().requires_grad_(name in named)
        for name, tensor in model.state_dict().items()
    }
    expected = naive.logits(model.spec, weights, tokens)
    # without norms a product of two projections squares the state, sublayer after sublayer
    if not expected.isfinite().all():
        return
    probe(expected).backward()
    theirs = {n: torch.zeros_like(weights[n]) if weights[n].grad is None else weights[n].grad for n in named}
    close({"logits": model(tokens).double()}, {"logits": expected}, tolerance)
    close({name: grad.double() for name, grad in ours.items()}, theirs, tolerance)


@pytest.fixture
def exact():
    """Angles in double precision, where the model's own are fp32: all else is exact then."""

    def step_table(tokens, head_dim, base):
        return base ** (-2 * torch.arange(head_dim // 2, dtype=torch.float64) / head_dim)

    with pytest.MonkeyPatch.context() as patch:
        for module in (reference, attention_reference):
            patch.setattr(module, "step_table", step_table)
        yield


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 5), (1, 7)])
def test_dreamer_equals_the_equations_at_odd_sizes(batch, length):
    model = compiled(DREAMER, "reference")
    compare(model, tokens_for(model.spec, batch, length), torch.float64, 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_each_option_equals_the_equations(exact, case):
    model = compiled(CASES[case], "reference")
    compare(model, tokens_for(model.spec, 2, 5), torch.float64, 1e-10)


@pytest.mark.parametrize("case", CASES)
def test_chosen_kernels_equal_the_equations(case):
    model = compiled(CASES[case])
    compare(model, tokens_for(model.spec, 1, 5), torch.float32, 2e-4)


@samples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs(room=4))
def test_generated_specs_equal_the_equations(exact, spec):
    compare(compiled(spec, "reference"), tokens_for(spec, 1, 4), torch.float64, 1e-8)

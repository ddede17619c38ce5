"""Every block, option and mix equals the model written from its equations, in outputs and gradients."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from cases import CASES, DREAMER
from hypothesis import given
from models import compiled, tokens_for
from references import hold, of_equations
from samples import pairs, samples
from strategies import specs

from blocks.primitives import reference
from blocks.sequence_attention import reference as attention_reference


def compare(model, tokens, tolerance):
    """Compare a model in double precision."""
    hold(model.double(), tokens, of_equations(model, tokens), tolerance)


@contextmanager
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
    compare(model, tokens_for(model.spec, batch, length), 1e-6)


@pytest.mark.parametrize(("case", "kernels"), [*pairs(CASES, ("auto", "reference"), share=2)])
def test_each_option_equals_the_equations_by_chosen_kernels_and_by_references(case, kernels):
    with exact() if kernels == "reference" else nullcontext():
        model = compiled(CASES[case], kernels)
        if kernels == "reference":
            model = model.double()
        tokens = tokens_for(model.spec, 2, 5)
        hold(model, tokens, of_equations(model, tokens), 2e-4 if kernels == "auto" else 1e-10)


@samples(25)
@given(specs(room=4))
def test_generated_specs_equal_the_equations(spec):
    with exact():
        compare(compiled(spec, "reference"), tokens_for(spec, 1, 4), 1e-8)

"""Models against the equations of `naive`, in logits and in the gradient of every parameter."""

import naive
import torch
from models import close, gradients, probe, tokens_for


def of_equations(model, tokens):
    """Return the logits that the equations give for a model's weights, and the gradients by name."""
    named = dict(model.named_parameters())
    # states are constants; parameters are leaves of their own
    weights = {
        name: tensor.detach().double().clone().requires_grad_(name in named)
        for name, tensor in model.state_dict().items()
    }
    logits = naive.logits(model.spec, weights, tokens)
    if logits.isfinite().all():
        probe(logits).backward()
    return logits, {
        name: torch.zeros_like(weights[name]) if weights[name].grad is None else weights[name].grad
        for name in named
    }


def hold(model, tokens, expected, tolerance):
    """Assert that a model in evaluation gives the `expected` logits and gradients, if those are finite."""
    logits, grads = expected
    # without norms a product of two projections squares the state, sublayer after sublayer
    if not logits.isfinite().all():
        return
    model.eval()
    close({"logits": model(tokens).double()}, {"logits": logits}, tolerance)
    ours = gradients(model, tokens)
    close({name: gradient.double() for name, gradient in ours.items()}, grads, tolerance)


def equal_to_the_equations(model, tolerance=2e-4):
    """Assert that a model in fp32 computes what `naive` does."""
    tokens = tokens_for(model.spec, 1, 5)
    expected = of_equations(model, tokens)
    assert expected[0].isfinite().all()
    hold(model, tokens, expected, tolerance)

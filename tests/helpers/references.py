"""Models against the equations of `naive`, in logits and in the gradient of every parameter."""

import naive
from models import close, gradients, probe, tokens_for


def equal_to_the_equations(model, tolerance=2e-4):
    """Assert that a model in fp32 computes what `naive` does."""
    tokens = tokens_for(model.eval().spec, 1, 5)
    named = dict(model.named_parameters())
    weights = {
        name: tensor.detach().double().clone().requires_grad_(name in named)
        for name, tensor in model.state_dict().items()
    }
    expected = naive.logits(model.spec, weights, tokens)
    probe(expected).backward()
    close({"logits": model(tokens).double()}, {"logits": expected}, tolerance)
    found = {name: gradient.double() for name, gradient in gradients(model, tokens).items()}
    close(found, {name: weights[name].grad for name in named}, tolerance)

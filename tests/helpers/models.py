"""Small helpers for tests that run models."""

import sys
import types
from pathlib import Path

import pytest
import torch
from strategies import make

import composer
from composer.costs.base.precision import FULL
from composer.costs.counting.plan import count
from composer.costs.memory.saved_tensors import saved_per_token
from composer.testing.models import close, gradients, kept, kept_of, probe, shake, tokens_for

__all__ = [
    "check_other_steps",
    "check_same_training",
    "check_saved",
    "close",
    "compiled",
    "gradients",
    "kept",
    "kept_of",
    "module_of",
    "moved",
    "probe",
    "shake",
    "shipped",
    "shortened",
    "tokens_for",
]


def compiled(tree, kernels="auto", shaken=0):
    """Compile plain data or a Spec; every weight and state random, unless `shaken` is None."""
    model = composer.compile(make(tree) if isinstance(tree, dict) else tree, kernels)
    if shaken is not None:
        shake(model, shaken)
    return model


def check_same_training(model, plain, tokens, where):
    """A model on a device gives the loss and gradients of another one on the CPU."""
    results = []
    for each, given in ((model, tokens.to(where)), (plain, tokens)):
        loss = each.loss(given, given)
        loss.backward()
        gradients = {name: weight.grad.cpu() for name, weight in each.named_parameters()}
        results.append(({"loss": loss.cpu()}, gradients))
    (losses, grads), (expected, expected_grads) = results
    close(losses, expected)
    close(grads, expected_grads, 1e-4)


def check_saved(model, where="cpu", more=0.0):
    """A token keeps for the backward pass what is declared, and `more` bytes.

    What grows with the batch counts; tables, masks and joined weights do not grow.
    """
    length = model.spec.model.context
    measured = (kept(model, 5, where) - kept(model, 2, where)) / (3 * length)
    declared = saved_per_token(model.graph, length, FULL._replace(device=where))
    assert measured == pytest.approx(declared + more, rel=1e-12)


def check_other_steps(trained, built, steps):
    """A model of one spec that runs other numbers of steps is that of the spec that has them; return it."""
    model, other = compiled(trained), composer.compile(built)
    other.load_state_dict(model.state_dict())
    tokens = tokens_for(model.spec)
    model.set_steps(steps)
    assert torch.equal(model(tokens), other(tokens))
    expected = gradients(other, tokens)
    assert all(torch.equal(got, expected[name]) for name, got in gradients(model, tokens).items())
    assert model.plan.costs.to_dict() == count(built).to_dict()
    return model


@torch.no_grad()
def moved(model, at):
    """Whether the logits of each token [2][8] change with one token of the first row."""
    tokens = tokens_for(model.spec, 2, 8)
    other = tokens.clone()
    other[0, at] = (other[0, at] + 1) % model.spec.model.vocab
    return ((model(tokens) - model(other)).abs().amax(-1) > 1e-6).tolist()


def shipped():
    """Map the name of every shipped spec (not spaces) to it."""
    files = sorted((Path(__file__).parents[2] / "specs").glob("*.yaml"))
    specs = (file for file in files if "\nsearch:" not in file.read_text(encoding="utf-8"))
    return {file.stem: composer.load(file) for file in specs}


def shortened(spec, context):
    """The same architecture at a shorter context, without training."""
    model = spec.model.model_copy(update={"context": min(context, spec.model.context)})
    return spec.model_copy(update={"model": model, "train": None})


class Loader:
    """Some batches. (Trainer takes a list for several loaders.)"""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def module_of(source):
    """Run an exported file."""
    module = types.ModuleType("exported_model")
    # what looks for annotations finds the module by its name
    sys.modules[module.__name__] = module
    exec(compile(source, "exported_model.py", "exec"), module.__dict__)
    return module

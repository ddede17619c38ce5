"""What every model has to hold however it is trained: the ways of training, each against plain training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.language.schema.spec import Spec
from composer.language.schema.steps import all_stages, with_steps
from composer.module.emission import regions
from composer.module.model import ComposedModel
from composer.testing.examples import Plain
from composer.testing.models import close, make, shake, tokens_for

FAR = 1e-4
"""How far off a gradient may be that is added up in another order, as a share of its largest element."""

FAR_IN_BF16 = 0.2
"""How far off the loss may be under autocast to bf16, as a share of it."""


def check_recomputation(plain: Plain) -> None:
    """What runs again in the backward pass changes no bit of the loss and of the gradients."""
    spec = make(plain)
    kept, again = _model(spec), _model(spec, recompute=[*recomputable(compile_graph(spec))])
    tokens = tokens_for(spec)
    expected = trained(kept, tokens)
    for name, found in trained(again, tokens).items():
        assert torch.equal(found, expected[name]), f"{name} is another one"


def check_accumulation(plain: Plain) -> None:
    """Two micro-batches add up to the gradients of the whole batch."""
    spec = make(plain)
    tokens = tokens_for(spec, 4)
    whole = trained(_model(spec), tokens)
    model = _model(spec)
    parts = []
    for number, rows in enumerate(tokens.chunk(2)):
        model.randomness.step, model.randomness.micro_batch = 0, number
        parts.append(trained(model, rows))
    close({name: sum(part[name] for part in parts) / 2 for name in whole}, whole, FAR)  # type: ignore[misc]


def check_autocast(plain: Plain) -> None:
    """Under autocast to bf16 the loss is that of fp32 up to its precision, and gradients are finite."""
    spec = make(plain)
    tokens = tokens_for(spec)
    expected = trained(_model(spec), tokens)["loss"]
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        # torch says that a norm with fp32 gains is not one kernel in bf16
        warnings.simplefilter("ignore", UserWarning)
        found = trained(_model(spec), tokens)
    assert all(each.isfinite().all() for each in found.values()), "a gradient is not finite"
    far = float((found["loss"] - expected).abs() / expected.abs())
    assert far <= FAR_IN_BF16, f"the loss is off by {far:.2g}"


def check_regions(plain: Plain) -> None:
    """Code that torch traces gives the same gradients; with a compiler that leaves it as it is."""
    spec = make(plain)
    tokens = tokens_for(spec)
    expected = trained(_model(spec), tokens)
    torch._dynamo.reset()
    eager = partial(torch.compile, backend="eager")
    with patch.object(regions.torch, "compile", eager), warnings.catch_warnings():  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")  # dynamo warns of its own ways
        close(trained(_model(spec, torch_compile="on"), tokens), expected, FAR)


def check_other_steps(plain: Plain) -> None:
    """A model that runs another number of steps is one built with it, unless weights fix the number."""
    spec = make(plain)
    steps = {place: stage.trips + 2 for place, stage in all_stages(spec.stages).items() if stage.tied}
    model = _model(spec)
    try:
        model.set_steps(steps)
    except ValueError as error:
        if "the number of steps is fixed" in str(error):
            return
        raise
    built = _model(with_steps(spec, steps))
    built.load_state_dict(model.state_dict())
    tokens = tokens_for(spec)
    expected = trained(built, tokens)
    for name, found in trained(model, tokens).items():
        assert torch.equal(found, expected[name]), f"{name} is another one"


def trained(model: ComposedModel, tokens: Tensor) -> dict[str, Tensor]:
    """Return the loss and all gradients of one pass, by name."""
    model.zero_grad(set_to_none=True)
    loss = model.loss(tokens, tokens.roll(1, 1))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return {"loss": loss.detach(), **gradients}


def _model(spec: Spec, **settings: object) -> ComposedModel:
    model = ComposedModel(spec, **settings)  # type: ignore[arg-type]
    shake(model)
    return model


MODES: dict[str, Callable[[Plain], None]] = {
    "recomputation": check_recomputation,
    "accumulation": check_accumulation,
    "bf16 autocast": check_autocast,
    "torch.compile": check_regions,
    "other numbers of steps": check_other_steps,
}
"""Every way, by its name."""

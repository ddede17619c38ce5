"""What every model has to hold however it is trained: the ways of training, each against plain training."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.language.schema.row_steps import RowSteps
from composer.language.schema.spec import Spec
from composer.language.schema.steps import all_stages, with_steps
from composer.module.emission import regions
from composer.module.model import ComposedModel
from composer.testing.examples import Plain
from composer.testing.models import close, make, tokens_for

FAR = 1e-4
"""How far off a gradient may be that is added up in another order, as a share of its largest element."""

FAR_IN_BF16 = 0.2
"""How far off the loss may be under autocast to bf16, as a share of it."""


def check_recomputation(plain: Plain) -> None:
    """What runs again in the backward pass changes no bit of the loss and of the gradients."""
    spec = make(plain)
    kept, again = begun(spec), begun(spec, recompute=[*recomputable(compile_graph(spec))])
    tokens = tokens_for(spec)
    expected = trained(kept, tokens)
    for name, value in trained(again, tokens).items():
        assert torch.equal(value, expected[name]), f"{name} differs"


def check_accumulation(plain: Plain) -> None:
    """Two micro-batches add up to the gradients of the whole batch."""
    spec = make(plain)
    tokens = tokens_for(spec, 4)
    whole = trained(begun(spec), tokens)
    model = begun(spec)
    parts = []
    for number, rows in enumerate(tokens.chunk(2)):
        model.randomness.step, model.randomness.micro_batch = 0, number
        parts.append(trained(model, rows, first=2 * number))
    if not batch_wide(spec):
        close({name: torch.stack([part[name] for part in parts]).mean(0) for name in whole}, whole, FAR)


def check_autocast(plain: Plain) -> None:
    """Under autocast to bf16 the loss is that of fp32 up to its precision, and gradients are finite."""
    spec = make(plain)
    tokens = tokens_for(spec)
    expected = trained(begun(spec), tokens)["loss"]
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        # torch says that a norm with fp32 gains is not one kernel in bf16
        warnings.simplefilter("ignore", UserWarning)
        values = trained(begun(spec), tokens)
    assert all(each.isfinite().all() for each in values.values()), "a gradient is not finite"
    far = float((values["loss"] - expected).abs() / expected.abs())
    assert far <= FAR_IN_BF16, f"the loss is off by {far:.2g}"


def check_regions(plain: Plain) -> None:
    """Code that torch traces gives the same gradients; with a compiler that leaves it as it is."""
    spec = make(plain)
    tokens = tokens_for(spec)
    expected = trained(begun(spec), tokens)
    torch._dynamo.reset()
    eager = partial(torch.compile, backend="eager")
    with patch.object(regions.torch, "compile", eager), warnings.catch_warnings():  # type: ignore[attr-defined]
        warnings.simplefilter("ignore")  # dynamo warns of its own ways
        close(trained(begun(spec, torch_compile="on"), tokens), expected, FAR)


def check_other_steps(plain: Plain) -> None:
    """A model that runs another number of steps is one built with it, unless weights fix the number."""
    spec = make(plain)
    steps = {place: stage.trips + 2 for place, stage in all_stages(spec.stages).items() if stage.tied}
    model = begun(spec)
    try:
        model.set_steps(steps)
    except ValueError as error:
        if "the number of steps is fixed" in str(error):
            return
        raise
    built = begun(with_steps(spec, steps))
    built.load_state_dict(model.state_dict())
    tokens = tokens_for(spec)
    expected = trained(built, tokens, drawn=False)
    for name, value in trained(model, tokens, drawn=False).items():
        assert torch.equal(value, expected[name]), f"{name} differs"


def batch_wide(spec: Spec) -> bool:
    """Return whether the loss of a batch is not the mean of those of its parts, by what its blocks compute.

    Routing that compares tokens of a batch, and balance losses, are of each micro-batch and rank.
    """
    options = (option for stage in all_stages(spec.stages).values() for option in stage.wiring().values())
    return any(option.batch_wide() for option in options) or any(
        block.not_causal() or getattr(block, "balance_loss", 0) for block in spec.blocks.values()
    )


def trained(model: ComposedModel, tokens: Tensor, drawn: bool = True, first: int = 0) -> dict[str, Tensor]:
    """Return the loss and all gradients of one pass, by name.

    The numbers of steps are as training draws them for a batch with these rows from `first` on, or those of
    evaluation.
    """
    model.zero_grad(set_to_none=True)
    steps = {
        place: RowSteps(number, number.rows[first:]) if isinstance(number, RowSteps) else number
        for place, number in model.draw_steps(1, rows=first + len(tokens)).items()
    }
    loss = model.loss(tokens, tokens.roll(1, 1), steps or None if drawn else None)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return {"loss": loss.detach(), **gradients}


@torch.no_grad()
def begun(spec: Spec, **settings: Any) -> ComposedModel:
    """Return a model shortly after its start: no weight is 0 and hides others, and none makes it overflow."""
    model, draw = ComposedModel(spec, **settings), torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        spread = 0.1 * tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.1
        tensor.add_(spread * torch.randn(tensor.shape, generator=draw))
    return model


MODES: dict[str, Callable[[Plain], None]] = {
    "recomputation": check_recomputation,
    "accumulation": check_accumulation,
    "bf16 autocast": check_autocast,
    "torch.compile": check_regions,
    "other numbers of steps": check_other_steps,
}
"""Every way, by its name."""

EQUAL = {
    "recomputation": "the same loss and gradients, bit for bit",
    "accumulation": "the gradients of the whole batch",
    "bf16 autocast": "the loss of fp32 up to the precision of bf16; gradients are finite",
    "torch.compile": "the gradients of plain code; only what can be traced is compiled",
    "DDP": "the gradients of one process",
    "FSDP": "the gradients of one process",
}
"""What holds of every option in each way of training, except as below."""

EXCEPTIONS = (
    (
        "`balance_loss` of `expert_attention`, `loss` of `route: {by: token}`",
        "accumulation, DDP, FSDP",
        "is that of each micro-batch on each device",
    ),
    (
        "depth slots, routing by references, what takes the index of a step",
        "torch.compile",
        "runs as plain code",
    ),
    ("operations that are recomputed", "torch.compile", "run as plain code"),
)
"""What is otherwise: the options, the ways, and what they do."""

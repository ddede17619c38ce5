"""What every model has to hold, whatever it is made of. Each check takes a spec as plain data."""

from __future__ import annotations

from collections.abc import Callable
from math import isclose

import torch
from torch import Tensor

from blocks.ir.costs import CostContext
from blocks.ir.selected_tokens import OnSelectedTokens
from blocks.ir.walk import graphs, operations
from composer.costs.base.precision import BF16, FULL
from composer.costs.counting.plan import count
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.costs.memory.saved_tensors import saved_per_token
from composer.graph.compile import compile_graph
from composer.graph.passes.active_steps import costed
from composer.graph.passes.choose_kernels import Kernels
from composer.language.schema.steps import most_steps, with_steps
from composer.module.generates import decoder
from composer.module.generation.decoder import Decoder
from composer.module.model import ComposedModel
from composer.testing.examples import Plain
from composer.testing.flops import counted, declared
from composer.testing.memory import measured
from composer.testing.models import close, compiled, gradients, kept, make, tokens_for
from composer.testing.values import check_values

PEAK = 0.01
"""How far off the predicted peak of training memory may be."""


def check_causality(plain: Plain, kernels: Kernels = "auto") -> None:
    """No output depends on a later token or on another row."""
    model = compiled(plain, kernels).eval()
    # the first and the last row stay; in each row between them another token is changed
    tokens = tokens_for(model.spec, 9, 7)
    other = tokens.clone()
    for at in range(7):
        other[at + 1, at] = (other[at + 1, at] + 1) % 13
    with torch.no_grad():
        moved = (model(other) - model(tokens)).abs().amax(-1) > 1e-4
    assert not moved[[0, -1]].any(), "a row moves another"
    for at in range(7):
        assert not moved[at + 1, :at].any(), f"token {at} moves earlier outputs"


def check_passes_apart(plain: Plain) -> None:
    """A pass leaves nothing to the next, whatever its sizes."""
    model = compiled(plain).eval()
    tokens = tokens_for(model.spec, 2, 7)
    before = model(tokens)
    for batch, length in ((1, 1), (3, 5)):
        assert model(tokens_for(model.spec, batch, length)).isfinite().all()
    assert torch.equal(model(tokens), before), "the same pass again gives something else"


def check_sizes(plain: Plain) -> None:
    """One row alone, and one token alone, give what they give among others."""
    model = compiled(plain).eval()
    tokens = tokens_for(model.spec, 3, 7)
    with torch.no_grad():
        whole = model(tokens)
        for rows, length in ((1, 7), (3, 1), (1, 1)):
            part = {"outputs": whole[:rows, :length]}
            close({"outputs": model(tokens[:rows, :length])}, part, 1e-4)


def check_kernels(plain: Plain) -> None:
    """The chosen kernels give what the references give, in outputs and gradients, from the same weights."""
    chosen, reference = compiled(plain), compiled(plain, "reference", seed=1)
    reference.load_state_dict(chosen.state_dict())
    tokens = tokens_for(chosen.spec, 3, 7)
    close({"y": chosen(tokens)}, {"y": reference(tokens)})
    close(gradients(chosen, tokens), gradients(reference, tokens), 3e-4)


def check_values_made(plain: Plain) -> None:
    """Values have the declared shapes and precisions, in fp32 and under autocast; nobody writes inputs."""
    kinds: tuple[Kernels, ...] = ("auto", "reference")
    for kernels in kinds:
        model = compiled(plain, kernels)
        for mixed in (False, True):
            check_values(model, tokens_for(model.spec, 2, 7), mixed)


def check_generation(plain: Plain) -> None:
    """Tokens one by one have the logits that they have all at once, and what is kept is what is declared.

    An operation that does not say how it decodes is refused.
    """
    model = compiled(plain, "reference").double().eval()
    check_decoding(model, tokens_for(model.spec, 2, 7))


@torch.no_grad()
def check_decoding(model: ComposedModel, tokens: Tensor, tolerance: float = 1e-9) -> None:
    """Compare a model's logits token by token, after a prompt of one or of several, with those at once."""
    whole, length = model(tokens), tokens.shape[1]
    for prompt in dict.fromkeys((1, length // 2, length)):
        try:
            decode = decoder(model, length)
        except ValueError as error:
            if "token by token" in str(error):
                return
            raise
        parts = [tokens[:, :prompt], *(tokens[:, each : each + 1] for each in range(prompt, length))]
        logits = torch.stack([decode(part) for part in parts], 1)
        close({"logits": logits}, {"logits": whole[:, prompt - 1 :]}, tolerance)
        check_kept(model, decode, tokens)
    check_padding(model, tokens, tolerance)


@torch.no_grad()
def check_padding(model: ComposedModel, tokens: Tensor, tolerance: float = 1e-9) -> None:
    """Continue rows whose prompts have different padding at their end, and compare with rows without."""
    batch, length = tokens.shape
    prompt, rows = (length + 1) // 2, torch.arange(batch)
    padding = rows % prompt
    padded = torch.arange(prompt) >= prompt - padding[:, None]
    others = (tokens[:, :prompt] + 1) % model.spec.model.vocab
    decode, whole = decoder(model, length), model(tokens)
    decode.past.padding = padding
    decode(tokens[:, :prompt].where(~padded, others))
    for place in range(prompt, length):
        logits = decode(tokens[rows, place - padding][:, None])
        close({"logits": logits}, {"logits": whole[rows, place - padding]}, tolerance)


def check_kept(model: ComposedModel, decode: Decoder, tokens: Tensor) -> None:
    """What a decoder keeps of tokens is what their number costs, but for elements that were rounded up.

    Where steps choose tokens by a threshold the costs are those of the trained shares, and room is made for
    all tokens.
    """
    batch, length = tokens.shape
    sizes = model.spec.model.model_copy(update={"context": length})
    costs = count(model.spec.model_copy(update={"model": sizes, "train": None}))
    declared_size = most = keeping = 0
    for body, place in graphs(costed(costs.graph, length)):
        at = CostContext(length, place.trips)
        for _, operation, _ in operations(body):
            if own := operation.sequence_cache(at):
                inner = operation.inner if isinstance(operation, OnSelectedTokens) else operation
                declared_size += place.executions * own
                most += place.executions * inner.sequence_cache(at)
                keeping += place.executions
    assert costs.cache_bytes_per_token == 4 * declared_size
    stored = decode.past.nbytes // (batch * next(model.parameters()).element_size())
    rounded = most * length - stored
    assert 0 <= rounded <= (length - 1) * keeping, f"declared {most * length} elements, kept are {stored}"


def check_parameters(plain: Plain) -> None:
    """Declared parameters are built ones."""
    model = compiled(plain)
    built = sum(parameter.numel() for parameter in model.parameters())
    declared = model.plan.costs.params
    assert declared == built, f"declared {declared}, built {built}"


def check_flops(plain: Plain) -> None:
    """Declared FLOPs are those that torch counts, of matrix products, forward and backward."""
    spec = make(plain)
    for name, predicted, ran in zip(("forward", "backward"), declared(spec), counted(spec), strict=True):
        assert isclose(predicted, ran, rel_tol=1e-12), f"{name}: declared {predicted}, torch counts {ran}"


def check_saved(plain: Plain) -> None:
    """What is kept for the backward pass, for each token, is what is declared."""
    model = ComposedModel(make(plain))
    length = model.spec.model.context
    measured_bytes = (kept(model, 5) - kept(model, 2)) / (3 * length)
    predicted = saved_per_token(model.graph, length, FULL)
    assert isclose(predicted, measured_bytes, rel_tol=1e-12), (
        f"declared {predicted:g} bytes per token, kept are {measured_bytes:g}"
    )


def check_peak(plain: Plain) -> None:
    """The predicted peak of training memory is the measured one, within 1 %."""
    spec = make({**plain, "model": {**plain["model"], "context": 64}})
    most = with_steps(spec, most_steps(spec))
    predicted = Memory(compile_graph(most), Batch(16 * 64, 64, BF16), most.train).total
    measured_peak = measured(spec, 16, fake=False)
    far = predicted / measured_peak - 1
    assert abs(far) < PEAK, f"predicted {predicted} bytes, measured {measured_peak}: {100 * far:+.1f} %"


def check_gradients(plain: Plain) -> None:
    """Every weight gets a finite gradient, and one that is not 0 unless it cannot act at all."""
    model = compiled(plain, "reference").double()
    tokens = tokens_for(model.spec, 8, 8)
    for name, gradient in gradients(model, tokens).items():
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 1e-9 or not acts(model, name, tokens), f"{name} has no gradient"


@torch.no_grad()
def acts(model: ComposedModel, name: str, tokens: Tensor) -> bool:
    """Return whether a small change of a weight changes any output."""
    parameter = model.get_parameter(name)
    before, start = model(tokens), parameter.clone()
    # too little to choose other experts
    parameter.add_(1e-6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    moved = (model(tokens) - before).abs().max() > 1e-10
    parameter.copy_(start)
    return bool(moved)


MEANING: dict[str, Callable[[Plain], None]] = {
    "causality": check_causality,
    "causality of the references": lambda plain: check_causality(plain, "reference"),
    "nothing left between passes": check_passes_apart,
    "sizes of one": check_sizes,
    "kernels equal references": check_kernels,
    "shapes, precisions and inputs": check_values_made,
    "generation": check_generation,
    "gradients": check_gradients,
}
"""What is computed, by what a check is about."""

COSTS: dict[str, Callable[[Plain], None]] = {
    "parameters": check_parameters,
    "FLOPs": check_flops,
    "saved bytes": check_saved,
    "peak memory": check_peak,
}
"""What it costs."""

"""Small models to check: compiled from plain data, with random weights; what they compute and keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from composer.graph.passes.choose_kernels import Kernels
from composer.language.load import loads
from composer.language.schema.spec import Spec
from composer.module.model import ComposedModel
from composer.testing.choices import deciding_as


def make(tree: Mapping[str, Any]) -> Spec:
    """Load a spec from plain data, through its text."""
    return loads(json.dumps(tree))


def compiled(tree: Mapping[str, Any] | Spec, kernels: Kernels = "auto", seed: int = 0) -> ComposedModel:
    """Compile plain data or a spec; every weight and state is random."""
    model = ComposedModel(tree if isinstance(tree, Spec) else make(tree), kernels)
    shake(model, seed)
    return model


@torch.no_grad()
def shake(model: torch.nn.Module, seed: int = 0) -> None:
    """Make every weight and saved state random, so that none is at a value that hides it."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        spread = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.5
        tensor.copy_(spread * torch.randn(tensor.shape, generator=draw) + name.endswith("norm"))


def tokens_for(spec: Spec, batch: int = 2, length: int | None = None, seed: int = 0) -> Tensor:
    """Return random tokens [batch, length], by default as many as the context."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(spec.model.vocab, (batch, length or spec.model.context), generator=draw)


def probe(y: Tensor, seed: int = 0) -> Tensor:
    """Return a fixed random weighting of an output, to take gradients of a scalar."""
    draw = torch.Generator().manual_seed(seed)
    return (y * torch.randn(y.shape, generator=draw).to(y)).sum()


def gradients(model: torch.nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a probe of the logits, by name; zero where there is none."""
    model.zero_grad(set_to_none=True)
    probe(model(tokens)).backward()  # type: ignore[no-untyped-call]
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def kept(model: ComposedModel, batch: int, device: str = "cpu") -> int:
    """Return the bytes of all storages that the backward pass of a loss keeps, weights apart."""
    tokens = tokens_for(model.spec, batch).to(device)
    with deciding_as(model.spec, "most"):
        return kept_of(lambda: model.loss(tokens, tokens.clone()), model.parameters())


def kept_of(run: Callable[[], object], apart: Iterable[Tensor]) -> int:
    """Return the bytes of all storages that the backward pass of a run keeps, some tensors' apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in apart}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = run()
    del made
    return sum(storage.nbytes() for storage in storages.values())


def close(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-5) -> None:
    """Assert that two mappings of tensors agree to `tolerance` of the largest element.

    The largest is each tensor's own, but at least a hundredth of that of all: what is 0 in exact arithmetic
    is noise.
    """
    assert got.keys() == expected.keys()
    largest = {name: float(tensor.detach().abs().max()) for name, tensor in expected.items()}
    floor = max(largest.values()) / 100
    for name, tensor in got.items():
        far = float((tensor - expected[name]).detach().abs().max()) / max(largest[name], floor)
        assert far <= tolerance, f"{name}: off by {far:.2g} of its largest element"

"""Small helpers for tests that run models."""

from pathlib import Path

import torch
from strategies import make

import composer


def compiled(tree, kernels="auto", shaken=0):
    """Compile plain data or a Spec; every weight and state random, unless `shaken` is None."""
    model = composer.compile(make(tree) if isinstance(tree, dict) else tree, kernels)
    if shaken is not None:
        shake(model, shaken)
    return model


@torch.no_grad()
def shake(model, seed=0):
    """Make every weight and saved state random, so that none is at a value that hides it."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        spread = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.5
        tensor.copy_(spread * torch.randn(tensor.shape, generator=draw) + name.endswith("norm"))


def tokens_for(spec, batch=2, length=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(spec.model.vocab, (batch, length or spec.model.context), generator=draw)


def probe(y, seed=0):
    """A fixed random weighting of an output, to take gradients of a scalar."""
    draw = torch.Generator().manual_seed(seed)
    return (y * torch.randn(y.shape, generator=draw).to(y)).sum()


def gradients(model, tokens):
    """The gradients of a probe of the logits, by name; zero where there is none."""
    model.zero_grad(set_to_none=True)
    probe(model(tokens)).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def kept(model, batch, device="cpu"):
    """Return the bytes of all storages that the backward pass of a loss keeps, weights apart."""
    tokens = tokens_for(model.spec, batch).to(device)
    return kept_of(lambda: model.loss(tokens, tokens.clone()), model.parameters())


def kept_of(run, apart):
    """Return the bytes of all storages that the backward pass of a run keeps, some tensors' apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in apart}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = run()
    del made
    return sum(storage.nbytes() for storage in storages.values())


def close(got, expected, tolerance=1e-5):
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


def shipped():
    """Map the name of every shipped spec (not spaces) to it."""
    files = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
    specs = (file for file in files if "\nsearch:" not in file.read_text(encoding="utf-8"))
    return {file.stem: composer.load(file) for file in specs}


def shortened(spec, context):
    """The same architecture at a shorter context, without training."""
    model = spec.model.model_copy(update={"context": min(context, spec.model.context)})
    return spec.model_copy(update={"model": model, "train": None})
